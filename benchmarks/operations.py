"""The command: `python -m benchmarks.operations` measures how fast streams end when server or client stops.

The servers and clients are those of the tests, which judge the same promises:

    drain         20 streams; TERM, HUP, max_requests: until the last stream has ended, and the worker has exited
    disconnect    30 clients, one after the other: until the server has released the stream of each
    silence       a client whose machine is disconnected, and one that stops reading (root; half a minute)
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from tests.support.deployment import STOPS, STREAMS, Deployment, gone
from tests.support.netns import OtherMachine
from tests.support.raw_client import WAYS_TO_DISCONNECT, Listener
from tests.support.server import Server, gunicorn
from tests.support.tokens import make_token

SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
WORKERS = {"gevent": (), "gthread": ("--threads", "60")}
KEEPALIVE = 1.0

Row = tuple[str, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line per figure at once, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="how often each stop is measured (default 5)")
    parser.add_argument("--no-silence", action="store_true", help="leave out the part that needs root")
    options = parser.parse_args(arguments)
    print(f"{'what':<34} {'promise':>12}   figure (median, longest)")
    for what, promise, figure in measure(options.repeat, silence=not options.no_silence):
        print(f"{what:<34} {promise:>12}   {figure}", flush=True)
    return 0


def measure(repeat: int, *, silence: bool) -> Iterator[Row]:
    """Yield all rows."""
    for worker_class in WORKERS:
        for stop in STOPS:
            yield from drains(worker_class, stop, repeat)
        for way in WAYS_TO_DISCONNECT:
            yield disconnects(worker_class, way)
        if silence:
            yield from silences(worker_class)


def drains(worker_class: str, stop: str, repeat: int) -> Iterator[Row]:
    """Yield the figures of stopping a worker several times."""
    ended, exited = zip(*(_drain(worker_class, stop) for _ in range(repeat)), strict=True)
    yield f"{worker_class}, {stop}: streams ended", "0.5 s", _spread(ended)
    yield f"{worker_class}, {stop}: worker exited", "1.5 s", _spread(exited)


def disconnects(worker_class: str, way: str) -> Row:
    """Return the figure of clients that disconnect, one after the other."""
    with _server(worker_class) as server:
        seconds = []
        for _ in range(30):
            listener = Listener(server.port, SUBSCRIBE, make_token())
            _wait_for(lambda: _streams(server) == 1)
            WAYS_TO_DISCONNECT[way](listener)
            seconds.append(_wait_for(lambda: _streams(server) == 0))
            listener.close()
    return f"{worker_class}, client disconnects: {way}", "0.1 s", _spread(seconds)


def silences(worker_class: str) -> Iterator[Row]:
    """Yield the figures of a client whose machine vanishes, and of one that stops reading."""
    with OtherMachine() as laptop, ExitStack() as stack:
        server = stack.enter_context(_server(worker_class, "--bind", f"{laptop.here_address}:0"))
        port = int(server.log.partition(f"http://{laptop.here_address}:")[2].split()[0].strip(","))
        vanishing = laptop.call(lambda: Listener(port, SUBSCRIBE, make_token("v"), host=laptop.here_address))
        stack.enter_context(vanishing)
        laptop.unplug()
        yield f"{worker_class}, client vanishes", "keepalive+25", f"{_wait_for(lambda: not _streams(server), 60):.1f} s"
        stack.enter_context(Listener(server.port, SUBSCRIBE, make_token("stalled"), receive_buffer=4096))
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as pusher:
            for _ in range(400):
                pusher.request("POST", "/push/notes/stalled?times=16")
                pusher.getresponse().read()
        yield (
            f"{worker_class}, client stops reading",
            "keepalive+25",
            f"{_wait_for(lambda: not _streams(server), 60):.1f} s",
        )


def _drain(worker_class: str, stop: str) -> tuple[float, float]:
    options = ("--max-requests", str(STREAMS + 5)) if stop == "max_requests" else ()
    with (
        tempfile.TemporaryDirectory() as folder,
        Deployment(Path(folder), "foreign", worker_class, *options) as deployment,
    ):
        listeners = [deployment.listen() for _ in range(STREAMS)]
        [worker] = deployment.server.workers()
        STOPS[stop](deployment)
        began = time.monotonic()
        for listener in listeners:
            listener.read_to_end()
        ended = time.monotonic() - began
        gone(worker, 30.0)
        return ended, time.monotonic() - began


def _server(worker_class: str, *options: str) -> Server:
    folder = Path(tempfile.mkdtemp())
    env = {"SYNCKIT_KEEPALIVE_SECONDS": str(KEEPALIVE)}
    words = (*WORKERS[worker_class], *options)
    return gunicorn("tests.support.minimal_host:create_app()", folder, *words, worker_class=worker_class, env=env)


def _streams(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/api/sync/ready", timeout=10) as answer:
        return int(json.load(answer)["streams"])


def _wait_for(condition: Callable[[], bool], within: float = 10.0) -> float:
    """Return the seconds until a condition is true, as precisely as a request to `/ready` can tell."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within:
            raise TimeoutError(f"the streams did not end within {within:g} s")
    return time.monotonic() - began


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f} s, {max(seconds):.3f} s"


if __name__ == "__main__":
    sys.exit(main())
