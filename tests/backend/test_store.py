"""Store on SQLite and PostgreSQL: schema, upgrades, transactions, and 503 when the database is busy."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Connection, Table, func, select, text

from synckit_notify import ConfigurationError
from synckit_notify.backend import (
    Backend,
    accounts,
    changelog,
    create_app,
    last_seen,
    log_heads,
    log_pages,
    pulls,
)
from synckit_notify.backend.changelog import Change, Query
from synckit_notify.backend.database import postgres, schema, sqlite, store
from synckit_notify.backend.database.store import Store
from synckit_notify.backend.errors import Busy

from ..support.backend import Caller, change, run_python, settings
from ..support.tokens import KEY, make_token

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
    """A database without tables and connections."""
    return request.getfixturevalue("bare") if database else f"sqlite:///{tmp_path}/some.db"


@pytest.fixture
def lock(app: Flask, database: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lock the table of devices by a write of another Store, and shorten the lock timeouts."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "WRITE", ["BEGIN; SET LOCAL lock_timeout = '50ms'"])
    inside, go_on = threading.Event(), threading.Event()

    def write(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE devices IN SHARE ROW EXCLUSIVE MODE"))
        inside.set()
        go_on.wait(60)

    other = Store(database.get("SYNCKIT_DATABASE_URL", f"sqlite:///{app.instance_path}/synckit.db"))
    writing = threading.Thread(target=other.write, args=(write,))
    writing.start()
    inside.wait(60)
    yield
    go_on.set()
    writing.join()
    other.dispose()


def execute(url: str, statement: str) -> None:
    database = Store(url)
    database.write(lambda connection: connection.execute(text(statement)) and None)
    database.dispose()


def tables(url: str) -> list[str]:
    database = Store(url)
    found = database.read(lambda connection: schema.inspect(connection).get_table_names())
    database.dispose()
    return found


def described(url: str) -> dict[str, object]:
    """Return the columns and indexes of each table, without the table that only older releases use."""
    database = Store(url)

    def describe(connection: Connection) -> dict[str, object]:
        found = schema.inspect(connection)
        return {
            table: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
                sorted((index["name"] or "", index["unique"]) for index in found.get_indexes(table)),
            )
            for table in sorted({*found.get_table_names()} - {"roll_calls"})
        }

    try:
        return database.read(describe)
    finally:
        database.dispose()


def described_anew(url: str) -> dict[str, object]:
    """Replace the database by a new one of this release, and return the same for it."""
    for table in tables(url):
        execute(url, f"DROP TABLE {table}")
    create_app(settings(url))
    return described(url)


def stored(url: str, table: Table) -> list[tuple[object, ...]]:
    database = Store(url)
    rows = database.read(lambda connection: [tuple(row) for row in connection.execute(table.select())])
    database.dispose()
    return rows


def test_a_restart_keeps_the_data(alice: Caller, make_app: Callable[..., Flask]) -> None:
    laptop = alice.register()
    alice.push(laptop)
    headers = alice.headers
    assert make_app().test_client().get("/api/sync/status", headers=headers).get_json()["cursor"] == 1


class TestADatabaseOfAnOlderRelease:
    @pytest.fixture
    def older(self, url: str) -> str:
        """A database of an older schema version with an account in use."""
        script = (Path(__file__).parent / "schema_of_version_3.sql").read_text()
        for statement in script.split(";\n"):
            if statement.strip():
                execute(url, statement)
        return url

    def test_gets_the_current_schema_and_keeps_its_data(self, older: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(last_seen, "COLLECTING_SECONDS", 0.0)
        app = create_app(settings(older))
        assert stored(older, schema.meta) == [(schema.SCHEMA_VERSION, "the epoch of before")]
        assert [row[-3:] for row in stored(older, schema.devices)] == [(None, 0, None)] * 2
        assert stored(older, schema.apps)[0][-1] == "history"
        send = app.test_client()
        headers = {"Authorization": f"Bearer {make_token('alice')}"}
        page = send.post("/api/sync/pull", json={"device_id": "phone", "cursor": 0}, headers=headers).get_json()
        assert [change["data"] for change in page["changes"]] == ["one", "two"]
        assert {change["order_at"] for change in page["changes"]} == {"2023-11-14T22:13:20.000000Z"}
        body = {"device_id": "laptop", "changes": [change()]}
        assert send.post("/api/sync/push", json=body, headers=headers).get_json()["cursor"] == 3
        again = {"device_name": "Laptop", "platform": "linux"}
        assert send.post("/api/sync/devices", json=again, headers=headers).get_json()["id"] == "laptop"
        for thread in [thread for thread in threading.enumerate() if "_store_all" in thread.name]:
            thread.join()
        assert None not in [row[-3] for row in stored(older, schema.devices)]
        app.extensions["synckit_backend"].store.dispose()
        assert described(older) == described_anew(older)

    def test_keeps_the_table_that_running_servers_of_that_release_read(self, older: str) -> None:
        create_app(settings(older))
        assert "roll_calls" in tables(older)

    def test_of_version_2_is_upgraded(self, older: str) -> None:
        execute(older, "DROP TABLE roll_calls")
        execute(older, "UPDATE meta SET schema_version = 2")
        create_app(settings(older))
        assert stored(older, schema.meta) == [(schema.SCHEMA_VERSION, "the epoch of before")]
        assert described(older) == described_anew(older)

    def test_of_version_4_is_upgraded(self, older: str) -> None:
        execute(older, "ALTER TABLE devices ADD COLUMN last_seen_at BIGINT")
        execute(older, "UPDATE meta SET schema_version = 4")
        create_app(settings(older))
        assert stored(older, schema.meta) == [(schema.SCHEMA_VERSION, "the epoch of before")]
        assert described(older) == described_anew(older)

    def test_of_version_5_is_upgraded(self, older: str) -> None:
        create_app(settings(older))
        execute(older, "ALTER TABLE devices DROP COLUMN reread")
        execute(older, "ALTER TABLE heads DROP COLUMN dropped_until")
        execute(older, "UPDATE meta SET schema_version = 5")
        create_app(settings(older))
        assert stored(older, schema.meta) == [(schema.SCHEMA_VERSION, "the epoch of before")]
        assert [row[-2:] for row in stored(older, schema.devices)] == [(0, None), (0, None)]
        assert described(older) == described_anew(older)

    def test_takes_what_running_servers_of_that_release_still_push(self, older: str) -> None:
        """Their statements name no column that is new."""
        app = create_app(settings(older))
        app.test_cli_runner().invoke(args=["synckit", "app", "set", "notes", "--log", "rows"])
        execute(older, "UPDATE heads SET seq = 3, changed_at = 1700000000000005")
        columns = "app_id, user_id, seq, device_id, table_name, op, row_id, timestamp, data, received_at"
        values = "'notes', 'alice', 3, 'phone', 'tasks', 'UPDATE', '1', '2023-11-14T22:13:21Z', 'old', 1700000000000005"
        execute(older, f"INSERT INTO changes ({columns}) VALUES ({values})")
        send, headers = app.test_client(), {"Authorization": f"Bearer {make_token('alice')}"}
        body = {"device_id": "phone", "cursor": 0, "latest": True}
        page = send.post("/api/sync/pull", json=body, headers=headers).get_json()
        assert ([change["data"] for change in page["changes"]], page["has_more"]) == (["two"], True)
        page = send.post("/api/sync/pull", json=body | {"cursor": 2}, headers=headers).get_json()
        assert [(change["data"], change["order_at"]) for change in page["changes"]] == [
            ("old", "2023-11-14T22:13:20.000005Z")
        ]
        pushed = {"device_id": "laptop", "changes": [change("2", data="new")]}
        send.post("/api/sync/push", json=pushed, headers=headers)
        page = send.post("/api/sync/pull", json=body, headers=headers).get_json()
        assert [change["data"] for change in page["changes"]] == ["old", "new"]
        app.extensions["synckit_backend"].store.dispose()

    @pytest.mark.thorough
    def test_is_upgraded_once_by_processes_that_start_together(self, older: str, tmp_path: Path) -> None:
        code = (
            "import sys; from synckit_notify.backend import create_app; print('started'); sys.stdin.read()\n"
            f"create_app({{'SYNCKIT_JWT_KEY': {KEY!r}, 'SYNCKIT_DATABASE_URL': sys.argv[1]}}); print('done')"
        )
        processes = [run_python(code, tmp_path, older) for _ in range(2)]
        assert [process.communicate(timeout=60)[0] for process in processes] == ["started\ndone\n"] * 2
        assert stored(older, schema.meta) == [(schema.SCHEMA_VERSION, "the epoch of before")]
        assert described(older) == described_anew(older)

    def test_is_unchanged_if_a_step_fails(self, older: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = described(older)
        broken = ["ALTER TABLE devices ADD COLUMN last_seen_at BIGINT", "SELECT * FROM nothing"]
        with monkeypatch.context() as patch:
            patch.setitem(schema.STEPS, 3, broken)
            with pytest.raises(ConfigurationError, match="nothing"):
                create_app(settings(older))
        assert described(older) == before
        create_app(settings(older))
        assert described(older) == described_anew(older)


class TestADatabaseThatIsRefused:
    def test_is_an_incomplete_older_one(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DROP TABLE pushes")
        execute(url, "UPDATE meta SET schema_version = 2")
        with pytest.raises(ConfigurationError, match="lacks tables: pushes"):
            create_app(settings(url))

    @pytest.mark.parametrize("version", [0, schema.SCHEMA_VERSION + 1])
    def test_has_another_version(self, url: str, version: int) -> None:
        create_app(settings(url))
        execute(url, f"UPDATE meta SET schema_version = {version}")
        words = f"schema version {version}, this release needs {schema.SCHEMA_VERSION}: run the release that made"
        with pytest.raises(ConfigurationError, match=words):
            create_app(settings(url))

    def test_belongs_to_another_program_and_is_not_changed(self, url: str) -> None:
        execute(url, "CREATE TABLE users (id INTEGER)")
        with pytest.raises(ConfigurationError, match="holds tables of another program: users; use an empty database"):
            create_app(settings(url))
        assert tables(url) == ["users"]

    def test_belongs_to_another_program_that_also_has_a_table_meta(self, url: str) -> None:
        execute(url, "CREATE TABLE meta (id INTEGER)")
        with pytest.raises(ConfigurationError, match="holds tables of another program: meta"):
            create_app(settings(url))
        assert tables(url) == ["meta"]

    def test_is_incomplete(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DROP TABLE pushes")
        with pytest.raises(ConfigurationError, match="lacks tables: pushes; restore a complete backup, or use another"):
            create_app(settings(url))

    def test_lost_its_version(self, url: str) -> None:
        create_app(settings(url))
        execute(url, "DELETE FROM meta")
        with pytest.raises(ConfigurationError, match="has schema version None, this release needs"):
            create_app(settings(url))


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///x", "mysql://u:secret@host/db"),
        *("postgresql+psycopg2://u:secret@host/db", "postgresql://u:secret@host:port/db"),
    ],
)
def test_an_invalid_url_is_refused_with_the_setting_and_without_the_password(url: str) -> None:
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


def test_a_writer_that_waits_too_long_is_busy(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "QUEUE_SECONDS", 0.05)
    monkeypatch.setattr(postgres, "WRITERS", 1)
    inside, go_on = threading.Event(), threading.Event()

    def wait(connection: Connection) -> None:
        inside.set()
        go_on.wait(60)

    first = threading.Thread(target=backend.store.write, args=(wait,))
    first.start()
    inside.wait(60)
    with pytest.raises(Busy):
        backend.store.write(lambda connection: None)
    go_on.set()
    first.join()
    backend.store.write(lambda connection: None)


class TestTheTransactionsOfOneAccount:
    def test_leave_connections_to_other_accounts(self, backend: Backend, database: dict[str, str]) -> None:
        self.crowd(backend.store.read, store.READERS_OF_ONE)
        if database:  # SQLite has one writer
            self.crowd(backend.store.write, store.WRITERS_OF_ONE)

    @staticmethod
    def crowd(transact: Callable[..., None], share: int) -> None:
        inside, go_on, finished = threading.Semaphore(0), threading.Event(), []

        def wait(connection: Connection) -> None:
            inside.release()
            go_on.wait(60)

        def insist() -> None:
            transact(wait, owner="alice")
            finished.append("alice")

        many = [threading.Thread(target=insist) for _ in range(40)]
        for one in many:
            one.start()
        assert all(inside.acquire(timeout=60) for _ in range(share))
        assert not inside.acquire(timeout=0.1), "her others wait"
        transact(lambda connection: None, owner="bob")
        transact(lambda connection: None)
        assert finished == []
        go_on.set()
        for one in many:
            one.join()
        assert len(finished) == 40

    def test_wait_no_longer_than_the_queue_time(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "QUEUE_SECONDS", 0.05)
        seats = store.Seats(2, 1)
        with seats.acquire("alice"):
            with pytest.raises(Busy), seats.acquire("alice"):
                raise AssertionError("one seat is her share")
            with seats.acquire("bob"), pytest.raises(Busy), seats.acquire():
                raise AssertionError("there are two seats")
        with seats.acquire("alice"), seats.acquire("bob"):
            pass

    def test_leave_no_share_behind(self) -> None:
        seats = store.Seats(2, 1)
        for number in range(100):
            with seats.acquire(f"account {number}", "address"):
                assert len(seats._shares) == 2
        with pytest.raises(ZeroDivisionError), seats.acquire("alice"):
            raise ZeroDivisionError
        assert seats._shares == {}


def test_a_failed_transaction_is_rolled_back(backend: Backend) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(schema.heads.insert().values(app_id="a", user_id="u", seq=1, changed_at=1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backend.store.write(fail)
    count = select(func.count()).select_from(schema.heads)
    assert backend.store.read(lambda connection: connection.execute(count).scalar()) == 0


def test_a_read_sees_one_snapshot(alice: Caller, backend: Backend) -> None:
    laptop = alice.register()
    alice.push(laptop)

    def read(connection: Connection) -> tuple[int, list[int]]:
        head, *_ = changelog.status(connection, "notes", "alice")
        alice.push(laptop)
        now = log_heads.read(connection, "notes", "alice")
        rows, *_ = log_pages.read_page(connection, "notes", "alice", now.seq, 0, Query(cursor=0))
        return head, [row.seq for row in rows]

    assert backend.store.read(read) == (1, [1])
    assert alice.get("/status")[1]["cursor"] == 2


def test_write_alone_waits_for_another_write_alone(backend: Backend) -> None:
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


@pytest.mark.thorough
def test_a_killed_greenlet_leaves_no_half_transaction(url: str, tmp_path: Path) -> None:
    """SQLite's native thread completes it, PostgreSQL rolls it back; and its connection is no longer used."""
    found = run_python(KILL_A_WRITER, tmp_path, url).communicate(timeout=60)[0]
    assert found == ("1 2 3 3 3 3 3 3\n" if url.startswith("sqlite") else "3 3 3 3 3 3\n")


def test_the_sweep_uses_an_index(backend: Backend) -> None:
    def explain(connection: Connection) -> str:
        rows = [{"app_id": "notes", "user_id": str(n), "seq": 1, "changed_at": n} for n in range(2000)]
        connection.execute(schema.heads.insert(), rows)
        connection.execute(text("ANALYZE"))
        words = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        query = "SELECT app_id, user_id, changed_at FROM heads WHERE changed_at >= 1990"
        return str(connection.execute(text(f"{words} {query}")).all())

    assert "ix_heads_changed_at" in backend.store.write(explain)


def test_a_page_of_the_largest_changes_takes_bounded_memory(backend: Backend) -> None:
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
    page = pulls.pull(backend.store, "notes", "alice", device.id, Query(cursor=0))
    assert (len(page.rows), page.has_more) == (4, True)
    assert memory("VmHWM") - before < 24 * MIB  # all of them would be 31 MiB, and that twice


def memory(name: str) -> int:
    """Return what the kernel says of this process's memory, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
