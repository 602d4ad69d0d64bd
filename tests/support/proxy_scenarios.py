"""Measurements of streams behind a proxy: the tests check them, `benchmarks.proxies` prints them.

A `Route` says how devices reach the service: through which proxy or none, and in which version of HTTP. Each function
takes a Route, does something to streams on it, and returns what was seen.
"""

import contextlib
import os
import select
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .curl import PATIENCE_SECONDS, Curl
from .proxies import Proxy
from .raw_client import CHANGED, CONNECTED, KEEPALIVE
from .server import Server
from .wait import until


@dataclass(frozen=True)
class Route:
    """A way from a device to the service; `sign` makes the token of a user."""

    server: Server
    url: str
    version: str
    sign: Callable[[str], str]

    def subscribe(self, user: str) -> Curl:
        """Open a stream, which may as well be refused."""
        return Curl(f"{self.url}/api/sync/subscribe?app_id=notes", self.sign(user), f"--http{self.version}")

    def push(self, user: str) -> None:
        """Push past the proxy."""
        post(f"{self.server.url}/push/notes/{user}")

    def revoke(self, user: str) -> None:
        """End all streams of a user."""
        post(f"{self.server.url}/disconnect/notes/{user}")


def whole_body(route: Route, pushes: int) -> bytes:
    """Return the body of a stream that heard some pushes and then ended by itself, without its keepalives."""
    with route.subscribe("whole") as stream:
        assert stream.next_frame() == CONNECTED
        for _ in range(pushes):
            route.push("whole")
            assert stream.next_news() == CHANGED
        route.revoke("whole")
        return stream.read_to_end().replace(KEEPALIVE, b"")


def expected_body(pushes: int) -> bytes:
    """Return what `whole_body` returns if every byte is the service's own."""
    return CONNECTED + CHANGED * pushes + b": bye revoked\n\n"


def first_bytes(route: Route, streams: int) -> list[float]:
    """Return how many seconds each stream took from its request to its first byte, the handshake left out."""
    seconds = []
    for _ in range(streams):
        with route.subscribe("first") as stream:
            assert stream.next_frame() == CONNECTED
            route.revoke("first")
            stream.read_to_end()
            seconds.append(stream.first_byte_seconds())
    return seconds


def added_delays(direct: Route, through: Route, pushes: int, pause: float) -> list[float]:
    """Return how many seconds later each push came to a device on one route than to one on the other."""
    with direct.subscribe("delays") as first, through.subscribe("delays") as second:
        for stream in (first, second):
            assert stream.next_frame() == CONNECTED
        return [_later(direct, first, second, pause) for _ in range(pushes)]


def _later(route: Route, first: Curl, second: Curl, pause: float) -> float:
    time.sleep(pause)
    heard = {stream: stream.body.count(CHANGED) for stream in (first, second)}
    arrived: dict[Curl, float] = {}
    pushing = threading.Thread(target=route.push, args=("delays",))
    pushing.start()
    while len(arrived) < 2:
        ready = select.select(heard.keys() - arrived.keys(), [], [], PATIENCE_SECONDS)[0]
        assert ready, "a push was lost"
        for stream in ready:
            stream.receive(PATIENCE_SECONDS)
            if stream.body.count(CHANGED) > heard[stream]:
                arrived[stream] = time.perf_counter()
    pushing.join()
    return arrived[second] - arrived[first]


def idle_life(route: Route, at_most: float) -> float:
    """Return for how many seconds a stream lived to which nobody pushed."""
    with accepted(route, "idle") as stream, contextlib.suppress(TimeoutError, ConnectionError, EOFError):
        began = time.monotonic()
        while True:
            stream.next_frame(began + at_most - time.monotonic())
    return time.monotonic() - began


def accepted(route: Route, user: str) -> Curl:
    """Return an open stream: with a short idle limit a busy machine may need several attempts to answer in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (stream := route.subscribe(user)).status != 200:
        stream.close()
        assert time.monotonic() < deadline, stream.status
    assert stream.next_frame() == CONNECTED
    return stream


def departure(route: Route) -> float:
    """Return how many seconds after a device's departure the service was told; the proxy must be fresh."""
    stream, connection = on_its_own(route, "leaving")
    began = time.monotonic()
    stream.close()
    assert until(lambda: not connection & open_connections(route.server.port), PATIENCE_SECONDS)
    return time.monotonic() - began


def on_its_own(route: Route, user: str) -> tuple[Curl, set[str]]:
    """Return an open stream and the connection on which it reaches the service.

    The proxy must be fresh: on a connection that it had kept from before nothing could be told apart.
    """
    others = open_connections(route.server.port)
    stream = route.subscribe(user)
    assert stream.next_frame() == CONNECTED
    connection = open_connections(route.server.port) - others
    assert connection
    return stream, connection


def death(route: Route) -> str:
    """Kill the only worker and return how a stream ends, "cut" or "clean"; the service is back when this returns."""
    (worker,) = route.server.workers()
    with route.subscribe("dying") as stream:
        assert stream.next_frame() == CONNECTED
        os.kill(worker, signal.SIGKILL)
        try:
            stream.read_to_end(PATIENCE_SECONDS)
            end = "clean"
        except ConnectionError:
            end = "cut"
    assert until(lambda: route.server.workers() not in ([], [worker]), PATIENCE_SECONDS)
    return end


def cost(route: Route, proxy: Proxy, streams: int) -> tuple[float, float]:
    """Return how much memory in KiB and how many descriptors each of some idle streams costs the proxy."""
    with contextlib.ExitStack() as opened:
        for number in range(streams // 4):  # what is needed once
            opened.enter_context(accepted(route, f"first-{number}"))
        memory, descriptors = proxy.holds()
        for number in range(streams):
            opened.enter_context(accepted(route, f"idle-{number}"))
        more_memory, more_descriptors = proxy.holds()
    return (more_memory - memory) / streams, (more_descriptors - descriptors) / streams


def open_connections(port: int) -> set[str]:
    """Return the far ends of a local port's connections that nobody has closed yet, by the kernel's word."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {remote for _, local, remote, state, *_ in rows if local.endswith(f":{port:04X}") and state == "01"}


def post(url: str) -> None:
    """Ask the service itself for something."""
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=PATIENCE_SECONDS) as answer:
        answer.read()
