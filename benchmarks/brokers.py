"""The command: `python -m benchmarks.brokers` measures how long a notice takes to a stream of another process.

    one gunicorn answers the pushes ── broker ── another gunicorn holds the streams ──▶ read here, one after the other

Each has one gevent worker and the minimal application, so it is known which process has which stream. Measured are
local://, PostgreSQL, Redis, and the sweep alone: nothing between the processes, only the hook that each asks every 3 s.
A delay lasts from the call of `publish` to reading the frame, both by the steady clock of this machine. Each user has
one stream and gets one push, so nothing is merged, and each delivery is counted. Exit status 1 when one is missing or
surplus, 130 on Ctrl-C. The command starts its own Valkey and PostgreSQL.
"""

import argparse
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.support.broker_servers import ENGINES, running
from tests.support.postgresql import DEBIAN

from . import report
from .attack_run import summary
from .load import APP, Caller, Load, Stream
from .process import prepare
from .report import Row
from .scenarios import PUSHES_PER_SECOND, REST_SECONDS
from .server import BARE_HOST, Server, gunicorn

SWEPT_HOST = "benchmarks.host:create_swept()"
LATE_SECONDS = 6.0
"""How long a frame may take; the sweep needs three seconds at most."""

SETTLE_SECONDS = 3.0
"""How long the streams are left alone before the pushes: the first subscription to a server of a broker is a gap."""


SWEEP = "sweep"
BETWEEN = (*ENGINES, SWEEP)
"""What is between the processes: a broker, or nothing but the sweep."""


class Pushes:
    """Pushes to one server on kept connections; `at` holds when each user's was published."""

    def __init__(self, load: Load, port: int) -> None:
        self.at: dict[str, float] = {}
        self._load, self._port = load, port
        self._idle: list[Caller] = []

    def send(self, user: str) -> None:
        """Send a push without waiting for its answer."""
        if not self._idle:
            connection = socket.create_connection(("127.0.0.1", self._port))
            connection.setblocking(False)
            self._idle.append(self._load.add(Caller(self._load, connection)))
        request = f"POST /timed-push/{APP}/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        self._idle.pop().send(request.encode(), partial(self._answered, user))

    def _answered(self, user: str, caller: Caller, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"a push failed: {answer!r}")
        self.at[user] = float(body)
        self._idle.append(caller)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status."""
    options = _options(arguments)
    prepare()
    facts = report.facts(
        f"{options.pushes:,} pushes, {PUSHES_PER_SECOND} a second, each to one of as many streams of another process",
        "gunicorn.conf.py, two masters with one gevent worker each, the minimal application, all cores",
    ) | {"load average before": f"{os.getloadavg()[0]:.1f}"}
    rows = []
    try:
        for name in options.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows.append(measure(name, options.pushes))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(table(facts, rows))
    report.save(options.json, facts, rows=rows)
    return 0 if all(map(is_complete, rows)) else 1


def measure(name: str, pushes: int) -> Row:
    """Return the delays and the memory with one broker, or with none, between two processes."""
    key = secrets.token_hex(32)
    users = [str(number) for number in range(pushes)]
    received: dict[str, list[float]] = {user: [] for user in users}

    def on_changed(stream: Stream, frames: int) -> None:
        received[stream.user] += [time.monotonic()] * frames

    with tempfile.TemporaryDirectory(prefix="synckit-brokers-") as text, ExitStack() as stack:
        folder = Path(text)
        url = "memory://" if name == SWEEP else stack.enter_context(running(name, folder)).url
        start = partial(_start, stack, folder, key, url, SWEPT_HOST if name == SWEEP else BARE_HOST)
        pushed, holding = start("pushed"), start("holding")
        load = stack.enter_context(Load(holding.port, key))
        load.open(load.requests(users, 1), on_changed)
        _poll(load, SETTLE_SECONDS)
        for times in received.values():
            times.clear()
        published = _push_all(load, pushed.port, users)
        _poll(load, LATE_SECONDS, lambda: len(published) == pushes and all(received.values()))
        _poll(load, REST_SECONDS)  # for surplus ones
        memory = holding.private_kib(holding.processes()[1])
    delays = [times[0] - published[user] for user, times in received.items() if times]
    return {
        "between": name,
        "expected": pushes,
        "received": sum(map(len, received.values())),
        "missing": sum(not times for times in received.values()),
        "delays": summary(delays),
        "memory_kib": memory,
    }


def is_complete(row: Row) -> bool:
    """Return whether each push arrived once."""
    return bool(row["received"] == row["expected"] and not row["missing"])


def table(facts: dict[str, str], rows: Sequence[Row]) -> str:
    """Return the whole report."""
    columns = "| between the processes | received | p50, ms | p99, ms | longest, ms | memory of the worker, MiB |"
    return "\n".join([report.head(facts), "", columns, "|---|--:|--:|--:|--:|--:|", *map(_line, rows)])


def _line(row: Row) -> str:
    delays = " | ".join(f"{row['delays'][name] * 1e3:,.2f}" for name in ("p50", "p99", "max"))
    received = f"{row['received']:,} of {row['expected']:,}"
    memory = f"{row['memory_kib'] / 1024:.1f}"
    return f"| {row['between']} | {received if is_complete(row) else f'**{received}**'} | {delays} | {memory} |"


def _start(stack: ExitStack, folder: Path, key: str, url: str, app: str, name: str) -> Server:
    """Start a server; the folder of the run is common to both."""
    own = folder / name
    own.mkdir()
    settings = {"SYNCKIT_BROKER_URL": url, "SYNCKIT_BROKER_NAMESPACE": "brokers", "BENCHMARK_FOLDER": str(folder)}
    return stack.enter_context(gunicorn(key, own, app=app, core=None, settings=settings))


def _push_all(load: Load, port: int, users: Sequence[str]) -> dict[str, float]:
    """Push to each user once, at fixed times; return when each was published, as far as it is answered."""
    pushes, began = Pushes(load, port), time.monotonic()
    for number, user in enumerate(users):
        _poll(load, began + number / PUSHES_PER_SECOND - time.monotonic())
        pushes.send(user)
    return pushes.at


def _poll(load: Load, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
    """Read what arrives, for a time or until it is enough."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not enough():
        load.poll(left)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.brokers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BETWEEN, default=BETWEEN, help="only these")
    parser.add_argument("--pushes", type=int, default=1_000, help="pushes, and streams, of each (default 1,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw figures as JSON")
    options = parser.parse_args(arguments)
    if options.pushes < 1:
        parser.error("--pushes must be a positive integer")
    if "postgresql" in options.only and not DEBIAN:
        parser.error("PostgreSQL is not installed: install it (apt-get install postgresql), or name others with --only")
    return options


if __name__ == "__main__":
    sys.exit(main())
