"""The built wheel works without the clone: the tests pass with it in an environment and a folder of their own.

source ── pip wheel ──▶ wheel ── pip install, with the extra `test` ──▶ venv ──▶ tests, in a folder without the package
"""

import email
import os
import re
import subprocess
import sys
import venv
import zipfile
from configparser import ConfigParser
from email.message import Message
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import NoReturn

import pytest

from .support.server import ROOT, clean_environment

pytestmark = pytest.mark.thorough

PACKAGE = ROOT / "synckit_notify"
BUILT_FROM = ("setup.cfg", "pyproject.toml", "README.md", "synckit_notify")
LEFT_OUT = ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "instance", "results")

TELLING = (
    *("test_rooms.py", "test_mounting.py", "test_settings.py", "test_metrics.py"),
    *("test_documentation.py", "test_documented_protocol.py"),
    *("backend/test_pages.py", "backend/test_service.py", "backend/test_commands.py", "client/test_login.py"),
)
"""Every extra, the commands, the pages with their templates, the SDK; in a minute."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders behind, and the next one takes old files out of them."""
    if not PACKAGE.exists():
        pytest.skip("needs the clone, and runs without it")
    folder = tmp_path_factory.mktemp("wheel")
    copy(folder / "source", *BUILT_FROM)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "source"))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A Python with the wheel, and a folder with all of the clone but the package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    pip(python, "install", f"{wheel}[test]")
    beside = [path.name for path in ROOT.iterdir() if path != PACKAGE and not path.name.startswith(".")]
    copy(folder / "clone", *beside)
    return python, folder / "clone"


def copy(folder: Path, *names: str) -> None:
    """Copy files and folders of the clone."""
    folder.mkdir()
    for name in set(names) - LEFT_OUT(str(ROOT), list(names)):
        source = ROOT / name
        if source.is_dir():
            copytree(source, folder / name, ignore=LEFT_OUT)
        else:
            (folder / name).write_bytes(source.read_bytes())


def pip(python: str, *words: str) -> None:
    """Run pip; without an index to ask the test is skipped by that name, and fails under CI."""
    asked = subprocess.run([python, "-m", "pip", "-q", *words], capture_output=True, text=True)
    if asked.returncode != 0 and re.search("No matching distribution|Could not fetch|connection", asked.stderr):
        missing()
    assert asked.returncode == 0, asked.stderr


def missing() -> NoReturn:
    """As `need` does for a program."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs a package index")


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("/METADATA")]
        return email.message_from_bytes(opened.read(name))


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = {str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*") if file.is_file()}
    with zipfile.ZipFile(wheel) as opened:
        packed = set(opened.namelist())
    assert {file for file in files if "__pycache__" not in file} <= packed


def test_the_wheel_holds_nothing_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        tops = {name.split("/")[0] for name in opened.namelist()}
    assert {re.sub(r"-[\d.]+\.", ".", top) for top in tops} == {"synckit_notify", "synckit_notify.dist-info"}


def test_its_page_in_an_index_is_the_readme_and_names_every_extra(wheel: Path) -> None:
    told, setup = metadata(wheel), ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert told["Description-Content-Type"] == "text/markdown"
    page = told.get_payload(decode=True)
    assert isinstance(page, bytes)
    assert page.decode().strip() == (ROOT / "README.md").read_text().strip()
    assert told.get_all("Provides-Extra") == list(setup["options.extras_require"])


def test_the_tests_pass_from_a_folder_without_the_package(elsewhere: tuple[str, Path]) -> None:
    python, folder = elsewhere
    assert not (folder / "synckit_notify").exists()
    where = "import synckit_notify; print(synckit_notify.__file__)"
    home = subprocess.run([python, "-c", where], cwd=folder, capture_output=True, text=True, env=clean_environment())
    assert "/site-packages/synckit_notify/" in home.stdout
    tests = [f"tests/{name}" for name in TELLING]
    command = [python, "-m", "pytest", "-q", "-n", "2", *tests]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stdout[-8000:]
