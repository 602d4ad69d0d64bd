"""The house rules: who may import whom, one direction only, and nothing heavy unasked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import synckit_notify

PACKAGE = Path(synckit_notify.__file__).parent
STANDARD = frozenset(sys.stdlib_module_names)

# Room: the rooms and the foreign packages it may import. A folder is one room.
MAY_IMPORT = {
    "__init__": {"errors", "extension", "tokens"},
    "errors": set(),
    "sse": set(),
    "native": set(),
    "counts": set(),
    "logs": set(),
    "guard": {"gunicorn"},
    "process": set(),
    "periodic": {"logs"},
    "channel": {"counts"},
    "registry": {"channel", "errors", "sse", "counts"},
    "peer": {"native", "channel", "registry", "stream"},
    "repair": {"errors", "logs", "channel", "registry"},
    "parking": {"native", "process", "peer", "periodic", "channel", "registry", "stream"},
    "metrics": {"brokers", "counts", "process", "prometheus_client"},
    "stream": {"sse", "channel", "registry"},
    "tokens": {"errors", "jwt"},
    "brokers": {"errors", "logs", "redis"},
    "settings": {"errors", "tokens", "brokers"},
    "cors": {"flask"},
    "worker": {
        *(
            "brokers",
            "logs",
            "metrics",
            "parking",
            "peer",
            "periodic",
            "process",
            "channel",
            "registry",
            "repair",
            "stream",
        ),
    },
    "service": {
        *(
            "errors",
            "logs",
            "settings",
            "brokers",
            "metrics",
            "parking",
            "process",
            "channel",
            "registry",
            "tokens",
            "worker",
        ),
        "flask",
    },
    "blueprint": {
        *(
            "errors",
            "logs",
            "metrics",
            "parking",
            "peer",
            "channel",
            "registry",
            "service",
            "stream",
            "tokens",
            "worker",
        ),
        "flask",
    },
    "extension": {"blueprint", "brokers", "cors", "errors", "service", "tokens", "flask"},
    "testing": {"sse", "blueprint", "extension", "service", "stream", "flask", "werkzeug"},
    "client": {"errors", "sse", "httpx2", "nacl", "argon2", "click"},
    "backend": {
        *("synckit_notify", "native", "errors", "settings", "cors"),
        *("flask", "werkzeug", "itsdangerous", "markupsafe", "sqlalchemy", "psycopg", "authlib"),
        *("flask_limiter", "limits", "redis"),
        *("argon2", "click", "jwt"),
    },
}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    inside = file.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports_of(file: Path) -> set[str]:
    """The rooms and foreign packages that a file imports, its own room and the standard library left out."""
    depth = len(file.relative_to(PACKAGE).parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level in (0, depth):
            module = str(node.module or "")
            inside = node.level == depth or module.split(".")[0] == "synckit_notify"
            found |= rooms_in(module.removeprefix("synckit_notify"), node.names) if inside else {module.split(".")[0]}
    return {name for name in found if name not in STANDARD} - {room_of(file)}


def rooms_in(module: str, names: list[ast.alias]) -> set[str]:
    """The rooms that `from <package><module> import <names>` enters; a public name counts as the front door."""
    if module:
        return {module.strip(".").split(".")[0]}
    rooms = {room_of(file) for file in FILES}
    return {alias.name if alias.name in rooms else "synckit_notify" for alias in names}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    assert imports_of(file) <= MAY_IMPORT[room_of(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_opens_with_its_plan_and_is_no_longer_than_350_lines(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("synckit_notify", {"flask", "gevent", "sqlalchemy"}),
        ("synckit_notify.native", {"flask", "gevent"}),
        ("synckit_notify.stream", {"flask", "gevent", "gunicorn"}),
        ("synckit_notify.extension", {"gevent", "gunicorn", "sqlalchemy", "redis"}),
        ("synckit_notify.backend", {"gevent", "gunicorn", "psycopg"}),
    ],
)
def test_importing_brings_nothing_heavy_unasked(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert not unwanted & set(loaded.stdout.split())


def test_the_sdk_works_where_no_server_package_is_installed() -> None:
    blocked = ("flask", "werkzeug", "gevent", "gunicorn", "sqlalchemy", "jwt")
    code = f"import sys; sys.modules |= dict.fromkeys({blocked!r}); import synckit_notify.client.command"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_the_exported_names_all_exist() -> None:
    assert all(getattr(synckit_notify, name) for name in synckit_notify.__all__)
    with pytest.raises(AttributeError):
        synckit_notify.nothing_of_the_kind  # noqa: B018
