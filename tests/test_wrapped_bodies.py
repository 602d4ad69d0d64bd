"""A stream lives as long as its body is iterated, and is closed once, whatever middleware wraps the body."""

import contextlib
import gc
import itertools
import json
import logging
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask, Response
from werkzeug.test import EnvironBuilder

from synckit_notify.streams.channel import ChannelKey, EndReason

from .support import minimal_host, wrapped_host
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import Server, flask_run, gunicorn
from .support.tokens import make_token
from .support.wait import until

THOROUGH = pytest.mark.thorough
APP = "tests.support.wrapped_host:create_app()"
SOON = 5.0  # five times the promise

DEFAULT = {
    "gevent": lambda folder: gunicorn(APP, folder),
    "parked": lambda folder: gunicorn(APP, folder, env={"SYNCKIT_PARKING": "1"}),
}
SERVERS = {
    "gthread": lambda folder: gunicorn(APP, folder, "--threads", "20", worker_class="gthread"),
    "flask run": lambda folder: flask_run(APP, folder),
}

PLACES = [
    "",
    *(f"X-Middleware: {name}\r\n" for name in wrapped_host.WRAPPERS),
    *(f"X-Hook: {name}\r\n" for name in wrapped_host.WRAPPERS),
]

numbers = itertools.count()


@pytest.fixture(
    scope="module", params=["gevent", "parked", *(pytest.param(s, marks=THOROUGH) for s in ("gthread", "flask run"))]
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (DEFAULT | SERVERS)[request.param](tmp_path_factory.mktemp("server")) as started:
        yield started
        assert not started.tracebacks


def get(server: Server, path: str) -> str:
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return answer.read().decode()


def post(server: Server, path: str) -> None:
    urllib.request.urlopen(urllib.request.Request(server.url + path, method="POST"), timeout=60).close()


def streams(server: Server) -> int:
    return int(json.loads(get(server, "/api/sync/ready"))["streams"])


@pytest.fixture
def name() -> str:
    """Both the user and the device of one stream."""
    return f"n{next(numbers)}"


def listen(server: Server, name: str, headers: str) -> Listener:
    listener = Listener(
        server.port, f"/api/sync/subscribe?app_id=notes&device_id={name}", make_token(name), headers=headers
    )
    assert listener.next_frame() == CONNECTED
    return listener


@pytest.mark.parametrize("headers", PLACES, ids=lambda headers: headers.strip() or "nothing")
def test_a_wrapped_stream_receives_is_counted_and_released_when_the_client_disconnects(
    server: Server, name: str, headers: str
) -> None:
    with listen(server, name, headers) as listener:
        for _ in range(2):
            post(server, f"/push/notes/{name}")
            assert listener.next_frame() == CHANGED
        assert streams(server) == 1
        assert get(server, f"/closed/{name}") == "0", "parked or not, it has not ended"
    assert until(lambda: streams(server) == 0, SOON)
    assert until(lambda: get(server, f"/closed/{name}") == "1", SOON)


@pytest.mark.parametrize(
    "headers", ["", "X-Middleware: loop\r\n", "X-Middleware: iterator kept\r\n", "X-Hook: iterator kept\r\n"]
)
def test_a_log_out_ends_a_wrapped_stream_cleanly_and_once(server: Server, name: str, headers: str) -> None:
    with listen(server, name, headers) as listener:
        post(server, f"/disconnect/notes/{name}")
        assert listener.read_to_end() == CONNECTED + b": bye revoked\n\n"
        assert until(lambda: streams(server) == 0, SOON)
        assert until(lambda: get(server, f"/closed/{name}") == "1", SOON)
    assert get(server, f"/closed/{name}") == "1"


@pytest.mark.thorough
@pytest.mark.parametrize("parking", ["0", "1"])
def test_a_worker_that_stops_calls_back_for_every_stream(tmp_path: Path, parking: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    env = {"SYNCKIT_PARKING": parking, "CLOSED_SLOWLY_IN": str(closed)}
    with gunicorn(APP, tmp_path / "server", env=env) as server, contextlib.ExitStack() as stack:
        for number in range(40):
            stack.enter_context(listen(server, str(number), ""))
        server.stop(within=30)
    assert len(list(closed.iterdir())) == 40


class Host:
    """An application that is called as a WSGI server calls it, in this process."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.worker = app.extensions["synckit_notify"].node()

    def open(self) -> Iterator[bytes]:
        """Subscribe, and return the body after its first bytes."""
        headers = {"Authorization": f"Bearer {make_token()}"}
        environ = EnvironBuilder("/api/sync/subscribe?app_id=notes", headers=headers).get_environ()
        body = iter(self.app.wsgi_app(environ, lambda status, headers, exc_info=None: lambda data: None))
        assert next(body) == CONNECTED
        return body

    def streams(self) -> int:
        return len(self.worker.registry)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def callback_that_knows_its_response(response: Response) -> Response:
    response.call_on_close(lambda: response.status)
    return response


def hook_that_wraps(response: Response) -> Response:
    response.response = map(bytes, response.response)
    return callback_that_knows_its_response(response)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("hook", [lambda response: response, callback_that_knows_its_response, hook_that_wraps])
def test_dropping_the_last_reference_releases_the_stream_without_the_collector(
    hook: Callable[[Response], Response],
) -> None:
    app = minimal_host.create_app()
    app.after_request(hook)
    host = Host(app)
    body = host.open()
    assert host.streams() == 1
    del body
    assert host.streams() == 0
    host.worker.join_idle()


def test_a_body_that_is_kept_referenced_ends_at_the_age_limit_without_a_known_socket() -> None:
    closed: list[int] = []
    app = minimal_host.create_app(SYNCKIT_MAX_STREAM_SECONDS=0.2)

    @app.after_request
    def hook(response: Response) -> Response:
        response.call_on_close(lambda: closed.append(1))
        return response

    host = Host(app)
    kept = host.open()
    assert until(lambda: host.streams() == 0, SOON)
    assert until(lambda: closed == [1])
    assert list(kept) == [b": bye max_age\n\n"], "who iterates after all reads the end"
    kept.close()
    assert closed == [1]
    host.worker.join_idle()


def test_a_closed_body_ends_and_its_stream_is_released() -> None:
    host = Host(minimal_host.create_app())
    body = host.open()
    body.close()
    host.worker.registry.deliver(ChannelKey("notes", "alice"))
    assert list(body) == []
    host.worker.join_idle()


def test_a_callback_that_fails_prevents_neither_the_others_nor_the_release(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []
    app = minimal_host.create_app()

    @app.after_request
    def hook(response: Response) -> Response:
        response.call_on_close(lambda: 1 / 0)
        response.call_on_close(lambda: called.append(1))
        return response

    host = Host(app)
    host.open().close()
    assert (host.streams(), called) == (0, [1])
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    host.worker.join_idle()


def test_a_host_with_a_response_class_of_its_own_gets_its_class_and_its_callbacks() -> None:
    class HostResponse(Response):
        pass

    seen: list[object] = []
    app = minimal_host.create_app()
    app.response_class = HostResponse

    @app.after_request
    def hook(response: Response) -> Response:
        seen.append(isinstance(response, HostResponse))
        response.call_on_close(lambda: seen.append("closed"))
        return response

    host = Host(app)
    host.open().close()
    assert seen == [True, "closed"]
    host.worker.join_idle()


def test_a_hook_that_replaces_the_response_leaves_no_stream() -> None:
    app = minimal_host.create_app()

    @app.after_request
    def hook(response: Response) -> Response:
        response.status, response.response = "403 FORBIDDEN", ["closed for maintenance"]
        return response

    headers = {"Authorization": f"Bearer {make_token()}"}
    with app.test_client().get("/api/sync/subscribe?app_id=notes", headers=headers) as answer:
        assert (answer.status_code, answer.text) == (403, "closed for maintenance")
    assert Host(app).streams() == 0
    app.extensions["synckit_notify"].node().join_idle()


def test_the_log_names_each_stream_once_and_why_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "synckit_notify")
    host = Host(minimal_host.create_app())
    kept = host.open()
    host.worker.registry.end_all(EndReason.REVOKED)
    assert list(kept) == [b": bye revoked\n\n"]
    assert until(lambda: not host.worker.busy(), SOON)
    kept.close()
    host.worker.join_idle()
    assert [r.getMessage().partition(" age")[0] for r in caplog.records] == ["stream ended reason=revoked"]


def test_a_log_handler_that_fails_affects_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the log server is away")

    log, handler = logging.getLogger("synckit_notify"), Failing()
    monkeypatch.setattr(log, "level", logging.INFO)
    monkeypatch.setattr(log, "handlers", [handler])
    host = Host(minimal_host.create_app())
    host.open().close()
    assert host.streams() == 0
    assert host.app.test_client().get("/api/sync/subscribe?app_id=notes").status_code == 401
    host.worker.join_idle()
