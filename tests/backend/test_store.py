"""The database: made once however many start, whole transactions only, and honest when it is busy."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Connection, func, select

from synckit_notify import ConfigurationError
from synckit_notify.backend import Backend, create_app, schema, store
from synckit_notify.backend.store import Busy, Store

from ..conftest import KEY
from ..server import ROOT, clean_environment
from .conftest import Caller

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

KILL_A_WRITER = """
from gevent import monkey
monkey.patch_all()
import gevent
from sqlalchemy import text
from synckit_notify.backend.store import Store

sleep = monkey.get_original("time", "sleep")
store = Store("sqlite:///killed.db")
store.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")) and None)

def slow(connection):
    connection.execute(text("INSERT INTO t VALUES (1)"))
    sleep(0.2)
    connection.execute(text("INSERT INTO t VALUES (2)"))

writer = gevent.spawn(store.write, slow)
gevent.sleep(0.1)
writer.kill()
for _ in range(3):
    store.write(lambda connection: connection.execute(text("INSERT INTO t VALUES (3)")) and None)
print(*store.read(lambda connection: connection.execute(text("SELECT n FROM t ORDER BY n")).scalars().all()))
"""


def run(code: str, folder: Path) -> subprocess.Popen[str]:
    env = clean_environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a database may be."""
    return tmp_path / "some.db"


@pytest.fixture
def lock(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another program holds the database's write lock, and nobody is patient."""
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(Path(app.instance_path) / "synckit.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


def test_several_processes_starting_at_once_make_one_database_and_one_key(tmp_path: Path) -> None:
    processes = [run(START_SIX_TIMES, tmp_path) for _ in range(4)]
    (tmp_path / "go").touch()
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    (keys,) = answers
    assert len(set(keys.split())) == 6
    for number in range(6):
        with sqlite3.connect(tmp_path / str(number) / "synckit.db") as connection:
            assert connection.execute("SELECT count(*) FROM meta").fetchone() == (1,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


def test_a_start_waits_for_another_one_that_holds_the_new_file(file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    done.start()
    create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{file}"})
    done.join()
    other.close()


def test_starting_leaves_nothing_open(app: Flask) -> None:
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in opened if app.instance_path in name]


def test_starting_again_keeps_what_is_stored(alice: Caller, make_app: Callable[..., Flask]) -> None:
    laptop = alice.register()
    alice.push(laptop)
    headers = alice.headers
    assert make_app().test_client().get("/api/sync/status", headers=headers).get_json()["cursor"] == 1


def test_a_database_of_another_version_is_refused_with_one_sentence(file: Path) -> None:
    config = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{file}"}
    create_app(config)
    database = Store(f"sqlite:///{file}")
    database.write(lambda connection: connection.execute(schema.meta.update().values(schema_version=0)) and None)
    database.dispose()
    with pytest.raises(ConfigurationError, match=f"schema version 0, this release knows only {schema.SCHEMA_VERSION}"):
        create_app(config)


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    file.write_text("this is a text " * 100)
    with pytest.raises(ConfigurationError, match="SYNCKIT_DATABASE_URL: the database cannot be used: file is not a"):
        create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{file}"})


def test_a_database_of_another_program_is_left_as_it_was(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE users (id)")
    with pytest.raises(ConfigurationError, match="table users already exists"):
        create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{file}"})
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    connection.close()


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "nonsense", "postgresql://u:secret@host/db", "sqlite+aiosqlite:///x"]
)
def test_a_url_that_cannot_work_is_refused_by_its_name_and_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_DATABASE_URL") as refusal:
        Store(url)
    assert "secret" not in str(refusal.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unable to open database file"):
        create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{tmp_path}/no/where.db"})


def test_a_locked_database_is_503_for_a_push_while_pulls_go_on(alice: Caller, lock: None, app: Flask) -> None:
    response = app.test_client().post(
        "/api/sync/devices", json={"device_name": "d", "platform": "linux"}, headers=alice.headers
    )
    assert (response.status_code, response.get_json()) == (503, {"error": "the server is busy, try again"})
    assert 1 <= int(response.headers["Retry-After"]) <= 5
    assert alice.get("/status")[0] == 200


def test_a_restart_does_not_wait_for_a_locked_database(lock: None, make_app: Callable[..., Flask]) -> None:
    assert make_app().test_client().get("/api/sync/ready").status_code == 200


def test_a_writer_whose_turn_does_not_come_is_told_so(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "QUEUE_SECONDS", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    def wait(connection: Connection) -> None:
        inside.set()
        go_on.wait(5)

    first = threading.Thread(target=backend.store.write, args=(wait,))
    first.start()
    inside.wait(5)
    with pytest.raises(Busy):
        backend.store.write(lambda connection: None)
    go_on.set()
    first.join()
    backend.store.write(lambda connection: None)


def test_what_fails_leaves_nothing_behind(backend: Backend) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(schema.heads.insert().values(app_id="a", user_id="u", seq=1, changed_at=1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backend.store.write(fail)
    count = select(func.count()).select_from(schema.heads)
    assert backend.store.read(lambda connection: connection.execute(count).scalar()) == 0


def test_a_killed_greenlet_leaves_its_transaction_whole(tmp_path: Path) -> None:
    process = run(KILL_A_WRITER, tmp_path)
    assert process.communicate(timeout=20)[0] == "1 2 3 3 3\n"
