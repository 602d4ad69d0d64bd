"""PostgreSQL behind a real PgBouncer: each transaction may be in another session, as with managed databases."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import Connection, text

from synckit_notify.backend import Backend, create_app, log_heads

from ..support.backend import Caller, change, over_http, postgres_setting, start
from ..support.pgbouncer import pgbouncer
from ..support.postgresql import PostgreSQL
from ..support.server import free_port
from ..support.tokens import KEY, make_token

pytestmark = pytest.mark.thorough

SESSIONS = 3
"""Connections of the pooler to PostgreSQL, for all clients."""


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """An empty database behind a pooler in transaction mode, in which commits do not wait for the disk."""
    postgresql.emptied()
    with pgbouncer(postgresql, SESSIONS) as url:
        set_synchronous_commit(postgresql, "= off")
        try:
            yield url
        finally:
            set_synchronous_commit(postgresql, "TO DEFAULT")


def set_synchronous_commit(postgresql: PostgreSQL, value: str) -> None:
    with postgresql.connect() as connection:
        connection.execute(f"ALTER DATABASE postgres SET synchronous_commit {value}")


@pytest.fixture
def database(url: str) -> dict[str, str]:
    """The settings for that database."""
    return {"SYNCKIT_DATABASE_URL": url}


def test_many_workers_push_and_pull_without_an_error(clone: Path, database: dict[str, str]) -> None:
    people, turns = 6, 25
    settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_WORKERS": "2"}
    with start(clone, **settings, **database) as server:

        def work(number: int) -> list[int]:
            person = Caller(over_http(server.url), make_token(f"person {number}"))
            device = person.register()
            cursors = []
            for turn in range(turns):
                cursors.append(person.push(device, change(f"{turn}"), push_id=f"push {turn}"))
                assert len(person.pull(device)["changes"]) == turn + 1
            return cursors

        with ThreadPoolExecutor(people) as pool:
            assert list(pool.map(work, range(people))) == [list(range(1, turns + 1))] * people
        assert "away" not in server.log
        assert not server.tracebacks


def test_every_transaction_has_our_settings_and_leaves_none_behind(
    app: Flask, backend: Backend, alice: Caller, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = alice.register()
    seen: list[tuple[str, ...]] = []
    names = ("synchronous_commit", "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    move_head = log_heads.move

    def move_head_and_look(connection: Connection, *args: object) -> None:
        seen.append(tuple(connection.execute(text(f"SHOW {name}")).scalar_one() for name in names))
        move_head(connection, *args)

    monkeypatch.setattr(log_heads, "move", move_head_and_look)
    alice.push(laptop)
    assert seen == [("on", "5s", "10s", "30s")]
    assert [postgres_setting(backend, name) for name in names[1:]] == ["5s", "10s", "30s"]
    with PostgreSQLSession(url) as session:
        assert session.show("lock_timeout") == "0"
        assert session.show("synchronous_commit") == "off"


class PostgreSQLSession:
    """A client of the pooler's that sets nothing: it sees what others left behind in its sessions."""

    def __init__(self, url: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)

    def show(self, name: str) -> str:
        row = self._connection.execute(f"SHOW {name}").fetchone()  # type: ignore[call-overload]
        return str(row[0])

    def __enter__(self) -> "PostgreSQLSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def test_an_unavailable_server_behind_it_is_503_until_it_is_back(
    app: Flask, alice: Caller, postgresql: PostgreSQL
) -> None:
    laptop = alice.register()
    alice.push(laptop)
    with postgresql.away():
        assert alice.post("/push", {"device_id": laptop, "changes": [change()]})[0] == 503
    until_back = time.monotonic() + 30.0  # the pooler itself tries again only every 15 s
    while (status := alice.post("/push", {"device_id": laptop, "changes": [change()]})[0]) == 503:
        assert time.monotonic() < until_back
        time.sleep(0.2)
    assert status == 200


def test_an_unavailable_pooler_does_not_stop_a_start(url: str) -> None:
    absent = urlsplit(url)._replace(netloc=f"synckit:secret@127.0.0.1:{free_port()}").geturl()
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": absent})
    assert app.test_client().get("/api/sync/ready").status_code == 503
