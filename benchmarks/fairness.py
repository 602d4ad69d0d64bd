"""The command: `python -m benchmarks.fairness` measures how long others wait while one account attacks the server.

    SQLite, PostgreSQL: a fresh gunicorn ──▶ Bob without an attack ──▶ each attack by Mallory, Bob again ──▶ a table

Bob requests his status, pulls, pushes and logs in, regularly on four connections. Mallory has an account too,
with a long log and many devices, and sends what that account may send, each request as soon as the last is answered
(`flood.py`). The promise: 99 of 100 of Bob's requests take at most five times as long as without Mallory, or at most
50 ms, and none is refused. Exit status 1 when it is broken, 130 on Ctrl-C. The command starts its own PostgreSQL.
"""

import argparse
import http.client
import json
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from synckit_notify.backend import accounts, passwords
from synckit_notify.backend.database import schema
from synckit_notify.backend.database.store import Store
from tests.support.postgresql import PostgreSQL

from . import report
from .attack_run import summary
from .flood import flooding
from .load import APP, make_token
from .report import Row
from .server import BACKEND, Server, gunicorn

ATTACKS = {
    "devices listed": 8,
    "devices registered": 40,
    "pulls by a future time": 40,
    "pulls by 100 tables": 40,
    "pulls of everything": 40,
    "right logins": 150,
    "pushes of 100 changes": 40,
}
"""Mallory's attacks, and the number of connections of each."""

KINDS = {"status": 0.02, "pull": 0.02, "push": 0.05, "login": 0.3}
"""Bob's requests, and the seconds between two of a kind."""

TIMES, LEAST = 5.0, 0.05
"""The promise for the slowest of a hundred requests: a multiple of its time without an attack, or seconds."""

PASSWORD = "correct horse"
HOST = "HTTP/1.1\r\nHost: localhost\r\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all attacks, print the table, and return the exit status."""
    options = _options(arguments)
    facts = report.facts(
        f"{options.seconds:g} s per attack; Mallory has {options.rows:,} changes and {options.devices:,} devices",
        "gunicorn.conf.py, one gevent worker, the reference backend, all cores",
    )
    try:
        rows = [row for database in options.databases for row in measure(database, options)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(table(facts, rows))
    report.save(options.json, facts, rows=rows)
    return 1 if any(is_broken(row) for row in rows) else 0


def measure(database: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each attack and each kind of request, on one server with this database."""
    with service(database, options.rows, options.devices) as tested:
        print(f"{database}: without an attack ...", file=sys.stderr, flush=True)
        before = tested.bob(options.seconds)
        for name in options.attacks:
            print(f"{database}: {name} ...", file=sys.stderr, flush=True)
            requests = tested.requests(name)
            with flooding(tested.server.port, requests, options.seconds + 2, ATTACKS[name]) as attack:
                time.sleep(1)  # until all of its connections are open
                during = tested.bob(options.seconds)
                answers = json.loads((attack.stdout.read() if attack.stdout else "") or "{}")
            for kind in KINDS:
                times = {"without": before[kind], "during": during[kind]}
                yield {"database": database, "attack": name, "kind": kind, "answers": answers, **times}


def is_broken(row: Row) -> bool:
    """Return whether Bob was refused, or waited longer than promised."""
    return bool(row["during"]["refused"] or row["during"]["p99"] > max(LEAST, TIMES * row["without"]["p99"]))


def table(facts: dict[str, str], rows: Sequence[Row]) -> str:
    """Return the whole report."""
    columns = "| database | attack | answers to it | request | without, ms: p50 / p99 | during it: p50 / p99 | broken |"
    return "\n".join([report.head(facts), "", columns, "|---|---|---|---|--:|--:|---|", *map(_line, rows)])


class Service:
    """A server with two accounts, Bob's and Mallory's."""

    def __init__(self, server: Server, key: str, api_key: str, users: Mapping[str, str]) -> None:
        self.server = server
        self._tokens = {name: make_token(key, user) for name, user in users.items()}
        self._api_key = api_key
        self._device = {name: self._register(token) for name, token in self._tokens.items()}

    def bob(self, seconds: float) -> dict[str, dict[str, float]]:
        """Send Bob's requests for a while; return how long each kind took, and how many were refused."""
        found: dict[str, dict[str, float]] = {}
        until = time.monotonic() + seconds

        def work(kind: str) -> None:
            path, body = self._request(kind)
            times, refused = [], 0
            with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
                while time.monotonic() < until:
                    began = time.perf_counter()
                    refused += self._ask(connection, "bob", path, body) != 200
                    times.append(time.perf_counter() - began)
                    time.sleep(KINDS[kind])
            found[kind] = {**summary(times), "refused": refused}

        threads = [threading.Thread(target=work, args=(kind,)) for kind in KINDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def requests(self, attack: str) -> list[str]:
        """Return the requests of an attack, which Mallory repeats."""
        device = self._device["mallory"]
        pulled = {"device_id": device, "cursor": 0}
        match attack:
            case "devices listed":
                return [self._raw("GET", "/devices?limit=200")]
            case "devices registered":
                names = (secrets.token_hex(8) for _ in range(2000))
                return [self._raw("POST", "/devices", {"device_name": name, "platform": "linux"}) for name in names]
            case "pulls by a future time":
                return [self._raw("POST", "/pull", pulled | {"since": "2999-01-01T00:00:00Z"})]
            case "pulls by 100 tables":
                return [self._raw("POST", "/pull", pulled | {"tables": [f"none {n}" for n in range(100)]})]
            case "pulls of everything":
                return [self._raw("POST", "/pull", pulled)]
            case "right logins":
                return [self._raw("POST", "/auth", self._log_in("mallory"))]
            case _:
                return [self._raw("POST", "/push", {"device_id": device, "changes": [_change()] * 100})]

    def _request(self, kind: str) -> tuple[str, dict[str, Any] | None]:
        device = {"device_id": self._device["bob"]}
        bodies: dict[str, dict[str, Any] | None] = {
            "status": None,
            "pull": device | {"cursor": 0, "limit": 10},
            "push": device | {"changes": [_change()]},
            "login": self._log_in("bob"),
        }
        return f"/{kind if kind != 'login' else 'auth'}", bodies[kind]

    def _log_in(self, name: str) -> dict[str, str]:
        return {"email": f"{name}@example.org", "password": PASSWORD, "api_key": self._api_key}

    def _ask(self, connection: http.client.HTTPConnection, name: str, path: str, body: object) -> int:
        headers = {"Authorization": f"Bearer {self._tokens[name]}"}
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", f"/api/sync{path}", content, headers)
        response = connection.getresponse()
        response.read()
        return response.status

    def _raw(self, method: str, path: str, body: object = None) -> str:
        content = "" if body is None else json.dumps(body)
        head = f"{method} /api/sync{path} {HOST}Authorization: Bearer {self._tokens['mallory']}\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n{content}"

    def _register(self, token: str) -> str:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            body = json.dumps({"device_name": "laptop", "platform": "linux"})
            connection.request("POST", "/api/sync/devices", body, {"Authorization": f"Bearer {token}"})
            return str(json.load(connection.getresponse())["id"])


@contextmanager
def service(database: str, rows: int, devices: int) -> Iterator[Service]:
    """Fill an empty database and start a server on it."""
    key = secrets.token_hex(32)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="synckit-fairness-")))
        postgresql = stack.enter_context(PostgreSQL()) if database == "postgresql" else None
        url = postgresql.url() if postgresql else f"sqlite:///{folder}/synckit.db"
        store = Store(url)
        stack.callback(store.dispose)
        store.write_alone(schema.prepare)
        password_hash = passwords.hash_password(PASSWORD)
        api_key = store.write(lambda connection: accounts.add_app(connection, APP))[1]
        users = {name: store.write(_adding(f"{name}@example.org", password_hash)) for name in ("bob", "mallory")}
        for first in range(0, rows, 100_000):
            store.write(_filling(_CHANGES, users["mallory"], first, min(rows, first + 100_000)))
        store.write(_filling(_HEAD, users["mallory"], 0, rows))
        for first in range(0, devices, 100_000):
            store.write(_filling(_DEVICES, users["mallory"], first, min(devices, first + 100_000)))
        if postgresql:
            with postgresql.connect() as connection:
                connection.execute("ANALYZE")
        settings = {"SYNCKIT_DATABASE_URL": url}
        server = stack.enter_context(gunicorn(key, folder, app=BACKEND, core=None, settings=settings))
        yield Service(server, key, api_key, users)


_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT :first + 1 UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
_CHANGES = f"""
    INSERT INTO changes (app_id, user_id, seq, device_id, table_name, op, row_id, timestamp, data, received_at)
    {_NUMBERS} SELECT :app, :user, i, 'd', 'tasks', 'INSERT', 'row', '2026-01-31T12:00:00Z', '{"x" * 100}', i FROM n
"""
_HEAD = "INSERT INTO heads (app_id, user_id, seq, changed_at) VALUES (:app, :user, :last, :last + :first)"
_DEVICES = f"""
    INSERT INTO devices (id, app_id, user_id, name, platform, created_at)
    {_NUMBERS} SELECT CAST(i AS TEXT), :app, :user, '{"x" * 90}' || i, 'linux', i FROM n
"""


def _adding(email: str, password_hash: str) -> Any:
    return lambda connection: accounts.add_user(connection, email, password_hash)


def _filling(statement: str, user: str, first: int, last: int) -> Any:
    def fill(connection: Connection) -> None:
        if last > 0:
            connection.execute(text(statement), {"app": APP, "user": user, "first": first, "last": last})

    return fill


def _change() -> dict[str, str]:
    return {"table": "tasks", "op": "INSERT", "row_id": "1", "timestamp": "2026-01-31T12:00:00Z", "data": "x" * 100}


def _line(row: Row) -> str:
    answers = ", ".join(f"{count:,} x {status}" for status, count in sorted(row["answers"].items())) or "none"
    without, during = (
        f"{row[when]['p50'] * 1e3:,.1f} / {row[when]['p99'] * 1e3:,.1f}" for when in ("without", "during")
    )
    refused = f"{row['during']['refused']:.0f} refused" if row["during"]["refused"] else ""
    mark = refused or ("too slow" if is_broken(row) else "-")
    return f"| {row['database']} | {row['attack']} | {answers} | {row['kind']} | {without} | {during} | {mark} |"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"some of: {', '.join(ATTACKS)} (default all)")
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each attack (default 10)")
    parser.add_argument("--rows", type=int, default=200_000, help="changes in Mallory's log (default 200,000)")
    parser.add_argument("--devices", type=int, default=1_000, help="devices of Mallory (default 1,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"unknown attack {', '.join(sorted(unknown))}; choose from {', '.join(ATTACKS)}")
    options.attacks = options.attacks or list(ATTACKS)
    return options


if __name__ == "__main__":
    sys.exit(main())
