"""A client that disconnects, vanishes or stops reading is released in time, and delays no other client.

Keepalives are so rare here, or the time is so short, that a failing write cannot be what detects it.
"""

import contextlib
import http.client
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.netns import OtherMachine
from .support.raw_client import CHANGED, CONNECTED, KEEPALIVE, WAYS_TO_DISCONNECT, Listener
from .support.server import Server, flask_run, gunicorn
from .support.tokens import make_token

THOROUGH = pytest.mark.thorough
SEEN_WITHIN = 0.5  # five times the promise
SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
APP = "tests.support.minimal_host:create_app()"

SERVERS = {
    "gevent": lambda folder: gunicorn(APP, folder),
    "gevent, preloaded": lambda folder: gunicorn(APP, folder, "--preload"),
    "parked": lambda folder: gunicorn(APP, folder, env={"SYNCKIT_PARKING": "1"}),
    "gthread": lambda folder: gunicorn(APP, folder, "--threads", "60", worker_class="gthread"),
    "flask run": lambda folder: flask_run(APP, folder),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with SERVERS[request.param](tmp_path_factory.mktemp("server")) as started:
        yield started


def streams(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/api/sync/ready", timeout=60) as answer:
        return int(json.load(answer)["streams"])


def seconds_until(count: int, server: Server, within: float) -> float:
    began = time.monotonic()
    while streams(server) != count:
        assert time.monotonic() - began < within, f"still {streams(server)} streams"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize("way", WAYS_TO_DISCONNECT)
def test_a_client_that_disconnects_is_released_at_once(server: Server, way: str) -> None:
    listeners = [Listener(server.port, SUBSCRIBE, make_token()) for _ in range(10)]
    assert [listener.next_frame() for listener in listeners] == [CONNECTED] * 10
    assert streams(server) == 10
    for listener in listeners[:9]:
        WAYS_TO_DISCONNECT[way](listener)
    seconds_until(1, server, SEEN_WITHIN)
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/push/notes/alice", method="POST"), timeout=60).close()
    assert listeners[9].next_frame() == CHANGED, "the one that stayed hears"
    for listener in listeners:
        listener.close()
    seconds_until(0, server, SEEN_WITHIN)
    assert not server.tracebacks


def test_a_client_that_closes_its_half_still_reads_a_clean_end(server: Server) -> None:
    with Listener(server.port, SUBSCRIBE, make_token()) as listener:
        listener.next_frame()
        listener.socket.shutdown(socket.SHUT_WR)
        assert listener.read_to_end(5.0) == CONNECTED
    seconds_until(0, server, SEEN_WITHIN)


@pytest.mark.parametrize(
    ("worker_class", "parking"),
    [("gevent", "0"), pytest.param("gevent", "1", marks=THOROUGH), pytest.param("gthread", "0", marks=THOROUGH)],
)
def test_a_vanished_client_and_one_that_stops_reading_are_released_in_time_and_delay_no_other(
    tmp_path: Path, worker_class: str, parking: str
) -> None:
    keepalive, promise = 1.0, 1.0 + 25.0
    with OtherMachine() as laptop, contextlib.ExitStack() as stack:
        server = stack.enter_context(
            gunicorn(
                *(APP, tmp_path, "--threads", "20", "--bind", f"{laptop.here_address}:0"),
                worker_class=worker_class,
                env={"SYNCKIT_KEEPALIVE_SECONDS": str(keepalive), "SYNCKIT_PARKING": parking},
            )
        )
        far_port = int(server.log.partition(f"http://{laptop.here_address}:")[2].split()[0].strip(","))
        vanishing = laptop.call(
            lambda: Listener(far_port, SUBSCRIBE, make_token("vanishing"), host=laptop.here_address)
        )
        stalled = Listener(server.port, SUBSCRIBE, make_token("stalled"), receive_buffer=4096)
        good = stack.enter_context(Listener(server.port, SUBSCRIBE, make_token("good")))
        for listener in (vanishing, stalled, good):
            stack.enter_context(listener)
            assert listener.next_frame() == CONNECTED
        laptop.unplug()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as pusher:
            for _ in range(400):
                pusher.request("POST", "/push/notes/stalled?times=16")
                assert pusher.getresponse().read() == b"announced"
        began, longest = time.monotonic(), 0.0
        while streams(server) > 1:
            before = time.monotonic()
            assert before - began < promise, f"still {streams(server)} streams"
            assert good.next_frame(timeout=keepalive + 1.0) == KEEPALIVE
            longest = max(longest, time.monotonic() - before)
        assert longest < keepalive + 0.5, "somebody else was delayed"
        assert not server.tracebacks
