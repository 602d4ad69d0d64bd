"""The command: `python -m benchmarks.scale` opens as many parked streams as descriptors allow, and reloads the server.

    1,000 ─▶ 4,000 ─▶ 16,000 ─▶ all    at each level: memory per stream, regular pushes, the time from push to frame
    HUP    ─▶ every stream ends with a `retry:` ─▶ all are open again ─▶ the same once more

Two workers with a Redis-protocol broker between them, and two generators, share all cores, so the delays are those of a
machine that does everything. A stream whose worker is full is answered 503, and connects again until the other worker
accepts it. Exit status 1 when a frame or a stream is missing, 130 on Ctrl-C.
"""

import argparse
import contextlib
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.valkey import Valkey

from . import report
from .comparison import verdict
from .generator import Generator, Programs
from .process import prepare
from .report import Row
from .scenarios import DEVICES_EACH, PUSHES_PER_SECOND, REST_SECONDS
from .server import FOR_FIGURES, Server, gunicorn

WORKERS = 2
LEVELS = (1_000, 4_000, 16_000)
BESIDE_STREAMS = 600
"""Descriptors of a worker or a generator for other purposes, and the difference between two workers."""

RELOAD_WITHIN = 120.0
GONE_WITHIN = 15.0

Numbers = dict[str, Any]


class Generators:
    """Two generators that work at the same time; all devices of a user are on the same one."""

    def __init__(self, programs: Sequence[Programs], server: Server, key: str, streams: int) -> None:
        users = streams // DEVICES_EACH // len(programs) + 1
        self._stack = contextlib.ExitStack()
        self._generators = [
            self._stack.enter_context(
                Generator(one, server, key, [0] * users * place + [DEVICES_EACH] * users, RELOAD_WITHIN)
            )
            for place, one in enumerate(programs)
        ]
        self._pool = self._stack.enter_context(ThreadPoolExecutor(len(programs)))
        self.pid = self._generators[0].pid

    def __enter__(self) -> "Generators":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, command: str) -> list[Numbers]:
        """Run one command on all generators, and return what each counted."""
        return list(self._pool.map(lambda generator: generator.ask(command), self._generators))

    def pace(self, users: int, seconds: float) -> Numbers:
        """Push to users of the first generator while the second one holds its streams."""
        return self._generators[0].ask(f"pace 0 {users - 1} {PUSHES_PER_SECOND} {seconds}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _options(arguments)
    prepare()
    print(*(f"- {name}: {value}" for name, value in _facts(options.streams).items()), sep="\n", end="\n\n")
    print("| streams | KiB each | p50, ms | p99, ms | longest, ms | connects/s | refused meanwhile |", flush=True)
    print("|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    try:
        rows = [row for row in measure(options.streams, options.seconds) if _printed(row)]
    except KeyboardInterrupt:
        return 130
    print(f"\n{verdict(rows)}")
    return 0 if all(row["expected"] == row["received"] for row in rows) else 1


def measure(streams: int, seconds: float) -> Iterator[Row]:
    """Yield a row for each level, one for the reload, and one for the time after it."""
    key = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="synckit-scale-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        broker = stack.enter_context(Valkey(folder))
        settings = {"SYNCKIT_PARKING": "1", "SYNCKIT_BROKER_URL": broker.url}
        options = {**FOR_FIGURES, "workers": WORKERS}
        server = stack.enter_context(gunicorn(key, folder, options=options, core=None, settings=settings))
        programs = [Programs(_made(folder / f"generator-{n}")) for n in range(2)]
        generators = stack.enter_context(Generators(programs, server, key, streams))
        generators.ask("reconnect")
        generators.ask(f"open {DEVICES_EACH * 20}")
        time.sleep(REST_SECONDS)
        few, before = DEVICES_EACH * 20 * 2, server.private_kib()
        held = few
        for level in [*(level for level in LEVELS if level < streams), streams]:
            row = _filled(server, generators, level - held)
            held = level
            yield row | _memory(server, before, held - few) | _paced(generators, held, seconds)
        server.reload()
        yield _reloaded(generators)
        _wait_for_old_workers(server)
        yield _memory(server, before, held) | _paced(generators, held, seconds) | {"phase": "after the reload"}


def _filled(server: Server, generators: Generators, more: int) -> Row:
    """Open more streams, half of them on each generator."""
    began = time.monotonic()
    counted = generators.ask(f"open {more // 2}")
    per_second = more / (time.monotonic() - began)
    time.sleep(REST_SECONDS)
    return {"connects_per_second": per_second, "refused": sum(one["refused"] for one in counted)}


def _memory(server: Server, before: int, streams: int) -> Row:
    return {"kib_per_stream": (server.private_kib() - before) / streams}


def _paced(generators: Generators, held: int, seconds: float) -> Row:
    counted = generators.pace(held // 2 // DEVICES_EACH, seconds)
    delays = {key: value for key, value in counted.items() if key.endswith("_ms")}
    return {"phase": f"{held:,}", "expected": counted["expected"], "received": counted["frames"], **delays}


def _reloaded(generators: Generators) -> Row:
    counted = generators.ask(f"reload {RELOAD_WITHIN}")
    total = {key: sum(one[key] for one in counted) for key in ("expected", "received", "ended", "asked", "refused")}
    return {"phase": "reload", "seconds": max(one["seconds"] for one in counted), **total}


def _wait_for_old_workers(server: Server) -> None:
    """Wait until the old workers have exited: kept connections hold them until gunicorn's graceful_timeout."""
    until = time.monotonic() + GONE_WITHIN
    while len(server.processes()) > 1 + WORKERS and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(REST_SECONDS)


def _printed(row: Row) -> bool:
    """Print a row at once; return True."""
    if row["phase"] == "reload":
        ended = f"reload: {row['ended']:,} streams ended, {row['asked']:,} of them with a `retry:`"
        back = f"{row['received']:,} were open again {row['seconds']:.1f} s after the first end"
        print(f"| {ended}; {back} | | | | | | {row['refused']:,} |", flush=True)
    else:
        delays = " | ".join(f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "longest_ms"))
        connects = f"{row['connects_per_second']:,.0f} | {row['refused']:,}" if "refused" in row else " | "
        print(f"| {row['phase']} | {row['kib_per_stream']:.2f} | {delays} | {connects} |", flush=True)
    return True


def _facts(streams: int) -> dict[str, str]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    measured = f"{streams:,} parked streams; a process here may have {hard:,} descriptors"
    return report.facts(measured, f"gunicorn.conf.py, {WORKERS} gevent workers, a Redis-protocol broker between them")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    most = WORKERS * (resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 9 // 10 - BESIDE_STREAMS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--streams", type=int, default=most, help=f"number of streams (default {most:,}, the most)")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of the pushes at each level (default 10)")
    options = parser.parse_args(arguments)
    if not LEVELS[0] <= options.streams <= most:
        parser.error(f"--streams must be {LEVELS[0]:,} to {most:,}: more need more file descriptors")
    return options


if __name__ == "__main__":
    sys.exit(main())
