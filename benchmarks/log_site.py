"""A backend with logs of any length, and a device that pushes and pulls over HTTP; for benchmarks.log.

Site(folder, database)   gunicorn with the included backend on an empty SQLite file or PostgreSQL database
    fill(...)            append changes with statements of the database itself, instead of pushes
    compact(...)         `flask synckit compact` in a process of its own
Device(site, app, user)  one kept connection; it neither encrypts nor stores
"""

import http.client
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import psycopg
from sqlalchemy import Connection, text

from synckit_notify.backend import Backend, create_app

from .server import BACKEND, ROOT, Server, gunicorn

AT_ONCE = 50_000
"""Changes that one statement appends."""

IDLE_SECONDS = 30.0
"""After this time without a request a new connection is made: the server closes one that is idle for 75 s."""

MICROSECONDS = 1_000_000
TIMESTAMP = "2026-01-31T12:00:00.000000Z"

APPEND = """
INSERT INTO changes (app_id, user_id, seq, device_id, table_name, op, row_id, timestamp, data, received_at, order_at)
WITH RECURSIVE counted(i) AS (SELECT CAST(:first AS BIGINT) UNION ALL SELECT i + 1 FROM counted WHERE i < :last)
SELECT :app, :user, i, :device, CASE WHEN i % :every = 0 THEN 'rare' ELSE 'tasks' END, 'UPDATE', 'row-' || (i % :rows),
       :timestamp, :data, :began + i, :began + i
FROM counted
"""
FIND_WINNERS = """
INSERT INTO winners (app_id, user_id, table_name, row_id, order_at, device_id, seq)
SELECT app_id, user_id, table_name, row_id, max(order_at), max(device_id), max(seq) FROM changes
WHERE app_id = :app AND user_id = :user GROUP BY app_id, user_id, table_name, row_id
"""
FORGET_HEAD = "DELETE FROM heads WHERE app_id = :app AND user_id = :user"
MOVE_HEAD = """
INSERT INTO heads (app_id, user_id, seq, changed_at, winners_until) VALUES (:app, :user, :last, :changed_at, :last)
"""
POSTGRES_BYTES = "SELECT sum(pg_total_relation_size(name)) FROM unnest(ARRAY['changes', 'winners']::regclass[]) AS name"

Tell = Callable[[str], None]


class Pulled(NamedTuple):
    """What a pull to the head took: seconds, bytes of the answers' bodies, and the changes."""

    seconds: float
    bytes: int
    changes: list[dict[str, Any]]


class Site:
    """A server on one empty database; a context manager that ends it. `database` is a URL, or None for SQLite."""

    def __init__(self, folder: Path, database: str | None, tell: Tell) -> None:
        key = secrets.token_hex(32)
        self.folder, self._url, self._tell = folder, database, tell
        self._settings = {"SYNCKIT_BROKER_URL": "memory://"}
        if database is not None:
            self._settings["SYNCKIT_DATABASE_URL"] = database
        self._app = create_app({"SYNCKIT_JWT_KEY": key} | self._settings, instance_path=folder)
        self._backend: Backend = self._app.extensions["synckit_backend"]
        self._settings["SYNCKIT_JWT_KEY"] = key
        self.server: Server = gunicorn(key, folder, app=BACKEND, core=None, settings=self._settings)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self._backend.store.dispose()

    def app(self, log: str = "rows") -> str:
        """Add an app with this log mode, and return its name."""
        name = f"app-{secrets.token_hex(4)}"
        self.command("app", "add", name, "--log", log)
        return name

    def command(self, *words: str) -> str:
        """Run a command in this process, and return the last word that it printed."""
        result = self._app.test_cli_runner().invoke(args=["synckit", *words], catch_exceptions=False)
        if result.exit_code:
            raise RuntimeError(f"flask synckit {words[0]}: {result.output}")
        return str(result.output.split()[-1])

    def fill(self, device: "Device", count: int, *, rows: int, rare: int, data: str) -> None:
        """Let the empty log of a device's user have `count` changes of `rows` rows; of them `rare` in another table."""
        began = time.time_ns() // 1000 - count - MICROSECONDS
        every = max(2, count // rare) if rare else count + 1
        owner = {"app": device.app, "user": device.user}
        for first in range(1, count + 1, AT_ONCE):
            last = min(count, first + AT_ONCE - 1)
            values = {"first": first, "last": last, "device": device.id, "every": every, "rows": rows, "data": data}
            self._execute(APPEND, **owner, **values, timestamp=TIMESTAMP, began=began)
            if count > AT_ONCE:
                self._tell(f"{last:,} of {count:,} changes appended")
        self._execute(FIND_WINNERS, **owner)
        self._execute(FORGET_HEAD, **owner)
        self._execute(MOVE_HEAD, **owner, last=count, changed_at=began + count)
        if self._url is not None:
            self._execute("ANALYZE")

    def compact(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start `flask synckit compact`."""
        command = [sys.executable, "-m", "flask", "--app", BACKEND, "synckit", "compact", *words]
        env = os.environ | self._settings | {"BENCHMARK_FOLDER": str(self.folder), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL)

    def disk(self) -> int:
        """Return the bytes of the log on disk: of the SQLite file, or of its tables and indexes in PostgreSQL."""
        if self._url is None:
            file = self.folder / "synckit.db"
            with closing(sqlite3.connect(file, timeout=60)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return sum(each.stat().st_size for each in self.folder.glob("synckit.db*"))
        with closing(psycopg.connect(self._url, autocommit=True)) as connection:
            (found,) = connection.execute(POSTGRES_BYTES).fetchone() or (0,)
            return int(found)

    def _execute(self, statement: str, **values: object) -> None:
        def work(connection: Connection) -> None:
            connection.execute(text(statement), values)

        self._backend.store.write(work)


class Device:
    """A device of a user in an app, given by its name; the user need not have an account."""

    def __init__(self, site: Site, app: str, user: str) -> None:
        self.user = user
        token = site.command("token", "--app", app, "--user", user)
        self.app: str = jwt.decode(token, options={"verify_signature": False})["app"]
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._used_at = time.monotonic()
        self._connection = http.client.HTTPConnection("127.0.0.1", site.server.port, timeout=600)
        self.id: str = self.post("devices", {"device_name": "laptop", "platform": "linux"})[0]["id"]

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def push(self, row: str, data: str) -> float:
        """Push one change of a row, and return the seconds until the answer."""
        change = {"table": "tasks", "op": "UPDATE", "row_id": row, "timestamp": TIMESTAMP, "data": data}
        began = time.perf_counter()
        self.post("push", {"device_id": self.id, "push_id": uuid.uuid4().hex, "changes": [change]})
        return time.perf_counter() - began

    def pull(self, cursor: int = 0, **fields: object) -> Pulled:
        """Pull to the head."""
        began, size = time.perf_counter(), 0
        found: list[dict[str, Any]] = []
        while True:
            page, received = self.post("pull", {"device_id": self.id, "cursor": cursor, **fields})
            found += page["changes"]
            size += received
            cursor = page["cursor"]
            if not page["has_more"]:
                return Pulled(time.perf_counter() - began, size, found)

    def post(self, path: str, body: object) -> tuple[Any, int]:
        """Send a request; return the answer and the bytes of its body. Raises RuntimeError for an error."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._connection.close()
        self._connection.request("POST", f"/api/sync/{path}", json.dumps(body), self._headers)
        response = self._connection.getresponse()
        content = response.read()
        self._used_at = time.monotonic()
        if response.status != 200:
            raise RuntimeError(f"{path} was answered with {response.status}: {content.decode()}")
        return json.loads(content), len(content)
