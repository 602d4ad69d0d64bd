"""Each folder of examples/ runs as it stands, under gunicorn, and does what its README says."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from synckit_notify.brokers import Notice, connect

from .support.brokers import Process
from .support.browser import ENTER, Browser
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import ROOT, Server, clean_environment, flask_run, gunicorn
from .support.valkey import Valkey
from .support.wait import until

EXAMPLES = ROOT / "examples"


@contextmanager
def example(name: str, app: str, folder: Path, **env: str) -> Iterator[Server]:
    """Run a copy of an example, so that the database it makes goes with the test."""
    copy = shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("instance", "__pycache__"))
    with gunicorn(app, copy, env={"SYNCKIT_BROKER_NAMESPACE": ""} | env) as server:
        yield server


def flask(folder: Path, *words: str, **env: str) -> str:
    """Run a command of the example's own application and return what it printed."""
    command = [sys.executable, "-m", "flask", "--app", "app", *words]
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)} | env
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def send(url: str, token: str | None = None, body: object = None) -> Any:
    """Return the answer, as JSON where it is JSON."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        text = answer.read().decode()
        return json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def test_minimal(tmp_path: Path) -> None:
    with example("minimal", "app:app", tmp_path) as server:
        token = send(f"{server.url}/token/alice")
        with Listener(server.port, "/api/sync/subscribe?app_id=notes&device_id=phone", token) as phone:
            assert phone.next_frame() == CONNECTED
            pushed = {"device_id": "laptop", "note": "hello"}
            assert send(f"{server.url}/api/sync/push", token, pushed) == {"cursor": 1}
            assert phone.next_frame() == CHANGED
        assert send(f"{server.url}/api/sync/pull?cursor=0", token)["changes"] == [{"note": "hello"}]


def test_flask_jwt_extended(tmp_path: Path) -> None:
    with example("flask-jwt-extended", "app:create_app()", tmp_path) as server:
        flask(tmp_path / "flask-jwt-extended", "init-db")
        token = send(f"{server.url}/login", body={"name": "alice", "password": "secret"})["token"]
        with Listener(server.port, "/api/sync/subscribe?app_id=tasks&device_id=phone", token) as phone:
            assert phone.next_frame() == CONNECTED
            assert send(f"{server.url}/api/sync/push", token, {"device_id": "laptop", "data": "sealed"}) == {
                "cursor": 1
            }
            assert phone.next_frame() == CHANGED
            assert send(f"{server.url}/api/sync/pull", token) == {"changes": [{"seq": 1, "data": "sealed"}]}
            assert send(f"{server.url}/logout-everywhere", token, {}) == {"logged_out": True}
            assert phone.next_frame() == b": bye revoked\n\n"
        with pytest.raises(urllib.request.HTTPError, match="401"):
            send(f"{server.url}/api/sync/pull", token)


@pytest.mark.thorough
def test_jwks(tmp_path: Path) -> None:
    with flask_run(str(EXAMPLES / "jwks" / "provider.py"), tmp_path) as provider:
        env = {"SYNCKIT_JWT_JWKS_URL": f"{provider.url}/jwks.json"}
        with example("jwks", "app:app", tmp_path, **env) as server:
            token = send(f"{provider.url}/token/alice")
            with Listener(server.port, "/api/sync/subscribe?app_id=notes&device_id=phone", token) as phone:
                assert phone.next_frame() == CONNECTED
                send(f"{provider.url}/rotate", body={})
                after = send(f"{provider.url}/token/alice")
                assert jwt.get_unverified_header(after)["kid"] != jwt.get_unverified_header(token)["kid"]
                pushed = {"device_id": "laptop", "note": "hello"}
                assert send(f"{server.url}/api/sync/push", after, pushed) == {"cursor": 1}
                assert phone.next_frame() == CHANGED
            assert send(f"{server.url}/api/sync/pull?cursor=0", token)["changes"] == ["hello"]


@contextmanager
def celery_worker(folder: Path, **env: str) -> Iterator[None]:
    """Run a Celery worker of the example's own application; its log is a file in the folder."""
    command = [sys.executable, "-m", "celery", "--app", "app.celery", "worker"]
    command += ["--concurrency", "1", "--loglevel", "INFO"]
    written = folder / "celery.log"
    environment = clean_environment() | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | env
    with written.open("w") as log:
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        assert until(lambda: " ready." in written.read_text(), 60.0), written.read_text()
        yield
    finally:
        worker.terminate()
        worker.wait(60)


@pytest.mark.thorough
def test_celery(tmp_path: Path, valkey: Valkey) -> None:
    folder, env = tmp_path / "celery", {"REDIS_URL": f"{valkey.url}/0"}
    with example("celery", "app:app", tmp_path, **env) as server, celery_worker(folder, **env):
        token = send(f"{server.url}/token/alice")
        with Listener(server.port, "/api/sync/subscribe?app_id=notes&device_id=phone", token) as phone:
            assert phone.next_frame() == CONNECTED
            assert phone.next_news() == CHANGED, "of the gap before the subscription"
            other = Process(connect(valkey.url))
            assert until(other.ready)
            assert send(f"{server.url}/import", token, {"notes": ["hello", "again"]}) == {"queued": True}
            assert phone.next_news() == CHANGED
            assert until(lambda: other.heard.messages == [Notice("notes", "alice")]), "not only of the sweep"
            other.broker.close()
        assert send(f"{server.url}/api/sync/pull", token) == {"notes": ["hello", "again"]}
        assert "1 process" in flask(folder, "synckit", "streams", **env)


@pytest.mark.thorough
def test_browser(tmp_path: Path, chromium: Browser) -> None:
    with example("browser", "app:app", tmp_path) as server:
        folder = tmp_path / "browser"
        api_key = re.findall(r"\S{36,}", flask(folder, "synckit", "app", "add", "Notes"))[-1]
        flask(folder, "synckit", "user", "add", "you@example.org", "--password", "a password")

        def log_in() -> None:
            chromium.go(f"{server.url}/notes")
            given = {"email": "you@example.org", "password": "a password", "apiKey": api_key, "passphrase": "a secret"}
            for name, value in given.items():
                chromium.type(f"input[name={name}]", value)
            chromium.tap("#log-in button")
            assert chromium.until(lambda: chromium.text("#state") == "connected"), chromium.text("#state")

        log_in()
        chromium.type("input[name=text]", "written in one window" + ENTER)
        assert chromium.until(lambda: "stored" not in chromium.text("#state"))
        with chromium.another_tab():
            log_in()
            assert chromium.until(lambda: chromium.text("#notes") == "written in one window")
            chromium.type("input[name=text]", "and in another" + ENTER)
        assert chromium.until(lambda: chromium.text("#notes") == "and in another\nwritten in one window")
