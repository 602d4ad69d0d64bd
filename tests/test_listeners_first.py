"""A push is heard before it is answered: one switch for each request that publishes, after the host's own functions."""

import json
import os
import select
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from flask import Flask, Response, request_finished

from synckit_notify.listeners_first import _KEY, MAX_LISTENERS, MAX_SECONDS, REST_SECONDS, ListenersFirst, remember
from synckit_notify.testing import open_stream

from .support import minimal_host
from .support.gevent_script import under_gevent
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import Server, gunicorn
from .support.tokens import make_token

APP = "tests.support.switching_host:create_app()"
SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
PUSHERS, PUSHES = 8, 5
KINDS = {"generator": {}, "parked": {"SYNCKIT_PARKING": "1"}}
Listen = Callable[..., Listener]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a server with streams of one kind."""
    return KINDS[request.param]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens subscriptions, and closes them after the test."""
    opened: list[Listener] = []

    def subscribe(server: Server, user: str = "alice") -> Listener:
        opened.append(Listener(server.port, SUBSCRIBE, make_token(user)))
        assert opened[-1].next_frame() == CONNECTED
        return opened[-1]

    yield subscribe
    for listener in opened:
        listener.close()


def post(server: Server, path: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(server.url + path, method="POST"), timeout=60) as answer:
        return answer.read().decode()


def counts(server: Server) -> dict:
    with urllib.request.urlopen(f"{server.url}/counts", timeout=60) as answer:
        return json.load(answer)


def switches_of(server: Server, path: str) -> int:
    """Return how often a request lets the other greenlets run."""
    before = counts(server)["switches"]
    post(server, path)
    return counts(server)["switches"] - before


def test_the_frame_is_there_before_the_answer(tmp_path: Path, kind: dict[str, str], listen: Listen) -> None:
    with gunicorn(APP, tmp_path, env=kind) as server:
        stream = listen(server)
        [worker] = server.workers()
        os.sched_setaffinity(worker, {min(os.sched_getaffinity(worker))})  # packets of one core arrive in their order
        for _ in range(10):
            with Listener(server.port, "/push/alice", None, method="POST", headers="Content-Length: 0\r\n") as answer:
                assert answer.status == 200
                assert select.select([stream.socket], [], [], 0)[0] == [stream.socket]
            assert stream.next_frame() == CHANGED


@pytest.mark.parametrize(
    ("path", "switches"),
    [
        ("/push/alice", 1),
        ("/push/alice?times=20", 1),
        (f"/push/alice?times={MAX_LISTENERS + 1}", 0),  # as many as in a channel of this size
        ("/push/nobody", 0),
        ("/batch/alice", 0),  # the outer request may have a transaction open
        ("/log", 0),
    ],
)
def test_a_request_switches_at_most_once_and_publish_never(
    tmp_path: Path, listen: Listen, path: str, switches: int
) -> None:
    with gunicorn(APP, tmp_path) as server:
        listen(server)
        before = counts(server)["switches"]
        if path == "/log":
            urllib.request.urlopen(f"{server.url}/counts", timeout=60).close()
        else:
            assert json.loads(post(server, path)) == {"switches": 0}
        assert counts(server)["switches"] - before == switches


@pytest.mark.parametrize(
    ("env", "path", "order"),
    [
        ({}, "/push/alice", ["second hook", "first hook", "switch"]),
        ({"TEARDOWN": "1"}, "/push/alice", ["second hook", "first hook", "teardown", "switch"]),
        ({}, "/streamed/alice", ["second hook", "first hook", "switch"]),
    ],
)
def test_the_switch_comes_after_the_functions_of_the_host(
    tmp_path: Path, listen: Listen, env: dict[str, str], path: str, order: list[str]
) -> None:
    with gunicorn(APP, tmp_path, env=env) as server:
        listen(server)
        post(server, path)
        assert counts(server)["order"] == order


def test_a_body_that_keeps_the_context_has_no_switch_before_teardown(tmp_path: Path, listen: Listen) -> None:
    """Flask before 3.1.1 runs teardown at the end of this body, and newer ones run it twice."""
    with gunicorn(APP, tmp_path, env={"TEARDOWN": "1"}) as server:
        listen(server)
        assert post(server, "/streamed/alice") == "streamed"
        order = counts(server)["order"]
        assert "switch" not in order[: order.index("teardown")]


def test_after_a_slow_switch_a_worker_answers_at_once(tmp_path: Path, kind: dict[str, str], listen: Listen) -> None:
    env = kind | {"MAX_SECONDS": str(MAX_SECONDS), "REST_SECONDS": "3600"}
    with gunicorn(APP, tmp_path, env=env) as server:
        stream = listen(server)
        assert [switches_of(server, "/push/alice?slow=1"), switches_of(server, "/push/alice")] == [1, 0]
        assert stream.next_frame() == stream.next_frame() == CHANGED


def test_a_threaded_worker_never_switches(tmp_path: Path, listen: Listen) -> None:
    with gunicorn(APP, tmp_path, "--threads", "5", worker_class="gthread") as server:
        stream = listen(server)
        assert switches_of(server, "/push/alice") == 0
        assert stream.next_frame() == CHANGED


def test_the_test_client_is_answered_as_before() -> None:
    for patched in (False, True):
        code = f"""
            import gevent
            from tests import test_listeners_first
            test_listeners_first.push_by_the_test_client()
            print({patched})
        """
        if patched:
            done = under_gevent(code)
            assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
        else:
            push_by_the_test_client()


def push_by_the_test_client() -> None:
    client = minimal_host.create_app(SYNCKIT_BROKER_URL="memory://").test_client()
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.next_frame() == CONNECTED
        answer = client.post("/push/notes/alice?times=3")
        assert (answer.status_code, answer.text) == (200, "announced")
        assert stream.next_frame() == CHANGED


def locked_by_pushes(folder: Path, env: dict[str, str], listen: Listen) -> tuple[int, int]:
    """Return how many of the pushes of parallel clients SQLite refuses, and how many switches there were."""
    with gunicorn(APP, folder, env=env | {"TEARDOWN": "1"}) as server:
        listen(server)

        def work() -> None:
            for _ in range(PUSHES):
                try:
                    post(server, "/write/alice")
                except urllib.error.HTTPError as error:
                    error.close()

        threads = [threading.Thread(target=work) for _ in range(PUSHERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = counts(server)
        return found["locked"], found["switches"]


def test_a_transaction_that_ends_at_teardown_blocks_no_other_request(
    tmp_path: Path, kind: dict[str, str], listen: Listen
) -> None:
    """A switch in an after_request function, for comparison, makes SQLite refuse many of the same pushes."""
    locked, switches = locked_by_pushes(tmp_path / "on", kind, listen)
    locked_before, _ = locked_by_pushes(tmp_path / "off", kind | {"OFF": "1"}, listen)
    locked_too_early, _ = locked_by_pushes(tmp_path / "early", kind | {"OFF": "1", "EARLY": "1"}, listen)
    assert switches == PUSHERS * PUSHES
    assert locked == locked_before == 0
    assert locked_too_early > 0


class Greenlets:
    """Other greenlets that take some time when they may run, and the clock that shows it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.takes = 0.0
        self.runs = 0

    def switch(self) -> None:
        self.runs += 1
        self.now += self.takes

    def clock(self) -> float:
        return self.now


def test_the_rules_of_a_switch() -> None:
    others = Greenlets()
    first = ListenersFirst(others.switch, others.clock)
    for listeners, takes, waits, runs in [
        (0, 0.0, 0.0, 0),
        (1, 0.0, 0.0, 1),
        (MAX_LISTENERS, MAX_SECONDS / 2, 0.0, 1),
        (MAX_LISTENERS + 1, 0.0, 0.0, 0),
        (3, 2 * MAX_SECONDS, 0.0, 1),  # too slow
        (3, 0.0, 0.0, 0),
        (3, 0.0, REST_SECONDS / 2, 0),
        (3, 2 * MAX_SECONDS, REST_SECONDS, 1),  # still too slow
        (3, 0.0, REST_SECONDS / 2, 0),
        (3, 0.0, REST_SECONDS, 1),
        (3, 0.0, 0.0, 1),
    ]:
        before, others.takes, others.now = others.runs, takes, others.now + waits
        environ = {_KEY: listeners}
        first.serve(environ)
        first.serve(environ)  # a request has one switch
        assert others.runs - before == runs, (listeners, takes, waits)


@pytest.mark.parametrize(
    ("host_has", "order"),
    [
        ([], ["after_request", "switch", "answer"]),
        (["signal"], ["after_request", "signal", "switch", "answer"]),
        (["teardown"], ["after_request", "teardown", "switch", "answer"]),
        (["middleware"], ["after_request", "middleware", "switch", "answer"]),
        (["teardown", "middleware"], ["after_request", "teardown", "middleware", "switch", "answer"]),
    ],
)
def test_the_switch_comes_after_whatever_may_commit(host_has: list[str], order: list[str]) -> None:
    assert steps_of_a_push(host_has) == order


def steps_of_a_push(host_has: Collection[str]) -> list[str]:
    """Return what happens, in this order, when a request publishes in a host that has these ways to commit."""
    app, did = Flask(__name__), []

    @app.post("/push")
    def push() -> str:
        remember(1)
        return "pushed"

    @app.after_request
    def after_request(response: Response) -> Response:
        did.append("after_request")
        return response

    def finished(sender: Flask, response: Response) -> None:
        did.append("signal")

    if "signal" in host_has:
        request_finished.connect(finished, app)
    if "teardown" in host_has:
        app.teardown_request(lambda error: did.append("teardown"))
    if "middleware" in host_has:
        application = app.wsgi_app

        def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            body = application(environ, start_response)
            did.append("middleware")
            return body

        app.wsgi_app = middleware  # type: ignore[method-assign]
    ListenersFirst(switch=lambda: did.append("switch")).install(app)
    app.test_client().post("/push")
    return [*did, "answer"]
