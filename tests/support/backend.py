"""The reference backend for the tests: an account in it, callers of its API, and a clone to start gunicorn in."""

import http.client
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import text

from synckit_notify.backend import Backend, accounts, passwords
from synckit_notify.backend.database import schema

from .server import GUNICORN, ROOT, Server, clean_environment
from .tokens import KEY

Answer = tuple[int, Any]
Send = Callable[[str, str, Any, dict[str, str]], Answer]

Run = Callable[..., str]
"""Runs a command of the backend; returns what it printed."""

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


def close_database(app: Flask) -> None:
    """Close an application's connections, once the threads of its streams have ended: one still in use is forgotten."""
    app.extensions["synckit_notify"].node().join_idle()
    app.extensions["synckit_backend"].store.dispose()


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


def keep_rows(backend: Backend, app: str = "notes") -> None:
    """Store an app with the log mode `rows`."""
    row = {"id": app, "name": app.title(), "api_key_hash": app, "created_at": 0, "log": "rows"}
    backend.store.write(lambda connection: connection.execute(schema.apps.insert().values(row)) and None)


def over_http(url: str) -> Send:
    """Send over a connection of its own per request."""

    def send(method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        try:
            connection.request(method, full(path), None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    return send


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


def settings(url: str) -> dict[str, str]:
    """Return the settings of a backend on this database."""
    return {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": url}


def run_python(code: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a Python process that runs the code in this folder, with pipes to its standard input and output."""
    env = clean_environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def postgres_setting(backend: Backend, name: str) -> str:
    """Return a setting of the backend's connections to PostgreSQL."""
    found: str = backend.store.read(lambda connection: connection.execute(text(f"SHOW {name}")).scalar_one())
    return found


def readiness(app: Flask) -> tuple[int, bool]:
    """Return the status of `/ready`, and what it says of the database."""
    answer = app.test_client().get("/api/sync/ready")
    return answer.status_code, answer.get_json()["host"]


def refused(app: Flask, *words: str) -> str:
    """Run a command that must exit with status 1; return what it printed."""
    result = app.test_cli_runner().invoke(args=["synckit", *words])
    assert result.exit_code == 1, result.output
    return result.output


def last_word(output: str) -> str:
    """Return the last word that a command printed, such as an API key."""
    return output.split()[-1]
