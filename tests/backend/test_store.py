"""The database, of either kind: refused if it is not ours, whole transactions only, and honest when it is busy."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Connection, func, select, text

from synckit_notify import ConfigurationError
from synckit_notify.backend import Backend, accounts, changelog, create_app
from synckit_notify.backend.changelog import Change, Query
from synckit_notify.backend.database import postgres, schema, sqlite, store
from synckit_notify.backend.database.store import Busy, Store

from ..conftest import KEY
from ..server import ROOT, clean_environment
from .conftest import Caller

MIB = 2**20

KILL_A_WRITER = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from sqlalchemy import text
from synckit_notify.backend.database.store import Store

store = Store(sys.argv[1])
sleep = monkey.get_original("time", "sleep")
store.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")) and None)

def slow(connection):
    connection.execute(text("INSERT INTO t VALUES (1)"))
    if connection.dialect.name == "sqlite":
        sleep(0.2)
    else:
        connection.execute(text("SELECT pg_sleep(0.2)"))
    connection.execute(text("INSERT INTO t VALUES (2)"))

writer = gevent.spawn(store.write, slow)
gevent.sleep(0.1)
writer.kill()
for _ in range(6):
    store.write(lambda connection: connection.execute(text("INSERT INTO t VALUES (3)")) and None)
print(*store.read(lambda connection: connection.execute(text("SELECT n FROM t ORDER BY n")).scalars().all()))
"""


@pytest.fixture
def url(database: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table, to which nobody is connected."""
    return request.getfixturevalue("bare") if database else f"sqlite:///{tmp_path}/some.db"


@pytest.fixture
def lock(app: Flask, database: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody else, in another process as it were, writes to the table of devices, and nobody is patient."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "WRITE", ["BEGIN; SET LOCAL lock_timeout = '50ms'"])
    inside, go_on = threading.Event(), threading.Event()

    def write(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE devices IN SHARE ROW EXCLUSIVE MODE"))
        inside.set()
        go_on.wait(10)

    other = Store(database.get("SYNCKIT_DATABASE_URL", f"sqlite:///{app.instance_path}/synckit.db"))
    writing = threading.Thread(target=other.write, args=(write,))
    writing.start()
    inside.wait(10)
    yield
    go_on.set()
    writing.join()
    other.dispose()


def settings(url: str) -> dict[str, str]:
    return {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": url}


def execute(url: str, statement: str) -> None:
    database = Store(url)
    database.write(lambda connection: connection.execute(text(statement)) and None)
    database.dispose()


def tables(url: str) -> list[str]:
    database = Store(url)
    found = database.read(lambda connection: schema.inspect(connection).get_table_names())
    database.dispose()
    return found


def run(code: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    env = clean_environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )


def test_starting_again_keeps_what_is_stored(alice: Caller, make_app: Callable[..., Flask]) -> None:
    laptop = alice.register()
    alice.push(laptop)
    headers = alice.headers
    assert make_app().test_client().get("/api/sync/status", headers=headers).get_json()["cursor"] == 1


def test_a_database_of_the_release_before_gets_what_is_new_and_keeps_what_it_has(url: str) -> None:
    create_app(settings(url))
    execute(url, "DROP TABLE roll_calls")
    execute(url, "UPDATE meta SET schema_version = 2, epoch = 'kept'")
    create_app(settings(url))
    assert set(tables(url)) == set(schema.metadata.tables)
    database = Store(url)
    row = database.read(lambda connection: connection.execute(schema.meta.select()).one())
    database.dispose()
    assert (row.schema_version, row.epoch) == (schema.SCHEMA_VERSION, "kept")


class TestADatabaseThatIsRefused:
    def test_is_only_a_part_of_an_older_one(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DROP TABLE pushes")
        execute(url, "UPDATE meta SET schema_version = 2")
        with pytest.raises(ConfigurationError, match="lacks tables: pushes"):
            create_app(settings(url))

    @pytest.mark.parametrize("version", [0, schema.SCHEMA_VERSION + 1])
    def test_has_another_version(self, url: str, version: int) -> None:
        create_app(settings(url))
        execute(url, f"UPDATE meta SET schema_version = {version}")
        words = f"schema version {version}, this release knows only {schema.SCHEMA_VERSION}; run the release that made"
        with pytest.raises(ConfigurationError, match=words):
            create_app(settings(url))

    def test_belongs_to_another_program_and_is_left_as_it_was(self, url: str) -> None:
        execute(url, "CREATE TABLE users (id INTEGER)")
        with pytest.raises(ConfigurationError, match="holds tables of another program: users; name an empty one"):
            create_app(settings(url))
        assert tables(url) == ["users"]

    def test_belongs_to_another_program_that_calls_a_table_meta_too(self, url: str) -> None:
        execute(url, "CREATE TABLE meta (id INTEGER)")
        with pytest.raises(ConfigurationError, match="holds tables of another program: meta"):
            create_app(settings(url))
        assert tables(url) == ["meta"]

    def test_is_only_a_part(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DROP TABLE pushes")
        with pytest.raises(ConfigurationError, match="lacks tables: pushes; restore a whole backup, or name another"):
            create_app(settings(url))

    def test_lost_its_version(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DELETE FROM meta")
        with pytest.raises(ConfigurationError, match="has schema version None, this release knows only"):
            create_app(settings(url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///x", "mysql://u:secret@host/db"),
        *("postgresql+psycopg2://u:secret@host/db", "postgresql://u:secret@host:port/db"),
    ],
)
def test_a_url_that_cannot_work_is_refused_by_its_name_and_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_DATABASE_URL") as refusal:
        Store(url)
    assert "secret" not in str(refusal.value)


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
    monkeypatch.setattr(postgres, "WRITERS", 1)
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


def test_a_read_sees_one_snapshot_whatever_is_written_meanwhile(alice: Caller, backend: Backend) -> None:
    laptop = alice.register()
    alice.push(laptop)

    def read(connection: Connection) -> tuple[int, list[int]]:
        head, _ = changelog.status(connection, "notes", "alice")
        alice.push(laptop)
        page = changelog.pull(connection, "notes", "alice", laptop, Query(cursor=0))
        return head, [row.seq for row in page.rows]

    assert backend.store.read(read) == (1, [1])
    assert alice.get("/status")[1]["cursor"] == 2


def test_work_that_is_done_alone_waits_for_other_work_that_is(backend: Backend) -> None:
    """Otherwise two workers on an empty database would both find it empty, and both offer a demo."""
    inside, entered = threading.Event(), []

    def work(connection: Connection) -> None:
        entered.append("begins")
        inside.set()
        threading.Event().wait(0.05)
        entered.append("ends")

    others = [threading.Thread(target=backend.store.write_alone, args=(work,)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert entered == ["begins", "ends"] * 3


def test_a_killed_greenlet_leaves_its_transaction_whole(url: str, tmp_path: Path) -> None:
    """SQLite's native thread completes it, PostgreSQL rolls it back; and its connection is no longer used."""
    found = run(KILL_A_WRITER, tmp_path, url).communicate(timeout=20)[0]
    assert found == ("1 2 3 3 3 3 3 3\n" if url.startswith("sqlite") else "3 3 3 3 3 3\n")


def test_the_sweep_finds_what_has_changed_by_an_index(backend: Backend) -> None:
    def explain(connection: Connection) -> str:
        rows = [{"app_id": "notes", "user_id": str(n), "seq": 1, "changed_at": n} for n in range(2000)]
        connection.execute(schema.heads.insert(), rows)
        connection.execute(text("ANALYZE"))
        words = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        query = "SELECT app_id, user_id, changed_at FROM heads WHERE changed_at >= 1990"
        return str(connection.execute(text(f"{words} {query}")).all())

    assert "ix_heads_changed_at" in backend.store.write(explain)


def test_a_page_of_the_largest_changes_is_not_in_memory_at_once(backend: Backend) -> None:
    largest = [Change("tasks", "INSERT", "1", "2026-01-31T12:00:00Z", "x" * 262_144)] * 31
    device = backend.store.write(
        lambda connection: accounts.register_device(
            connection, "notes", "alice", name="d", platform="linux", installation_id=None
        )
    )
    for _ in range(4):
        backend.store.write(lambda connection: changelog.push(connection, "notes", "alice", device.id, largest, None))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmHWM")
    page = backend.store.read(
        lambda connection: changelog.pull(connection, "notes", "alice", device.id, Query(cursor=0))
    )
    assert (len(page.rows), page.has_more) == (4, True)
    assert memory("VmHWM") - before < 24 * MIB  # all of them would be 31 MiB, and that twice


def memory(name: str) -> int:
    """Return what the kernel says of this process's memory, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
