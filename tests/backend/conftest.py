"""The backend on an empty database, devices that talk to it, and a clone that gunicorn can be started in."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from synckit_notify.backend import Backend, create_app

from ..support import empty_database
from ..support.backend import Answer, Caller, Run, Send, add_account, close_database, full, make_clone, start
from ..support.postgresql import PostgreSQL
from ..support.server import Server
from ..support.tokens import KEY, make_token


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all the tests of this process."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def bare(postgresql: PostgreSQL) -> Iterator[str]:
    """A database of PostgreSQL's without a table, to which nobody is connected."""
    with postgresql.connect() as connection:
        connection.execute("CREATE DATABASE bare")
        yield postgresql.url("bare")
        connection.execute("DROP DATABASE bare WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that name an empty database: none for SQLite, which is the default.

    No broker: the first subscription to one wakes every stream. tests/brokers tests the one that is the default.
    """
    if request.param == "sqlite":
        return {}
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return {"SYNCKIT_DATABASE_URL": server.emptied(), "SYNCKIT_BROKER_URL": "memory://"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def shared_app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One backend for all tests of a module, on either kind of database, with Alice's account in the app `notes`."""
    settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_LOGIN_LIMIT": "off"}  # the tests of a module fail from one address
    if request.param == "postgresql":
        settings["SYNCKIT_DATABASE_URL"] = request.getfixturevalue("postgresql").emptied()
        settings["SYNCKIT_BROKER_URL"] = "memory://"
    app = create_app(settings, instance_path=tmp_path_factory.mktemp("shared"))
    backend: Backend = app.extensions["synckit_backend"]
    app.config["CREDENTIALS"] = add_account(backend)
    yield app
    close_database(app)


@pytest.fixture
def make_app(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    """Make applications on one database; their connections are closed at the end."""
    made: list[Flask] = []

    def make(**config: object) -> Flask:
        made.append(empty_database.make_app({"SYNCKIT_JWT_KEY": KEY} | database | config, tmp_path / "instance"))
        return made[-1]

    yield make
    for app in made:
        close_database(app)


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    """The backend with an empty database."""
    return make_app()


@pytest.fixture
def backend(app: Flask) -> Backend:
    """What the routes work with."""
    found: Backend = app.extensions["synckit_backend"]
    return found


@pytest.fixture
def send(app: Flask) -> Send:
    """Send through the Flask test client."""

    def send(method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body)
        response = app.test_client().open(full(path), method=method, data=content, headers=headers)
        return response.status_code, response.get_json(silent=True)

    return send


@pytest.fixture
def as_user(send: Send) -> Callable[..., Caller]:
    """Return somebody with a good token."""
    return lambda user="alice", app="notes": Caller(send, make_token(user, app))


@pytest.fixture
def alice(as_user: Callable[..., Caller]) -> Caller:
    """Alice with a token for the app `notes`."""
    return as_user()


@pytest.fixture
def credentials(backend: Backend) -> dict[str, str]:
    """The log-in of an account that exists."""
    return add_account(backend)


@pytest.fixture
def log_in(send: Send, credentials: dict[str, str]) -> Callable[..., Any]:
    """Log in; with other fields if given."""
    return lambda **fields: send("POST", "/auth", credentials | fields, {})


@pytest.fixture
def run(app: Flask) -> Run:
    """Run a command and return what it printed; its exit status must be 0."""

    def run(*words: str, stdin: str = "") -> str:
        result = app.test_cli_runner().invoke(args=["synckit", *words], input=stdin)
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder in which plain `gunicorn` starts the service; its instance folder is its own."""
    return make_clone(tmp_path)


@pytest.fixture
def service(clone: Path, database: dict[str, str]) -> Iterator[Server]:
    """The service under gunicorn and gevent, one worker, with the tests' key."""
    with start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_ENV="production", **database) as server:
        yield server
