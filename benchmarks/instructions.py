"""The command: `python -m benchmarks.instructions` counts the instructions that the server executes for one operation.

    connect     one stream, from accept to `: connected`, with its own JWT
    event       one event to one more stream of a channel
    keepalive   one keepalive of one stream
    push        one push to a user without streams
    return      one stream with a JWT that the worker has seen before

It counts generator streams and parked streams. A gunicorn with one gevent worker and a minimal application runs under
valgrind (callgrind). This process is its only client and sends one request after the other. The worker's clocks stand
still, so that no background thread runs, and its garbage collector is off. Each operation runs n times and 2n times;
the difference of both counts is divided by n, so that whatever does not depend on n cancels out. Two runs differ by
less than 1 %, even on a busy machine.

`--against` counts another version of the package in the same run and prints the ratios. Exit status 1 when an operation
takes more instructions than the tolerance allows, 2 when something is missing, 130 on Ctrl-C.
"""

import argparse
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import ParamSpec

from tests.support.clock import Clock

from . import report
from .checkouts import Missing, versions
from .contenders import PARKING
from .load import bare_push, subscription
from .process import interrupt_on_signals
from .server import FOR_FIGURES, Server, gunicorn

NUMBER = 40
"""Runs of an operation in the first count; the second count has twice as many."""

USERS = {"warm-up": 20, "few": NUMBER, "many": 2 * NUMBER}
"""The streams of each user. Those of the first user warm the server up."""

PUSHES, KEEPALIVES = 40, 10
"""Events for each stream, and keepalives after the streams of each new user are open."""

KEEPALIVE_SECONDS = 5
STARTS_WITHIN = ANSWERS_WITHIN = 300.0
"""Seconds. Under valgrind a server runs 5 to 50 times slower."""

VALGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-line=no", "--quiet")
PACKAGES = {"valgrind": "valgrind", "cc": "gcc", "git": "git"}
SOURCE = Path(__file__).parent / "native" / "count.c"
P = ParamSpec("P")
Counts = dict[str, int]
"""The instructions of one operation, by its name."""

_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CountedServer:
    """The only client of a worker under callgrind; a context manager that closes its connections."""

    def __init__(self, server: Server, key: str, clock: Clock, folder: Path) -> None:
        self._port, self._folder, self._clock = server.port, folder, clock
        self._stack = ExitStack()
        self._streams: defaultdict[str, list[socket.socket]] = defaultdict(list)
        self._counts = 0
        self._requests = self._connect()
        self._ask(bare_push("nobody"))  # answered when the worker has started
        self._subscriptions = {  # made before the clock stops: no token may be from the worker's future
            user: [subscription(server.port, key, user, device) for device in range(count)]
            for user, count in USERS.items()
        }
        self._worker = server.processes()[1]
        clock.stop(self._worker)

    def __enter__(self) -> "CountedServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def count(self, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int:
        """Return the instructions that the server executes for an action."""
        self._end_count()
        action(*args, **kwargs)
        return self._end_count()

    def open(self, user: str) -> None:
        """Open all streams of a user, one after the other."""
        for request in self._subscriptions[user]:
            stream = self._connect()
            stream.sendall(request)
            _read_until(stream, b": connected\n\n")
            self._streams[user].append(stream)
            self._wait_until_idle()

    def push(self, user: str, times: int) -> None:
        """Push to a user; each time wait for the answer and for the frame on each of the user's streams."""
        for _ in range(times):
            self._ask(bare_push(user))
            for stream in self._streams[user]:
                _read_until(stream, b"event: changed\n")
            self._wait_until_idle()

    def keep_alive(self, times: int) -> None:
        """Let the period between two keepalives pass; each time wait for the keepalive on every stream."""
        for _ in range(times):
            self._clock.advance(KEEPALIVE_SECONDS + 0.5)
            self._ask(bare_push("nobody"))  # wakes the worker, whose timers stand still
            for stream in chain(*self._streams.values()):
                _read_until(stream, b": keepalive\n")
            self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        """Return when the worker sleeps, so that each request finds it in the same state."""
        while Path(f"/proc/{self._worker}/stat").read_text().rpartition(") ")[2][0] != "S":
            time.sleep(0.001)

    def _ask(self, request: bytes) -> None:
        self._requests.sendall(request)
        head = _read_until(self._requests, b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 204 "):
            raise RuntimeError(f"the server answered {head!r}")

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), ANSWERS_WITHIN)
        return self._stack.enter_context(connection)

    def _end_count(self) -> int:
        """Return the instructions since the last call; the first call begins to count."""
        self._ask(b"GET /count HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._counts += 1
        [dump] = self._folder.glob(f"count.*.{self._counts}")
        found = _TOTAL.search(dump.read_text())
        if found is None:
            raise RuntimeError(f"{dump} holds no total: this version of valgrind writes another format")
        return int(found[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print the table, and return the exit status."""
    options = _options(arguments)
    interrupt_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="synckit-instructions-") as name:
            trees = versions(options.against, Path(name))
            counts = {(kind, tree): measure(trees[tree], kind) for kind in options.streams for tree in trees}
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Missing, RuntimeError, OSError) as error:  # the server's own words are in a RuntimeError
        print(error, file=sys.stderr)
        return 2
    print(table(counts, options.against))
    ratios = [counts[kind, "this"][name] / other[name] for (kind, _), other in counts.items() for name in other]
    return int(max(ratios) > 1 + options.tolerance / 100)


def measure(tree: Path, kind: str) -> Counts:
    """Return the instructions of each operation of one version of the package."""
    _say(f"{tree.name}, {kind} streams: starting")
    with tempfile.TemporaryDirectory(prefix="run-", dir=tree.parent) as name:
        folder, key = Path(name), secrets.token_hex(32)
        clock = Clock(folder)
        settings = {
            **clock.environment,
            "PYTHONHASHSEED": "0",
            "BENCHMARK_COUNTER": str(_compiled(folder)),
            "SYNCKIT_PARKING": PARKING[kind],
            "SYNCKIT_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS),
        }
        with (
            gunicorn(
                key,
                folder,
                app="benchmarks.host:create_counted()",
                options=FOR_FIGURES | {"timeout": 0},  # a worker whose clock stands still looks stuck to the master
                core=None,
                settings=settings,
                root=tree,
                under=(*VALGRIND, f"--callgrind-out-file={folder}/count.%p"),
                starts_within=STARTS_WITHIN,
            ) as server,
            CountedServer(server, key, clock, folder) as counted,
        ):
            counts = dict(_operations(counted))
    _say(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return counts


def _operations(server: CountedServer) -> Iterator[tuple[str, int]]:
    """Yield each operation and its instructions."""
    counts: dict[str, Counts] = {}
    for user, number in USERS.items():
        counts[user] = {
            "connect": server.count(server.open, user),
            "keepalive": server.count(server.keep_alive, KEEPALIVES),
            "event": server.count(server.push, user, PUSHES),
            "push": server.count(server.push, "nobody", number),
            "return": server.count(server.open, user),
        }
    more = {name: counts["many"][name] - counts["few"][name] for name in counts["many"]}
    yield "connect", more["connect"] // NUMBER
    yield "event", more["event"] // NUMBER // PUSHES
    yield "keepalive", more["keepalive"] // (USERS["few"] + USERS["many"]) // KEEPALIVES  # streams that it has more
    yield "push", more["push"] // NUMBER
    yield "return", more["return"] // NUMBER


def table(counts: Mapping[tuple[str, str], Counts], against: str | None) -> str:
    """Return the report as Markdown."""
    lines = [report.head(report.surroundings()), "", *report.head_of_table("instructions", against)]
    for (kind, tree), this in counts.items():
        if tree == "this":
            other = counts.get((kind, "against"), {})
            for name, count in this.items():
                compared = f" {other[name]:,} | {count / other[name]:.3f} |" if other else ""
                lines.append(f"| {kind}, {name} | {count:,} |{compared}")
    return "\n".join(lines)


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        received = connection.recv(65536)
        if not received:
            raise RuntimeError(f"the server closed a connection after {data!r}")
        data += received
    return data


def _compiled(folder: Path) -> Path:
    library = folder / "count.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"valgrind's headers are missing; install them (apt-get install valgrind):\n{done.stderr}")
    return library


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="compare with a commit or the folder of another checkout")
    parser.add_argument(
        "--streams", nargs="+", choices=PARKING, default=list(PARKING), help="kinds of streams (default both)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=2.0,
        metavar="PERCENT",
        help="how many more instructions are allowed (default 2)",
    )
    options = parser.parse_args(arguments)
    if missing := [PACKAGES[name] for name in PACKAGES if shutil.which(name) is None]:
        parser.error(f"not installed: {' '.join(missing)}; install them (apt-get install {' '.join(missing)})")
    return options


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
