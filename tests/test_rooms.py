"""The import rules: which module may import which, in one direction and without a circle, and nothing heavy unasked."""

import ast
import importlib.metadata
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import synckit_notify

PACKAGE = Path(synckit_notify.__file__).parent
STANDARD = frozenset(sys.stdlib_module_names)

# Room: the rooms and the foreign packages it may import. A folder is one room, but for a file of it that is listed.
MAY_IMPORT: dict[str, set[str]] = {
    "sse": set(),
    "runtime": set(),
    "client/errors": set(),
    "errors": {"werkzeug"},
    "streams": {"errors", "sse", "runtime"},
    "brokers": {"errors", "runtime", "redis", "psycopg"},
    "signatures": {"errors", "jwt"},
    "tokens": {"errors", "signatures"},
    "provider_keys": {"errors", "runtime", "jwt", "cryptography"},
    "setting_names": set(),
    "settings": {
        *("errors", "signatures", "tokens", "provider_keys", "brokers", "runtime"),
        "setting_names",
    },
    "cors": {"flask"},
    "listeners_first": {"runtime", "flask"},
    "gunicorn_hooks": {"runtime", "gunicorn"},
    "metrics": {"brokers", "streams", "runtime", "prometheus_client"},
    "hooks": {"errors", "runtime", "streams", "tokens", "flask", "werkzeug", "jwt"},
    "node": {"brokers", "errors", "metrics", "runtime", "streams"},
    "app_state": {"brokers", "errors", "hooks", "metrics", "node", "runtime", "settings", "streams", "tokens", "flask"},
    "blueprint": {
        *("app_state", "errors", "metrics", "node", "runtime", "streams", "tokens"),
        "blinker",
        "flask",
        "werkzeug",
    },
    "host_doctor": {"app_state", "brokers", "errors", "streams", "tokens"},
    "command_output": {"click"},
    "host_commands": {"app_state", "brokers", "command_output", "host_doctor", "click", "flask"},
    "extension": {
        *("app_state", "blueprint", "brokers", "cors", "errors", "hooks", "host_commands", "listeners_first", "node"),
        *("tokens", "flask"),
    },
    "testing": {"app_state", "blueprint", "extension", "sse", "streams", "flask", "werkzeug"},
    "__init__": {"errors", "extension", "tokens"},
    "client": {"runtime", "sse", "httpx2", "nacl", "argon2", "keyring"},
    "doctor": {"client", "client/errors", "sse", "httpx2", "click"},
    "cli": {"client", "client/errors", "command_output", "doctor", "sse", "click"},
    "__main__": {"cli"},
    "backend": {
        *("synckit_notify", "command_output", "errors", "settings", "cors", "runtime"),
        *("flask", "werkzeug", "itsdangerous", "markupsafe", "sqlalchemy", "psycopg", "authlib"),
        *("limits", "redis"),
        *("argon2", "click", "jwt"),
    },
}

ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TEST_FILES = sorted(file for folder in ("tests", "benchmarks") for file in (ROOT / folder).rglob("*.py"))


def name_of(file: Path) -> str:
    """Return the dotted name of a module; a package is its `__init__`."""
    return ".".join(("synckit_notify", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(file): file for file in FILES}


def room_of(file: Path) -> str:
    inside = file.relative_to(PACKAGE).with_suffix("")
    return str(inside) if str(inside) in MAY_IMPORT else inside.parts[0]


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imported_names(file: Path) -> set[str]:
    """Return the dotted names that a file imports, of modules and of what is in them; relative ones made absolute."""
    package = file.relative_to(ROOT).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = [*(package[: len(package) - node.level + 1] if node.level else ()), *filter(None, [node.module])]
            found |= {".".join([*parts, alias.name]) for alias in node.names}
    return found


def imports_of(file: Path) -> set[str]:
    """Return what a file imports: modules of ours by their dotted names, foreign ones by their top package."""
    return {module_of(name) for name in imported_names(file)}


def module_of(name: str) -> str:
    """Return the module of ours that a dotted name is in, or its top package."""
    while "." in name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def rooms_of(file: Path) -> set[str]:
    """Return the rooms and foreign packages that a file imports, without its own room and the standard library."""
    rooms = {room_of(MODULES[name]) if name in MODULES else name for name in imports_of(file)} - STANDARD
    return {"synckit_notify" if room == "__init__" else room for room in rooms} - {room_of(file)}


def test_a_room_imports_only_what_it_may() -> None:
    wrong = {}
    for file in FILES:
        may = MAY_IMPORT[room_of(file)]
        also = {"client/errors"} if "client" in (room_of(file), *may) else set()
        wrong[name_of(file)] = rooms_of(file) - may - also
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_no_file_imports_itself_through_others() -> None:
    sorter = TopologicalSorter({name: imports_of(file) & MODULES.keys() - {name} for name, file in MODULES.items()})
    assert len(list(sorter.static_order())) == len(MODULES)


def test_no_room_imports_a_room_that_imports_it() -> None:
    rooms: dict[str, set[str]] = {}
    for file in FILES:
        rooms.setdefault(room_of(file), set()).update(rooms_of(file) & MAY_IMPORT.keys())
    list(TopologicalSorter(rooms).static_order())


def test_tests_and_benchmarks_share_helpers_through_tests_support_alone() -> None:
    wrong = {}
    for file in TEST_FILES:
        parts = {part for name in imported_names(file) for part in name.split(".")}
        refused = {part for part in parts if part.startswith("test_") or part == "conftest"}
        if (ROOT / "benchmarks") not in file.parents and (ROOT / "tests/benchmarks") not in file.parents:
            refused |= parts & {"benchmarks"}
        wrong[str(file.relative_to(ROOT))] = refused
    assert {name: refused for name, refused in wrong.items() if refused} == {}


def test_a_file_opens_with_its_plan() -> None:
    assert [str(file) for file in FILES if not ast.get_docstring(parsed(file))] == []


def test_no_file_is_longer_than_350_lines() -> None:
    assert [str(file) for file in FILES if len(file.read_text().splitlines()) > 350] == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("synckit_notify", {"flask", "gevent", "sqlalchemy"}),
        ("synckit_notify.runtime.gevent_compat", {"flask", "gevent"}),
        ("synckit_notify.streams.stream", {"flask", "gevent", "gunicorn"}),
        ("synckit_notify.extension", {"gevent", "gunicorn", "sqlalchemy", "redis", "psycopg"}),
        ("synckit_notify.backend", {"gevent", "gunicorn", "psycopg"}),
    ],
)
def test_importing_brings_nothing_heavy_unasked(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not unwanted & set(loaded.stdout.split())


def test_the_sdk_works_where_no_server_package_is_installed() -> None:
    blocked = ("flask", "werkzeug", "gevent", "gunicorn", "sqlalchemy", "jwt")
    code = f"import sys; sys.modules |= dict.fromkeys({blocked!r}); import synckit_notify.cli"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_version_is_that_of_the_package_and_of_the_command() -> None:
    version = importlib.metadata.version("synckit-notify")
    assert synckit_notify.__version__ == version
    said = subprocess.run(
        [sys.executable, "-m", "synckit_notify", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert said.stdout == f"synckit, version {version}\n"


def test_the_exported_names_all_exist() -> None:
    assert all(getattr(synckit_notify, name) for name in synckit_notify.__all__)
    with pytest.raises(AttributeError):
        synckit_notify.nothing_of_the_kind  # noqa: B018
