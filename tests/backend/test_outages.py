"""The service with a database that is unavailable, wrong or not writable: it answers 503 and never exits."""

import contextlib
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, event
from werkzeug.test import TestResponse

from synckit_notify import ConfigurationError
from synckit_notify.backend import Backend, create_app
from synckit_notify.backend.database import schema, sqlite, store
from synckit_notify.backend.database.health import LOG_SECONDS, TRIAL_SECONDS, Failure, Health, Trouble
from synckit_notify.backend.database.store import Store
from synckit_notify.backend.errors import Busy

from ..support.backend import PASSWORD, SQLITE_ONLY, Caller, add_account, change, settings
from ..support.server import ROOT, clean_environment
from ..support.tokens import KEY, make_token

BUSY = {"error": "the server is busy, try again"}
UNWRITABLE = {"error": "the server cannot store anything at the moment, try again later"}

EVERY_ROUTE = [
    ("POST", "/api/sync/auth", {"email": "a@example.org", "password": "p", "api_key": "k"}),
    ("POST", "/api/sync/password", {"old_password": "p", "new_password": "q"}),
    ("POST", "/api/sync/logout", None),
    ("POST", "/api/sync/devices", {"device_name": "d", "platform": "linux"}),
    ("GET", "/api/sync/devices", None),
    ("DELETE", "/api/sync/devices/d", None),
    ("POST", "/api/sync/push", {"device_id": "d", "changes": [change()]}),
    ("POST", "/api/sync/pull", {"device_id": "d", "cursor": 0}),
    ("GET", "/api/sync/status", None),
    ("PUT", "/api/sync/keys", {"envelope": "e"}),
    ("GET", "/api/sync/keys", None),
    ("GET", "/api/sync/subscribe?app_id=notes", None),
    ("POST", "/oauth/token", {"grant_type": "refresh_token", "refresh_token": "t", "client_id": "k"}),
    ("GET", "/oauth/userinfo", None),
]


def request(app: Flask, method: str, path: str, body: Any = None) -> TestResponse:
    headers = {"Authorization": f"Bearer {make_token()}"}
    return app.test_client().open(path, method=method, json=body, headers=headers)


def ready(app: Flask) -> tuple[int, object]:
    answer = app.test_client().get("/api/sync/ready")
    return answer.status_code, answer.get_json().get("writable")


def flask(folder: Path, *words: str, **env: str) -> tuple[int, str, str]:
    """Run a command of the clone, and return its exit status and what it printed."""
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "SYNCKIT_JWT_KEY": KEY} | env
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "synckit", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database file in a folder that does not exist yet."""
    return tmp_path / "later" / "some.db"


@pytest.fixture
def make(file: Path) -> Iterator[Callable[[], Flask]]:
    """Make applications on that database; their connections are closed at the end."""
    made: list[Flask] = []

    def make() -> Flask:
        made.append(create_app(settings(f"sqlite:///{file}")))
        return made[-1]

    yield make
    for app in made:
        app.extensions["synckit_backend"].store.dispose()


class TestAnUnavailableDatabase:
    def test_every_route_answers_503_in_json(self, make: Callable[[], Flask], caplog: pytest.LogCaptureFixture) -> None:
        app = make()
        for method, path, body in EVERY_ROUTE:
            response = request(app, method, path, body)
            assert (path, response.status_code, response.get_json()) == (path, 503, BUSY)
            assert 1 <= int(response.headers["Retry-After"]) <= 5
        assert not [record for record in caplog.records if record.exc_info]

    def test_the_log_in_page_says_try_again(self, make: Callable[[], Flask]) -> None:
        response = request(make(), "GET", "/oauth/authorize?client_id=k&response_type=code&redirect_uri=http://[::1]/")
        assert (response.status_code, response.mimetype) == (503, "text/html")
        assert "Please try again" in response.text
        assert int(response.headers["Retry-After"])

    def test_the_service_starts_logs_the_reason_and_works_once_the_database_exists(
        self, make: Callable[[], Flask], file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make()
        assert [request(app, "GET", "/api/sync/status").status_code for _ in range(5)] == [503] * 5
        assert (app.test_client().get("/api/sync/live").status_code, ready(app)) == (200, (503, None))
        assert [record.message for record in caplog.records] == [
            "the service starts without its database and answers 503 until it is available: "
            "the database is unavailable or busy: unable to open database file",
            "the database is unavailable or busy, requests that need it are answered with 503: "
            "unable to open database file",
        ]
        file.parent.mkdir()
        assert request(app, "GET", "/api/sync/status").get_json()["cursor"] == 0
        assert ready(app) == (200, True)

    def test_a_file_locked_by_another_process_does_not_stop_the_start(
        self, make: Callable[[], Flask], file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
        file.parent.mkdir()
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("CREATE TABLE theirs (n INTEGER)")
        app = make()
        assert request(app, "GET", "/api/sync/status").status_code == 503
        other.close()
        assert request(app, "GET", "/api/sync/status").status_code == 200

    def test_the_default_folder_can_be_created_later(self, tmp_path: Path) -> None:
        (tmp_path / "mount").write_text("not mounted yet")
        app = create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=tmp_path / "mount" / "instance")
        assert ready(app) == (503, None)

    def test_a_command_reports_it_in_one_sentence(self, clone: Path, file: Path) -> None:
        assert flask(clone, "user", "list", SYNCKIT_DATABASE_URL=f"sqlite:///{file}") == (
            *(1, "", "Error: the database is unavailable or busy: unable to open database file\n"),
        )

    def test_a_connection_attempt_does_not_block_the_hub(self, file: Path) -> None:
        """SQLite itself would wait for another process's lock, in the thread that serves all streams."""
        file.parent.mkdir()
        first = Store(f"sqlite:///{file}")
        first.read(lambda connection: None)
        first.dispose()
        engine = sqlite.make_engine(store.make_url(f"sqlite:///{file}"))
        waits: list[object] = []
        event.listen(engine, "do_connect", lambda dialect, record, words, options: waits.append(options["timeout"]))
        with engine.connect() as connection:
            waits.append(connection.exec_driver_sql("PRAGMA busy_timeout").scalar())
        engine.dispose()
        assert waits == [0, 5000]


class TestAWrongDatabase:
    def test_found_after_the_start_is_503_and_one_error_line(
        self, make: Callable[[], Flask], file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = make()
        file.parent.mkdir()
        with contextlib.closing(sqlite3.connect(file)) as other, other:
            other.execute("CREATE TABLE users (id INTEGER)")
        other.close()
        caplog.clear()
        for _ in range(3):
            assert request(app, "GET", "/api/sync/status").status_code == 503
        assert ready(app) == (503, None)
        assert [(record.levelname, record.message) for record in caplog.records] == [
            (
                "ERROR",
                "the database cannot be used, requests that need it are answered with 503: SYNCKIT_DATABASE_URL: the "
                "database holds tables of another program: users; use an empty database",
            )
        ]
        file.unlink()
        assert request(app, "GET", "/api/sync/status").status_code == 200

    def test_ends_a_command_with_one_sentence(self, clone: Path, file: Path) -> None:
        file.parent.mkdir()
        file.write_text("this is a text " * 100)
        status, _, said = flask(clone, "user", "list", SYNCKIT_DATABASE_URL=f"sqlite:///{file}")
        assert (status, said) == (
            *(1, "Error: SYNCKIT_DATABASE_URL: the database cannot be used: file is not a database\n"),
        )

    @SQLITE_ONLY
    def test_that_lost_its_tables_gets_new_ones(self, app: Flask, backend: Backend) -> None:
        request(app, "GET", "/api/sync/status")
        with contextlib.closing(sqlite3.connect(Path(app.instance_path) / "synckit.db")) as other, other:
            for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                other.execute(f"DROP TABLE {name}")
        other.close()
        assert [request(app, "GET", "/api/sync/status").status_code for _ in range(2)] == [503, 200]


def test_part_of_a_password_with_an_at_sign_appears_in_no_error() -> None:
    with pytest.raises(ConfigurationError, match="must be percent-encoded") as refusal:
        Store("postgresql://synckit:half@secret@host/db")
    assert "secret" not in str(refusal.value)


class Disk:
    """Limits a database file to its present size."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._store.dispose()
        self.pages = 0
        event.listen(self._store._open().engine, "checkout", self._limit)

    def _limit(self, connection: Any, record: object, proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count={self.pages or 2**30}")

    def fill(self) -> None:
        self.pages = 1  # SQLite takes the number of pages that there are


@SQLITE_ONLY
class TestADatabaseThatCannotBeWritten:
    @pytest.fixture
    def disk(self, backend: Backend) -> Disk:
        return Disk(backend)

    def test_pushes_are_503_pulls_work_ready_reports_it_and_the_log_has_one_line(
        self, app: Flask, alice: Caller, disk: Disk, caplog: pytest.LogCaptureFixture
    ) -> None:
        laptop = alice.register()
        alice.push(laptop)
        alice.pull(laptop)  # the first one stores that the device has begun
        assert ready(app) == (200, True)
        disk.fill()
        body = {"device_id": laptop, "changes": [change(data="x" * 100_000)]}
        for _ in range(3):
            response = request(app, "POST", "/api/sync/push", body)
            assert (response.status_code, response.get_json()) == (503, UNWRITABLE)
            assert 10 <= int(response.headers["Retry-After"]) <= 30
        assert alice.pull(laptop)["cursor"] == 1
        assert ready(app) == (200, False)
        assert [(record.levelname, record.exc_info) for record in caplog.records] == [("ERROR", None)]
        assert "(full disk or read-only), requests that need it are answered with 503: " in caplog.text
        disk.pages = 0
        assert alice.push(laptop, change(data="x" * 100_000)) == 2
        assert ready(app) == (200, True)

    def test_a_log_in_is_503(self, app: Flask, backend: Backend) -> None:
        credentials = add_account(backend)
        event.listen(
            backend.store._open().engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only=1")
        )
        response = request(app, "POST", "/api/sync/auth", credentials | {"password": PASSWORD})
        assert (response.status_code, response.get_json()) == (503, UNWRITABLE)

    def test_ready_detects_it_without_a_push(self, app: Flask, backend: Backend) -> None:
        event.listen(
            backend.store._open().engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only=1")
        )
        assert ready(app) == (200, False)

    def test_the_trial_write_reaches_the_disk_and_leaves_no_row(self, app: Flask, backend: Backend) -> None:
        """SQLite would write nothing for an UPDATE that changes nothing."""

        def rows(connection: Connection) -> dict[str, int]:
            tables = schema.metadata.sorted_tables
            return {table.name: len(connection.execute(table.select()).all()) for table in tables}

        log, before = Path(app.instance_path) / "synckit.db-wal", backend.store.read(rows)
        assert log.stat().st_size == 0
        backend.store.write(schema.try_to_write)
        assert log.stat().st_size > 0
        assert backend.store.read(rows) == before

    def test_ready_does_not_wait_for_a_lock(
        self, app: Flask, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "TRIAL_WAIT_SECONDS", 0.05)
        other = sqlite3.connect(Path(app.instance_path) / "synckit.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert ready(app) == (200, True)
        other.execute("ROLLBACK")
        other.close()
        backend.store.write(lambda connection: None)  # behind the trial write


class TestHealth:
    @pytest.fixture
    def now(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def health(self, now: list[float]) -> Health:
        return Health(clock=lambda: now[0])

    def test_each_trouble_is_logged_once_an_interval_with_a_count_of_the_others(
        self, health: Health, now: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            health.failed(Failure(Trouble.AWAY, "connection failed:\n  refused"))
        health.failed(Failure(Trouble.WRONG, "another program's"))
        now[0] += LOG_SECONDS
        health.failed(Failure(Trouble.AWAY, "refused"))
        assert [(record.levelno, re.sub(".*503: ", "", record.message)) for record in caplog.records] == [
            (logging.WARNING, "connection failed: refused"),
            (logging.ERROR, "another program's"),
            (logging.WARNING, "refused (2 more like this since the last line)"),
        ]

    def test_a_write_is_tried_when_the_last_one_is_too_old_to_tell(self, health: Health, now: list[float]) -> None:
        assert [health.trial_is_due() for _ in range(2)] == [True, False]
        now[0] += TRIAL_SECONDS - 1
        health.failed(Failure(Trouble.UNWRITABLE, "full"))
        now[0] += TRIAL_SECONDS - 1
        assert (health.trial_is_due(), health.is_writable) == (False, False)
        now[0] += 1
        assert health.trial_is_due()
        health.wrote()
        assert health.is_writable

    def test_a_locked_database_does_not_count_as_unwritable(self, health: Health) -> None:
        health.failed(Failure(Trouble.AWAY, "locked"))
        assert health.is_writable


def test_an_error_in_our_own_sql_keeps_its_traceback(backend: Backend) -> None:
    with pytest.raises(Exception, match="syntax error") as caught:
        backend.store.read(lambda connection: connection.exec_driver_sql("SELEC 1") and None)
    assert not isinstance(caught.value, Busy)
