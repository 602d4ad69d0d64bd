"""PostgreSQL: concurrent starts, limits, a server that becomes unavailable, deadlocks, and gevent's hub."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, text

from synckit_notify.backend import Backend, accounts, changelog, sessions
from synckit_notify.backend.database import postgres, schema
from synckit_notify.backend.errors import Busy, Conflict

from ..support.backend import Caller, change, over_http, postgres_setting, readiness, run_python, start
from ..support.postgresql import PostgreSQL
from ..support.raw_client import CHANGED, CONNECTED, KEEPALIVE, Listener
from ..support.server import ROOT, clean_environment
from ..support.tokens import KEY, make_token

pytestmark = pytest.mark.thorough

HUB_CEILING_MS = 250.0  # five times the promise; a query that did not yield would make it a thousand

START_TWICE = """
import sys, time
from pathlib import Path
from synckit_notify.backend import create_app
while not Path("go").exists():
    time.sleep(0.001)
for number in range(2):
    create_app({"SYNCKIT_JWT_KEY": "k" * 32, "SYNCKIT_DATABASE_URL": sys.argv[1]})
"""

LOADED_TOO_EARLY = """
import psycopg, sys
from synckit_notify.backend.database.store import Store

store = Store(sys.argv[1])
from gevent import monkey
monkey.patch_all()
try:
    store.read(lambda connection: None)
except Exception as error:
    print(type(error).__name__, error.reason)
"""


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    """An empty database."""
    return postgresql.emptied()


@pytest.fixture
def database(url: str) -> dict[str, str]:
    """The settings for that database; nothing here runs on SQLite."""
    return {"SYNCKIT_DATABASE_URL": url, "SYNCKIT_BROKER_URL": "memory://"}


def test_several_processes_starting_at_once_make_one_schema(bare: str, postgresql: PostgreSQL, tmp_path: Path) -> None:
    processes = [run_python(START_TWICE, tmp_path, bare) for _ in range(3)]
    (tmp_path / "go").touch()
    assert [(process.communicate(timeout=60)[0], process.returncode) for process in processes] == [("", 0)] * 3
    with postgresql.connect("bare") as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (1,)


def test_starting_leaves_no_connection_open(app: Flask, postgresql: PostgreSQL) -> None:
    with postgresql.connect() as connection:
        mine = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'synckit'"
        until = time.monotonic() + 5
        while connection.execute(mine).fetchone() != (0,):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_session_has_our_limits_and_commits_synchronously(
    postgresql: PostgreSQL, make_app: Callable[..., Flask]
) -> None:
    with postgresql.connect() as connection:
        connection.execute("ALTER DATABASE postgres SET synchronous_commit = off")
        try:
            backend: Backend = make_app().extensions["synckit_backend"]
            names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
            assert [postgres_setting(backend, name) for name in names[:3]] == ["5s", "10s", "30s"]
            assert (
                backend.store.write(lambda connection: connection.execute(text(f"SHOW {names[3]}")).scalar_one())
                == "on"
            )
        finally:
            connection.execute("ALTER DATABASE postgres RESET synchronous_commit")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_url_has_one_of_three_schemes_and_its_options_take_precedence(
    url: str, scheme: str, make_app: Callable[..., Flask]
) -> None:
    app = make_app(SYNCKIT_DATABASE_URL=url.replace("postgresql", scheme, 1) + "&application_name=ours")
    assert postgres_setting(app.extensions["synckit_backend"], "application_name") == "ours"


def test_a_statement_that_takes_too_long_is_ended(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ", "WRITE"):
        monkeypatch.setattr(postgres, name, ["BEGIN; SET LOCAL statement_timeout = '50ms'"])
    for transaction in (backend.store.read, backend.store.write):
        with pytest.raises(Busy):
            transaction(lambda connection: connection.execute(text("SELECT pg_sleep(5)")) and None)


def test_an_idle_transaction_loses_its_locks(backend: Backend, alice: Caller) -> None:
    laptop = alice.register()

    def stand_still(connection: Connection) -> None:
        changelog.touch(connection, "notes", "alice")
        connection.execute(text("SET idle_in_transaction_session_timeout = '50ms'"))
        time.sleep(0.3)
        connection.execute(text("SELECT 1"))

    with pytest.raises(Busy):
        backend.store.write(stand_still)
    assert alice.push(laptop) == 1


class TestAServerThatBecomesUnavailable:
    def test_is_503_and_not_ready_until_it_is_back(
        self, app: Flask, alice: Caller, postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
    ) -> None:
        laptop = alice.register()
        alice.push(laptop)
        assert readiness(app) == (200, True)
        with postgresql.away():
            assert readiness(app) == (503, False)
            response = app.test_client().post(
                "/api/sync/pull", json={"device_id": laptop, "cursor": 0}, headers=alice.headers
            )
            assert (response.status_code, response.get_json()) == (503, {"error": "the server is busy, try again"})
            assert 1 <= int(response.headers["Retry-After"]) <= 5
            assert "unavailable or busy, requests that need it are answered with 503: conn" in caplog.text
            assert "psycopg" not in caplog.text  # no traceback of the driver
            assert "secret" not in caplog.text
        assert readiness(app) == (200, True)
        assert alice.push(laptop) == 2

    def test_and_has_restarted_unnoticed_answers_at_once(
        self, alice: Caller, postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
    ) -> None:
        laptop = alice.register()
        with postgresql.away():
            pass
        assert alice.push(laptop) == 1
        assert "away" not in caplog.text

    def test_during_pushes_loses_none_and_repeats_none(
        self, as_user: Callable[..., Caller], postgresql: PostgreSQL
    ) -> None:
        alice = as_user()
        device = alice.register()
        go_on = True

        def push(pusher: int) -> int:
            number = 0
            while go_on:
                number += 1
                body = {"device_id": device, "changes": [change(f"{pusher} {number}")], "push_id": f"{pusher} {number}"}
                while alice.post("/push", body)[0] == 503:
                    time.sleep(0.02)
            return number

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(push, pusher) for pusher in range(4)]
            for _ in range(2):
                time.sleep(0.2)
                with postgresql.away():
                    pass
            time.sleep(0.1)
            go_on = False
            pushed = {f"{pusher} {number + 1}" for pusher in range(4) for number in range(running[pusher].result())}
        seen: list[dict[str, Any]] = []
        while rows := alice.pull(device, len(seen))["changes"]:
            seen += rows
        assert [row["seq"] for row in seen] == list(range(1, len(pushed) + 1))
        assert {row["row_id"] for row in seen} == pushed

    def test_and_hangs_is_given_up_and_used_again(
        self,
        backend: Backend,
        postgresql: PostgreSQL,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.2)

        def touch(connection: Connection) -> None:
            changelog.touch(connection, "notes", "alice")
            with postgresql.frozen():
                connection.execute(text("SELECT 1"))

        with pytest.raises(Busy):
            backend.store.write(touch)
        assert backend.store.read(lambda connection: connection.execute(text("SELECT * FROM heads")).all()) == []
        assert [record.levelname for record in caplog.records] == ["WARNING"]  # nobody tried to roll that session back


class TestNobodyWaitsFor:
    """A transaction that holds a lock must not wait for a second one; here another session holds the row."""

    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make waiting for a lock an error."""
        monkeypatch.setattr(postgres, "WRITE", ["BEGIN; SET LOCAL lock_timeout = '100ms'"])

    @pytest.fixture
    def hold(self, postgresql: PostgreSQL) -> Iterator[Callable[[str], None]]:
        """Return a function that locks rows until the test ends."""
        with postgresql.connect() as connection, connection.transaction(force_rollback=True):
            yield lambda query: connection.execute(f"{query} FOR UPDATE") and None

    def test_an_old_push_id_that_another_push_deletes(
        self, impatient: None, alice: Caller, backend: Backend, hold: Callable[[str], None]
    ) -> None:
        old = [{"device_id": "d", "push_id": str(n), "digest": "", "cursor": 1, "received_at": n} for n in range(3)]
        backend.store.write(lambda connection: connection.execute(schema.pushes.insert(), old) and None)
        hold("SELECT * FROM pushes WHERE push_id = '1'")
        alice.push(alice.register(), push_id="p")
        ids = backend.store.read(
            lambda connection: set(connection.execute(text("SELECT push_id FROM pushes")).scalars())
        )
        assert ids == {"1", "p"}

    def test_a_session_that_is_renewed(
        self, impatient: None, backend: Backend, hold: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)

        def begin() -> sessions.Session:
            return backend.store.write(lambda connection: sessions.begin(connection, "notes", "alice"))

        used = begin()
        hold("SELECT * FROM sessions")
        begin(), begin()
        count = text("SELECT count(*) FROM sessions")
        assert backend.store.read(lambda connection: connection.execute(count).scalar()) == 2
        assert used.refresh_token

    def test_an_expired_session(
        self, impatient: None, backend: Backend, hold: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend.store.write(lambda connection: sessions.begin(connection, "notes", "bob"))
        hold("SELECT * FROM sessions")
        monkeypatch.setattr(sessions, "now", lambda: schema.now() + 2 * sessions.IDLE_MICROSECONDS)
        backend.store.write(lambda connection: sessions.begin(connection, "notes", "alice"))


def test_of_two_accounts_with_one_email_made_at_once_the_second_is_refused(backend: Backend) -> None:
    both_in = threading.Barrier(2)

    def add(connection: Connection) -> str:
        connection.execute(text("SELECT 1"))
        both_in.wait(60)
        return accounts.add_user(connection, "a@example.org", "hash")

    def attempt(_: int) -> str:
        try:
            return backend.store.write(add)
        except Conflict as refusal:
            return str(refusal)

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(attempt, range(2)), key=len)
    assert answers[1] == "an account a@example.org already exists" or answers[0] == answers[1]
    assert len(set(answers)) == 2


def test_psycopg_that_was_loaded_before_gevent_patched_is_refused(url: str, tmp_path: Path) -> None:
    printed = run_python(LOADED_TOO_EARLY, tmp_path, url).communicate(timeout=60)[0]
    assert printed.startswith("Busy the database cannot be used: psycopg was loaded before gevent patched")


def test_a_slow_query_does_not_block_the_hub(url: str) -> None:
    command = [sys.executable, "-m", "tests.support.slow_query", url]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < HUB_CEILING_MS


def test_keepalives_continue_while_a_push_waits_for_a_lock_and_while_the_server_is_unavailable(
    clone: Path, database: dict[str, str], postgresql: PostgreSQL
) -> None:
    with start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_KEEPALIVE_SECONDS="0.1", **database) as server:
        alice = Caller(over_http(server.url), make_token())
        laptop = alice.register()
        alice.push(laptop)
        with Listener(server.port, "/api/sync/subscribe?app_id=notes", make_token()) as listener:
            assert listener.next_frame() == CONNECTED
            with postgresql.connect() as connection, ThreadPoolExecutor() as pool:
                with connection.transaction():
                    connection.execute("SELECT * FROM heads FOR UPDATE")
                    pushed = pool.submit(alice.push, laptop)
                    assert [listener.next_frame(1.0) for _ in range(10)] == [KEEPALIVE] * 10
                    assert not pushed.done()
                assert listener.next_news() == CHANGED
                assert pushed.result() == 2
            with postgresql.away():
                assert alice.post("/push", {"device_id": laptop, "changes": [change()]})[0] == 503
                assert [listener.next_frame(1.0) for _ in range(5)] == [KEEPALIVE] * 5
            assert alice.push(laptop) == 3
            assert listener.next_news() == CHANGED
        assert "secret" not in server.log
