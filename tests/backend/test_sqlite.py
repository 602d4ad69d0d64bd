"""SQLite: concurrent starts, a start during a write, and files that are not databases."""

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from synckit_notify import ConfigurationError
from synckit_notify.backend import create_app

from ..support.backend import run_python, settings
from ..support.tokens import KEY

START_SIX_TIMES = """
import sys, time
from pathlib import Path
from synckit_notify.backend import create_app
while not Path("go").exists():
    time.sleep(0.001)
for number in range(6):
    app = create_app(instance_path=Path(str(number)).absolute())
    print(app.config["SYNCKIT_JWT_KEY"])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a database file that does not exist."""
    return tmp_path / "some.db"


@pytest.mark.thorough
def test_several_processes_starting_at_once_make_one_database_and_one_key(tmp_path: Path) -> None:
    processes = [run_python(START_SIX_TIMES, tmp_path) for _ in range(4)]
    (tmp_path / "go").touch()
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    (keys,) = answers
    assert len(set(keys.split())) == 6
    for number in range(6):
        with contextlib.closing(sqlite3.connect(tmp_path / str(number) / "synckit.db")) as connection, connection:
            assert connection.execute("SELECT count(*) FROM meta").fetchone() == (1,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


def test_a_start_waits_for_another_one_that_holds_the_new_file(file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    done.start()
    create_app(settings(f"sqlite:///{file}"))
    done.join()
    other.close()


def test_starting_leaves_nothing_open(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=folder)
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in opened if str(folder) in name]


def test_a_file_that_is_not_a_database_is_refused(file: Path) -> None:
    file.write_text("this is a text " * 100)
    with pytest.raises(ConfigurationError, match="SYNCKIT_DATABASE_URL: the database cannot be used: file is not a"):
        create_app(settings(f"sqlite:///{file}"))
