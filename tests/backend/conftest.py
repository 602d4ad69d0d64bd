"""The backend on an empty database, devices that talk to it, and a clone that gunicorn can be started in."""

import http.client
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from argon2 import PasswordHasher
from flask import Flask

from synckit_notify.backend import Backend, accounts, create_app, passwords

from ..conftest import KEY, make_token
from ..support.postgresql import PostgreSQL
from ..support.server import GUNICORN, ROOT, Server

Answer = tuple[int, Any]
Send = Callable[[str, str, Any, dict[str, str]], Answer]

SQLITE_ONLY = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For a test in which the kind of database makes no difference."""

AT = "2026-01-31T12:00:00Z"
PASSWORD = "correct horse"


class Caller:
    """Somebody with a token; `send` carries a request to the backend, by whatever way."""

    def __init__(self, send: Send, token: str | None) -> None:
        self._send = send
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Answer:
        return self._send("GET", path, None, self.headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self._send("POST", path, body, self.headers)

    def put(self, path: str, body: Any = None) -> Answer:
        return self._send("PUT", path, body, self.headers)

    def delete(self, path: str) -> Answer:
        return self._send("DELETE", path, None, self.headers)

    def register(self, name: str = "laptop", **fields: object) -> str:
        """Register a device and return its id."""
        status, answer = self.post("/devices", {"device_name": name, "platform": "linux"} | fields)
        assert status == 200, answer
        return str(answer["id"])

    def push(self, device: str, *changes: dict[str, object], **fields: object) -> int:
        """Push, and return the cursor."""
        status, answer = self.post("/push", {"device_id": device, "changes": changes or [change()]} | fields)
        assert status == 200, answer
        return int(answer["cursor"])

    def pull(self, device: str, cursor: int = 0, **fields: object) -> Any:
        """Pull one page and return the answer."""
        status, answer = self.post("/pull", {"device_id": device, "cursor": cursor} | fields)
        assert status == 200, answer
        return answer


def change(row_id: str = "1", **fields: object) -> dict[str, object]:
    """One change that is right, but for the fields given."""
    return {"table": "tasks", "op": "INSERT", "row_id": row_id, "timestamp": AT, "data": "ciphertext"} | fields


def full(path: str) -> str:
    """Return a whole path: what is not OAuth's is under the prefix."""
    return path if path.startswith("/oauth/") else f"/api/sync{path}"


def add_account(backend: Backend) -> dict[str, str]:
    """Store an app and a user; return what they log in with."""
    password_hash = passwords.hash_password(PASSWORD)
    _, api_key = backend.store.write(lambda connection: accounts.add_app(connection, "notes"))
    backend.store.write(lambda connection: accounts.add_user(connection, "Alice@Example.org", password_hash))
    return {"email": "alice@example.org", "password": PASSWORD, "api_key": api_key}


def over_http(url: str) -> Send:
    """Send over a connection of its own per request."""

    def send(method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        try:
            connection.request(method, full(path), None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    return send


def _forget_settings(patch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SYNCKIT_")]:
        patch.delenv(name)


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not reach them."""
    _forget_settings(monkeypatch)


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
    """The settings that name an empty database: none for SQLite, which is the default."""
    if request.param == "sqlite":
        return {}
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return {"SYNCKIT_DATABASE_URL": server.emptied()}


@pytest.fixture(scope="module")
def quick_passwords() -> Iterator[None]:
    """Hash passwords in no time, for tests that log in by the hundred and are not about hashing."""
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", quick)
        patch.setattr(passwords, "_DUMMY_HASH", quick.hash("nobody's"))
        yield


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.thorough)])
def shared_app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quick_passwords: None
) -> Iterator[Flask]:
    """One backend for all tests of a module, on either kind of database, with Alice's account in the app `notes`."""
    settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_LOGIN_LIMIT": "off"}  # the tests of a module fail from one address
    if request.param == "postgresql":
        settings["SYNCKIT_DATABASE_URL"] = request.getfixturevalue("postgresql").emptied()
    with pytest.MonkeyPatch.context() as patch:
        _forget_settings(patch)
        app = create_app(settings, instance_path=tmp_path_factory.mktemp("shared"))
    backend: Backend = app.extensions["synckit_backend"]
    app.config["CREDENTIALS"] = add_account(backend)
    yield app
    backend.store.dispose()


@pytest.fixture
def make_app(tmp_path: Path, database: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    """Make applications on one database; their connections are closed at the end."""
    made: list[Flask] = []

    def make(**config: object) -> Flask:
        made.append(create_app({"SYNCKIT_JWT_KEY": KEY} | database | config, instance_path=tmp_path / "instance"))
        return made[-1]

    yield make
    for app in made:
        app.extensions["synckit_backend"].store.dispose()


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
def clone(tmp_path: Path) -> Path:
    """A folder in which plain `gunicorn` starts the service; its instance folder is its own."""
    return make_clone(tmp_path)


def make_clone(parent: Path) -> Path:
    """Return a folder with what a clone needs to start plain `gunicorn`."""
    folder = parent / "clone"
    folder.mkdir()
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def start(clone: Path, **settings: str) -> Server:
    """Start plain `gunicorn` in a clone, with the settings in its environment."""
    env = {"SYNCKIT_BIND": "127.0.0.1:0"} | settings
    return Server([GUNICORN], clone, r"Listening at: http://127\.0\.0\.1:(\d+)", env)


@pytest.fixture
def service(clone: Path, database: dict[str, str]) -> Iterator[Server]:
    """The service under gunicorn and gevent, one worker, with the tests' key."""
    with start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_ENV="production", **database) as server:
        yield server
