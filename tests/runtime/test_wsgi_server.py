"""Which server this is: what real servers do with streams, and what their environs and classes say."""

import io
import json
import re
import signal
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest
import werkzeug.test
from gunicorn.config import Config
from gunicorn.workers import base_async
from gunicorn.workers.ggevent import GeventPyWSGIWorker, GeventWorker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.gtornado import TornadoWorker
from gunicorn.workers.sync import SyncWorker

from synckit_notify import gunicorn_hooks
from synckit_notify.runtime import wsgi_server
from synckit_notify.runtime.per_process import PerProcess
from synckit_notify.testing import open_stream

from ..support import minimal_host, wsgi_servers
from ..support.apache import apache
from ..support.minimal_host import ThreadWorkerOfAHost
from ..support.programs import need
from ..support.proxies import certificate
from ..support.raw_client import CHANGED, CONNECTED, Listener
from ..support.server import GUNICORN, NO_CONTROL_SOCKET, Server, gunicorn
from ..support.tokens import make_token
from ..support.versions import needs
from ..support.wait import until

SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
PATIENCE = 30.0  # seconds: a worker may still be loading its application, on a machine with other work

thorough = pytest.mark.thorough

REFUSING = {
    "pywsgi": "patch_all",
    "gunicorn -k sync": "-k gevent",
    "gunicorn -k gthread --threads 1": "--threads",
    "gunicorn -k tornado": "tornado",
    "tornado": "tornado",
    "tornado with threads": "tornado",
    "wsgiref": "one request at a time",
    "uwsgi --master": "--gevent-monkey-patch",
    "uwsgi --gevent 20": "--gevent-monkey-patch",
}
KNOWN = {
    "gunicorn -k gunicorn.workers.gthread.ThreadWorker --threads 10": 9,
    "gunicorn -k tests.support.minimal_host.ThreadWorkerOfAHost --threads 10": 9,
    "patched pywsgi": None,
    "gunicorn -k gevent_pywsgi --worker-connections 10": 9,
    "gunicorn -k gunicorn.workers.ggevent.GeventWorker --worker-connections 10": 9,
    "flask run": None,
    "uwsgi --gevent 10 --gevent-monkey-patch": 9,
}
UNKNOWN = ["waitress", "cheroot", "a2wsgi", "uwsgi --enable-threads --threads 10"]
EVERY_RUN = {"pywsgi", "patched pywsgi", "waitress", "gunicorn -k gunicorn.workers.gthread.ThreadWorker --threads 10"}


def servers(names: dict[str, object] | list[str]) -> list:
    """Parameters: a few servers in every run, the others in a thorough one."""
    return [pytest.param(name, marks=() if name in EVERY_RUN else thorough, id=name) for name in names]


THREADS = {"wsgi.multithread": True, "wsgi.multiprocess": True}


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """Sets signal handlers, and those from before when the test ends."""
    monkeypatch.setattr(wsgi_server, "_gunicorn_of_process", PerProcess(wsgi_server._known_gunicorn))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGABRT)}
    yield signal.signal
    for number, old in before.items():
        signal.signal(number, old)


def gunicorn_worker(kind: type, **config: object) -> Any:
    """One of gunicorn's workers that serves nobody."""
    worker = object.__new__(kind)
    worker.cfg, worker.alive = Config(), True
    for name, value in config.items():
        worker.cfg.set(name, value)
    return worker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def subscribe(server: Server, user: str = "alice", path: str = SUBSCRIBE, **options) -> Listener:
    return Listener(server.port, path, make_token(user), **options)


def is_alive(server: Server, path: str = "/api/sync/live") -> bool:
    with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as answer:
        return answer.status == 200


def push(server: Server) -> None:
    request = urllib.request.Request(f"{server.url}/push/notes/alice", method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE).close()


def ready(server: Server, path: str = "/api/sync/ready") -> dict:
    with urllib.request.urlopen(server.url + path, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def hears(listener: Listener, frame: bytes) -> bool:
    """Return whether a frame comes, in a body with or without chunks."""
    wanted = re.escape(frame.strip())
    end = time.monotonic() + PATIENCE
    while not re.search(wanted, listener.raw):
        if time.monotonic() > end:
            return False
        listener.receive(end - time.monotonic())
    return True


def refusal_of(server: Server, **options) -> str:
    with subscribe(server, **options) as answer:
        assert answer.status == 503
        assert "retry-after" in answer.headers
        return answer.json()["error"]


@pytest.mark.parametrize("name", servers(REFUSING))
def test_a_server_that_one_stream_would_block_refuses_it_and_keeps_serving(name: str, tmp_path: Path) -> None:
    with wsgi_servers.start(name, tmp_path, {}) as server:
        sentences = {refusal_of(server) for _ in range(3)}
        assert is_alive(server)
        assert len(sentences) == 1
        assert REFUSING[name] in sentences.copy().pop()
        assert server.log.count(sentences.pop()) == 1


@pytest.mark.parametrize("name", servers(KNOWN))
def test_a_known_server_allows_streams_up_to_its_limit_and_keeps_serving(name: str, tmp_path: Path, stack) -> None:
    with wsgi_servers.start(name, tmp_path, {"SYNCKIT_KEEPALIVE_SECONDS": "0.5"}) as server:
        listeners = [stack.enter_context(subscribe(server)) for _ in range(KNOWN[name] or 12)]
        assert all(hears(listener, CONNECTED) for listener in listeners)
        if KNOWN[name]:
            assert "limit of open streams" in refusal_of(server)
        push(server)
        assert all(hears(listener, CHANGED) for listener in listeners)
        assert ready(server)["streams"] == len(listeners)
        stack.close()
        assert until(lambda: ready(server)["streams"] == 0, seconds=PATIENCE)
        assert "SYNCKIT_MAX" not in server.log


@pytest.mark.parametrize("name", servers(UNKNOWN))
def test_an_unknown_server_allows_two_streams_with_one_warning_and_keeps_serving(
    name: str, tmp_path: Path, stack
) -> None:
    with wsgi_servers.start(name, tmp_path, {}) as server:
        check_two_streams_and_one_warning(server, stack)


@thorough
def test_mod_wsgi_allows_two_streams_with_one_warning_and_keeps_serving(stack) -> None:
    folder = Path(stack.enter_context(TemporaryDirectory()))
    check_two_streams_and_one_warning(stack.enter_context(apache(folder)), stack)


def check_two_streams_and_one_warning(server: Server, stack: ExitStack) -> None:
    listeners = [stack.enter_context(subscribe(server)) for _ in range(2)]
    for _ in range(10):
        assert "limit of open streams" in refusal_of(server)
    push(server)
    assert all(hears(listener, CHANGED) for listener in listeners)
    assert is_alive(server)
    warnings = [line for line in server.log.splitlines() if "SYNCKIT_MAX_STREAMS" in line]
    assert len(warnings) == 1
    assert "SYNCKIT_MAX_STREAM_SECONDS" in warnings[0]


@pytest.mark.parametrize("name", servers(UNKNOWN))
def test_the_settings_win_on_an_unknown_server_and_an_age_limit_frees_it(name: str, tmp_path: Path, stack) -> None:
    env = {"SYNCKIT_MAX_STREAMS": "3", "SYNCKIT_MAX_STREAM_SECONDS": "2", "SYNCKIT_KEEPALIVE_SECONDS": "300"}
    with wsgi_servers.start(name, tmp_path, env) as server:
        for _ in range(3):
            with subscribe(server) as listener:
                assert hears(listener, CONNECTED)
        assert until(lambda: ready(server)["streams"] == 0, seconds=PATIENCE), "of clients that left without a word"
        listeners = [stack.enter_context(subscribe(server)) for _ in range(3)]
        assert all(hears(listener, b": bye max_age") for listener in listeners)
        assert "SYNCKIT_MAX" not in server.log


@thorough
def test_a_server_that_does_not_report_a_disconnect_ends_the_stream_within_a_minute(tmp_path: Path) -> None:
    with wsgi_servers.start("a2wsgi", tmp_path, {}) as server:
        for _ in range(2):
            with subscribe(server) as listener:
                assert hears(listener, CONNECTED)
        assert ready(server)["streams"] == 2
        assert until(lambda: ready(server)["streams"] == 0, seconds=65)


def test_two_applications_of_a_worker_share_its_connections(tmp_path: Path, stack) -> None:
    with gunicorn("tests.support.minimal_host:create_two_apps()", tmp_path, "--worker-connections", "10") as server:
        for number in range(9):
            path = SUBSCRIBE if number % 3 else f"/other{SUBSCRIBE}"
            assert hears(stack.enter_context(subscribe(server, path=path)), CONNECTED)
        for prefix in ("", "/other"):
            assert "limit of open streams" in refusal_of(server, path=prefix + SUBSCRIBE)
            assert is_alive(server, f"{prefix}/api/sync/live")
            state = ready(server, f"{prefix}/api/sync/ready")
            assert (state["streams"], state["max_streams"], state["fill"]) == (9, 9, 1.0)


def test_streams_that_cannot_be_parked_leave_the_worker_room(tmp_path: Path, stack) -> None:
    """An HTTP/1.0 proxy in front, as nginx is unless told otherwise: such a stream keeps its connection."""
    env = {"SYNCKIT_PARKING": "1"}
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path, "--worker-connections", "20", env=env) as server:
        for _ in range(30):
            assert hears(stack.enter_context(subscribe(server)), CONNECTED)
        for _ in range(18):
            assert hears(stack.enter_context(subscribe(server, version="HTTP/1.0")), CONNECTED)
        assert "limit of open streams" in refusal_of(server, version="HTTP/1.0")
        assert ready(server)["fill"] == 1.0
        assert is_alive(server)


@thorough
@needs("gunicorn", "25.0")
def test_a_stream_over_http_2_is_refused_by_gunicorn_and_one_over_http_1_is_not(tmp_path: Path) -> None:
    need("openssl")
    chain, key = certificate(tmp_path)
    command = [
        GUNICORN,
        "tests.support.minimal_host:create_app()",
        "-k",
        "gevent",
        "--bind",
        "127.0.0.1:0",
        *NO_CONTROL_SOCKET,
    ]
    command += ["--http-protocols", "h2,h1", "--certfile", str(chain), "--keyfile", str(key)]
    headers = {"Authorization": f"Bearer {make_token()}"}
    with Server(command, tmp_path, r"Listening at: https://127\.0\.0\.1:(\d+)") as server:
        address = f"https://127.0.0.1:{server.port}{SUBSCRIBE}"
        with httpx2.Client(http2=True, verify=ssl.create_default_context(cafile=chain), timeout=60) as client:
            refused = client.get(address, headers=headers)
        assert (refused.http_version, refused.status_code) == ("HTTP/2", 503)
        assert "http_protocols" in refused.json()["error"]
        assert server.log.count("take h2 out of http_protocols") == 1
        with (
            httpx2.Client(verify=ssl.create_default_context(cafile=chain), timeout=60) as client,
            client.stream("GET", address, headers=headers) as stream,
        ):
            assert next(stream.iter_raw()) == CONNECTED


class TestGunicorn:
    """What is known before a request comes, from the worker's class and configuration."""

    def test_its_worker_is_found_behind_each_of_two_signal_handlers(self, handler) -> None:
        assert wsgi_server.gunicorn_worker() is None
        assert wsgi_server.of_process() is None
        worker = gunicorn_worker(ThreadWorker)
        for number in (signal.SIGABRT, signal.SIGTERM):
            handler(number, worker.handle_exit)
            assert wsgi_server.gunicorn_worker() is worker
            handler(number, signal.SIG_DFL)

    def test_a_host_that_replaces_the_signal_handlers_names_its_worker_itself(self, monkeypatch) -> None:
        monkeypatch.setattr(wsgi_server, "_attached", None)
        worker = gunicorn_worker(ThreadWorker)
        gunicorn_hooks.attach(worker)
        assert wsgi_server.gunicorn_worker() is worker

    @pytest.mark.parametrize(
        ("kind", "config", "descriptors", "limit"),
        [
            (GeventWorker, {"worker_connections": 1000}, [20000], 900),
            (GeventWorker, {"worker_connections": 10000}, [1024], 921),
            (GeventWorker, {"worker_connections": 10000}, [], 9000),
            (GeventPyWSGIWorker, {"worker_connections": 1000}, [20000], 900),
            (ThreadWorker, {"threads": 40}, [20000], 36),
            (ThreadWorker, {"threads": 4000}, [20000], 900),  # it accepts no more than worker_connections
            (ThreadWorkerOfAHost, {"threads": 40}, [20000], 36),
            (ThreadWorker, {"threads": 1}, [20000], 0),
            (base_async.AsyncWorker, {}, [20000], 2),
        ],
    )
    def test_streams_leave_a_tenth_of_it_to_others(self, handler, monkeypatch, kind, config, descriptors, limit):
        monkeypatch.setattr(wsgi_server, "_descriptors", lambda: descriptors)
        handler(signal.SIGTERM, gunicorn_worker(kind, **config).handle_exit)
        assert wsgi_server.of_process().max_streams == limit

    @pytest.mark.parametrize(
        ("kind", "config", "alone", "words"),
        [
            (GeventWorker, {}, True, []),
            (SyncWorker, {}, True, ["-k gevent"]),
            (TornadoWorker, {}, True, ["-k gevent"]),
            (ThreadWorker, {"threads": 1}, True, ["--threads"]),
            (ThreadWorkerOfAHost, {"threads": 1}, True, ["--threads"]),
            (ThreadWorker, {"threads": 50}, True, []),
            (GeventWorker, {"workers": 2}, True, ["SYNCKIT_BROKER_URL"]),
            (GeventWorker, {"workers": 2}, False, []),
            pytest.param(
                *(GeventWorker, {"http_protocols": "h2,h1"}, True, ["http_protocols"]), marks=needs("gunicorn", "25.0")
            ),
            (SyncWorker, {"workers": 2}, True, ["-k gevent", "SYNCKIT_BROKER_URL"]),
        ],
    )
    def test_each_refusal_is_one_sentence_that_names_what_to_change(self, handler, kind, config, alone, words) -> None:
        handler(signal.SIGTERM, gunicorn_worker(kind, **config).handle_exit)
        sentences = list(wsgi_server.faults(alone=alone))
        assert len(sentences) == len(words)
        assert all(word in sentence for word, sentence in zip(words, sentences, strict=True))

    def test_an_http_2_request_is_refused_and_its_socket_is_never_touched(self, handler) -> None:
        handler(signal.SIGTERM, gunicorn_worker(GeventWorker).handle_exit)
        environ = {"gunicorn.socket": object(), "wsgi.multithread": True}
        shared = wsgi_server.of_request(environ | {"SERVER_PROTOCOL": "HTTP/2.0"})
        assert "http_protocols" in shared.refusal
        assert shared.client_socket is None
        own = wsgi_server.of_request(environ | {"SERVER_PROTOCOL": "HTTP/1.1"})
        assert own.refusal is None
        assert own.client_socket is environ["gunicorn.socket"]


RECORDED = {
    "mod_wsgi, a daemon": ({"mod_wsgi.version": (4, 9, 4), "SERVER_SOFTWARE": "Apache/2.4.71", **THREADS}, 2),
    "mod_wsgi in a prefork child": ({"mod_wsgi.version": (4, 9, 4), "SERVER_SOFTWARE": "Apache/2.4.71"}, "one request"),
    "hypercorn, starlette": ({"wsgi.input": io.BytesIO(), **THREADS}, 2),
    "a server of another time": ({}, "one request"),
    "CGI": ({"SERVER_SOFTWARE": "lighttpd/1.4", "wsgi.run_once": True, "wsgi.multiprocess": True}, "each request"),
    "flask run --without-threads": ({"werkzeug.socket": object()}, "one request"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_servers_are_recognised_by_their_environ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tornado.wsgi")  # gunicorn's tornado worker imports it
    environ, expected = RECORDED[name]
    server = wsgi_server.of_request(environ)
    assert (expected in server.refusal) if isinstance(expected, str) else (server.max_streams == expected)


def test_a_test_client_has_no_limit_and_no_warning(caplog: pytest.LogCaptureFixture, stack) -> None:
    app = minimal_host.create_app()
    streams = [stack.enter_context(open_stream(app.test_client(), "notes", make_token())) for _ in range(5)]
    assert [stream.next_frame() for stream in streams] == [CONNECTED] * 5
    assert app.test_client().get("/api/sync/ready").json["max_streams"] is None
    assert werkzeug.test.Client(app).get("/api/sync/ready").json["max_streams"] is None
    assert not caplog.records
