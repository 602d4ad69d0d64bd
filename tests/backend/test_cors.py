"""Web pages of other origins: each route of the backend, and a real browser that holds a stream and pulls."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from string import Template

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ..support.backend import Caller, full, over_http, start
from ..support.programs import need
from ..support.raw_client import CHANGED, CONNECTED
from ..support.tokens import KEY, make_token

LISTED = "https://app.example"
QUIET = "--disable-gpu --disable-quic --disable-background-networking --disable-component-update --disable-sync"

SCRIPT = Template("""
<script type="module">
    const say = (words) => fetch("/said", { method: "POST", body: words });
    const ask = (path, token, body) => {
        const headers = { Authorization: "Bearer " + token, "Content-Type": "application/json" };
        return fetch("$service/api/sync" + path, { method: body ? "POST" : "GET", headers, body });
    };
    try {
        const refused = await ask("/subscribe?app_id=notes", "nonsense");
        await say(refused.status + " " + refused.headers.get("WWW-Authenticate"));
        const stream = await ask("/subscribe?app_id=notes", "$token");
        await say(stream.status + " " + stream.headers.get("SyncKit-Keepalive"));
        for await (const text of stream.body.pipeThrough(new TextDecoderStream())) {
            await say(text);
            if (!text.includes("changed")) continue;
            const pulled = await ask("/pull", "$token", JSON.stringify({ device_id: "$device", cursor: 0 }));
            await say("pulled " + (await pulled.json()).changes.length);
        }
    } catch (error) {
        await say(error.name);
    }
</script>
""")


class Page(ThreadingHTTPServer):
    """A page on an origin of its own; `hear` returns what its script says next."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.script = ""
        self.said: Queue[str] = Queue()
        self.origin = f"http://127.0.0.1:{self.server_port}"

    def hear(self) -> str:
        return self.said.get(timeout=15)

    def __enter__(self) -> "Page":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Visit(BaseHTTPRequestHandler):
    """The browser fetches the page, or posts what its script says."""

    server: Page

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.script.encode())

    def do_POST(self) -> None:
        self.server.said.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def chromium(folder: Path, url: str) -> Iterator[None]:
    """A browser without a window that has the page open."""
    options = ["--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={folder}", *QUIET.split()]
    silent = subprocess.DEVNULL
    with subprocess.Popen([need("chromium"), *options, url], stdout=silent, stderr=silent) as browser:
        try:
            yield
        finally:
            browser.terminate()


@pytest.mark.thorough
def test_in_a_browser_a_listed_page_streams_and_pulls_and_a_strange_one_sees_nothing(
    clone: Path, tmp_path: Path
) -> None:
    need("chromium")
    with (
        Page() as listed,
        Page() as strange,
        start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_ENV="production", SYNCKIT_CORS_ORIGINS=listed.origin) as service,
    ):
        alice = Caller(over_http(service.url), make_token())
        laptop, web = alice.register("laptop"), alice.register("browser", platform="web")
        listed.script = strange.script = SCRIPT.substitute(service=service.url, token=make_token(), device=web)
        with chromium(tmp_path / "first", listed.origin):
            assert listed.hear() == '401 Bearer error="invalid_token"'
            assert listed.hear() == "200 30"
            assert listed.hear() == CONNECTED.decode()
            alice.push(laptop)
            assert listed.hear() == CHANGED.decode()
            assert listed.hear() == "pulled 1"
        with chromium(tmp_path / "second", strange.origin):
            assert strange.hear() == "TypeError"


@pytest.fixture
def client(make_app: Callable[..., Flask]) -> FlaskClient:
    return make_app(SYNCKIT_CORS_ORIGINS=LISTED).test_client()


ROUTES = ["/auth", "/devices", "/devices/1", "/push", "/pull", "/status", "/keys", "/subscribe", "/ready", "/nowhere"]


@pytest.mark.parametrize("path", [*map(full, ROUTES), "/oauth/token", "/oauth/userinfo"])
@pytest.mark.parametrize(("origin", "allowed"), [(LISTED, LISTED), ("https://evil.example", None)])
def test_a_listed_page_may_call_every_route_and_read_its_errors(client: FlaskClient, path, origin, allowed) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
    preflight = client.options(path, headers=headers)
    assert (preflight.status_code, preflight.headers["Vary"]) == (204, "Origin")
    assert preflight.headers.get("Access-Control-Allow-Origin") == allowed
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = client.open(path, method=method, headers={"Origin": origin})
        assert answer.headers.getlist("Access-Control-Allow-Origin") == ([allowed] if allowed else [])
        assert answer.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/oauth/authorize", "/api/synced"])
def test_what_is_no_route_for_scripts_gets_no_header(client: FlaskClient, path: str) -> None:
    for method in ("OPTIONS", "GET"):
        headers = {"Origin": LISTED, "Access-Control-Request-Method": "GET"}
        answer = client.open(path, method=method, headers=headers)
        assert "Access-Control-Allow-Origin" not in answer.headers
