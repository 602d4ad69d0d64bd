"""Real servers and sockets: which stream receives what, the bytes on the wire, and a registry that returns to zero."""

import json
import random
import re
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import Server, flask_run, gunicorn
from .support.tokens import make_token
from .support.wait import wait_until

SERVERS = {
    "gevent": lambda folder, app, env: gunicorn(app, folder, env=env),
    "parked": lambda folder, app, env: gunicorn(app, folder, env=env | {"SYNCKIT_PARKING": "1"}),
    "gthread": lambda folder, app, env: gunicorn(app, folder, "--threads", "600", worker_class="gthread", env=env),
    "flask run": lambda folder, app, env: flask_run(app, folder, env),
}


def post(server: Server, path: str) -> str:
    request = urllib.request.Request(server.url + path, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def push(server: Server, user: str) -> str:
    return post(server, f"/push/notes/{user}")


def get(server: Server, path: str) -> str:
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        return answer.read().decode()


def ready(server: Server, prefix: str = "/api/sync") -> dict:
    return json.loads(get(server, f"{prefix}/ready"))


def back_to_zero(server: Server, within: float, prefix: str = "/api/sync") -> bool:
    until = time.monotonic() + within
    while (streams := ready(server, prefix)["streams"]) and time.monotonic() < until:
        time.sleep(0.05)
    return streams == 0


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """Opens subscriptions, and closes what a test left open."""
    opened: list[Listener] = []

    def subscribe(server: Server, user="alice", app="notes", device=None, *, life=3600, prefix="/api/sync") -> Listener:
        token = make_token(user, app, device=device, life=life)
        listener = Listener(server.port, f"{prefix}/subscribe?app_id={app}", token)
        opened.append(listener)
        assert listener.status == 200
        assert listener.next_frame() == CONNECTED
        return listener

    yield subscribe
    for listener in opened:
        listener.close()


@pytest.fixture(
    scope="module", params=["gevent", "parked", "flask run", pytest.param("gthread", marks=pytest.mark.thorough)]
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "0.5"}
    with SERVERS[request.param](
        tmp_path_factory.mktemp("server"), "tests.support.minimal_host:create_app()", env
    ) as started:
        yield started


def test_three_devices_of_two_users_and_two_apps_get_only_their_notices(server: Server, listen) -> None:
    listeners = {
        "alice's laptop": listen(server, "alice", "notes", "laptop"),
        "alice's phone": listen(server, "alice", "notes", "phone"),
        "alice's tablet": listen(server, "alice", "notes", "tablet"),
        "bob's laptop": listen(server, "bob", "notes", "laptop"),
        "alice's laptop in tasks": listen(server, "alice", "tasks", "laptop"),
    }
    post(server, "/push/notes/alice?device=laptop")
    for name in ("alice's phone", "alice's tablet"):
        assert listeners[name].next_news() == CHANGED, name
    for name in ("alice's laptop", "bob's laptop", "alice's laptop in tasks"):
        listeners[name].next_frame()
        assert CHANGED not in listeners[name].body, name


def test_the_bytes_of_a_whole_stream(server: Server, listen) -> None:
    listener = listen(server, life=4)
    post(server, "/push/notes/alice")
    body = listener.read_to_end()
    assert re.fullmatch(
        rb": connected\n\n(: keepalive\n\n)*event: changed\ndata:\n\n(: keepalive\n\n)*: bye token_expired\n\n",
        body,
    ), body
    assert listener.raw.endswith(b"\r\n0\r\n\r\n")
    expected = {
        "content-type": "text/event-stream",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
        "synckit-keepalive": "0.5",
        "transfer-encoding": "chunked",
    }
    assert expected.items() <= listener.headers.items()


def test_every_frame_is_one_chunk(server: Server, listen) -> None:
    with listen(server) as listener:
        post(server, "/push/notes/alice")
        listener.next_news()
        assert b"16\r\nevent: changed\ndata:\n\n\r\n" in listener.raw


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/api/sync/subscribe", make_token(), 400),
        ("/api/sync/subscribe?app_id=notes", None, 401),
        ("/api/sync/subscribe?app_id=notes", make_token(life=-1), 401),
        ("/api/sync/subscribe?app_id=tasks", make_token(), 403),
    ],
)
def test_a_refusal_is_json(server: Server, listen, path: str, token: str | None, status: int) -> None:
    with Listener(server.port, path, token) as answer:
        assert answer.status == status
        assert list(answer.json()) == ["error"]


@pytest.mark.thorough
def test_twenty_pushes_at_once_leave_exactly_sixteen_notices(tmp_path: Path, listen) -> None:
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path) as server:
        listener = listen(server)
        post(server, "/push/notes/alice?times=20")  # one request under gevent: no stream runs in between
        listener.next_frame()
        post(server, "/disconnect/notes/alice")
        assert listener.read_to_end() == CONNECTED + CHANGED * 16 + b": bye revoked\n\n"


def test_a_push_while_a_stream_is_being_opened_is_never_missed(server: Server, listen) -> None:
    """The client's rule is to pull once it is connected: what it does not pull then it must hear of."""
    dice = random.Random(20261123)
    opening = statistics.median(seconds_to_open_and_pull(server, listen) for _ in range(9))
    heard, pulled = 0, 0
    for number in range(60):
        user = f"opening-{number}"
        delay = dice.uniform(0, 2 * opening)
        pushing = threading.Thread(target=lambda user=user, delay=delay: (time.sleep(delay), push(server, user)))
        pushing.start()
        with listen(server, user) as listener:
            if get(server, f"/log/{user}") == "0":
                assert listener.next_news() == CHANGED
                heard += 1
            else:
                pulled += 1
        pushing.join()
    assert heard > 2, "the race must really be raced"
    assert pulled > 2, "the race must really be raced"


def seconds_to_open_and_pull(server: Server, listen) -> float:
    """How long the race lasts, on this machine at this moment."""
    began = time.monotonic()
    with listen(server, "nobody"):
        get(server, "/log/nobody")
    return time.monotonic() - began


WAYS_TO_GO = {
    "close": Listener.close,
    "reset": Listener.reset,
    "half-close, then close": lambda listener: (listener.socket.shutdown(1), listener.close()),
    "token expires": lambda listener: (listener.read_to_end(), listener.close()),
}


@pytest.mark.parametrize("way", WAYS_TO_GO)
def test_the_registry_is_empty_after_every_way_to_disconnect(server: Server, listen, way: str) -> None:
    listeners = [listen(server, life=5 if "expires" in way else 3600) for _ in range(10)]
    for listener in listeners:
        WAYS_TO_GO[way](listener)
    assert back_to_zero(server, within=5.0)


@pytest.mark.thorough
def test_a_thousand_streams_that_end_in_every_way_leave_nothing(tmp_path: Path, listen) -> None:
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "1", "SYNCKIT_MAX_STREAMS": "2000"}
    with gunicorn(
        "tests.support.minimal_host:create_app()", tmp_path, "--worker-connections", "2000", env=env
    ) as server:
        listeners = [listen(server, f"user{number % 50}", device=f"{number}", life=600) for number in range(1000)]
        assert ready(server)["streams"] == 1000
        for number, listener in enumerate(listeners):
            if number % 4 == 0:
                listener.close()
            elif number % 4 == 1:
                listener.reset()
            elif number % 4 == 2:
                listener.socket.shutdown(socket.SHUT_RDWR)
        for number in range(50):
            post(server, f"/disconnect/notes/user{number}")
        assert listeners[3].read_to_end().endswith(b": bye revoked\n\n")
        assert back_to_zero(server, within=6.0)
        assert not server.tracebacks


def test_head_leaves_nothing_behind(server: Server, listen) -> None:
    with Listener(server.port, "/api/sync/subscribe?app_id=notes", make_token(), method="HEAD") as answer:
        assert answer.status == 200
    assert back_to_zero(server, within=5.0)


@pytest.fixture(scope="module", params=SERVERS)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("foreign")
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "1", "FOREIGN_DATABASE": str(folder / "foreign.db")}
    with SERVERS[request.param](folder, "tests.support.full_host:create_app()", env) as started:
        yield started


def test_a_foreign_host_serves_streams_and_its_own_pages_side_by_side(foreign: Server, listen) -> None:
    listeners = [listen(foreign, device="phone", prefix="/v1/sync") for _ in range(8)]
    wait_until(lambda: get(foreign, "/") == "checked out: 0")  # the sweep has one for a moment
    post(foreign, "/notes/notes/alice?device=laptop")
    assert [listener.next_news() for listener in listeners] == [CHANGED] * 8
    for listener in listeners:
        listener.close()
    assert back_to_zero(foreign, within=5.0, prefix="/v1/sync")
    assert not foreign.tracebacks


def test_a_foreign_hosts_sweep_repairs_a_notice_that_was_never_sent(foreign: Server, listen) -> None:
    listener = listen(foreign, "bob", prefix="/v1/sync")
    post(foreign, "/notes/notes/bob?silently")
    assert listener.next_news() == CHANGED


def test_a_worker_that_is_stopped_ends_its_streams_cleanly(tmp_path: Path, listen) -> None:
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path) as server:
        listeners = [listen(server) for _ in range(20)]
        began = time.monotonic()
        threading.Thread(target=server.stop).start()
        for listener in listeners:
            assert re.fullmatch(rb": connected\n\nretry: \d+\n\n: bye draining\n\n", listener.read_to_end(2.0))
        assert time.monotonic() - began < 2.5


def test_the_limit_of_a_worker_leaves_room_for_its_health(tmp_path: Path, listen) -> None:
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path, "--worker-connections", "10") as server:
        listeners = [listen(server, f"user{number}") for number in range(9)]
        with Listener(server.port, "/api/sync/subscribe?app_id=notes", make_token()) as refused:
            assert refused.status == 503
            assert "retry-after" in refused.headers
        assert ready(server) == ready(server) | {"ready": True, "streams": 9, "max_streams": 9, "fill": 1.0}
        for listener in listeners:
            listener.close()


def test_a_sync_worker_refuses_instead_of_hanging(tmp_path: Path, listen) -> None:
    with (
        gunicorn("tests.support.minimal_host:create_app()", tmp_path, worker_class="sync") as server,
        Listener(server.port, "/api/sync/subscribe?app_id=notes", make_token()) as refused,
    ):
        assert refused.status == 503
        assert "-k gevent" in refused.json()["error"]
