"""The command: `python -m benchmarks.idle` measures what streams cost that only wait.

    two fresh servers at once, this version and another ──▶ the same streams on each, opened evenly over one keepalive
    period ──▶ windows of one period, in which both do nothing but send keepalives ──▶ a table

So keepalives are as much out of step as those of real devices. The load generators are those of `benchmarks.peers`.
Exit status 1 when a keepalive was missing or idle streams take more than 1.05 times the other version's processor
time, 130 on Ctrl-C.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from . import report
from .checkouts import Missing, versions
from .contenders import PARKING
from .generator import Generator, Programs
from .process import check_streams, prepare
from .report import Row
from .scenarios import DEVICES_EACH
from .server import Server, gunicorn

MAX_RATIO = 1.05
STEPS = 30
"""Into how many parts the opening of the streams is divided; each part opens at once."""

ARRIVED = 0.8
"""The part of the streams that must get a keepalive in a window: the moment of a keepalive is rounded up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status."""
    options = _options(arguments)
    facts = report.facts(
        f"{options.count:,} idle streams, {options.windows} windows of {options.period:g} s, one keepalive in each",
        "gunicorn.conf.py, one gevent worker; both servers on one core",
    )
    prepare()
    try:
        with tempfile.TemporaryDirectory(prefix="synckit-bench-") as name:
            trees = versions(options.against, Path(name))
            rows = [row for kind in options.streams for row in measure(trees, kind, options)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Missing, RuntimeError) as error:  # the server's own words, or no compiler
        print(error, file=sys.stderr)
        return 2
    print(report.head(facts), table(rows, options.against), sep="\n\n")
    report.save(options.json, facts, rows=rows)
    return int(any(is_wrong(row) for row in rows) or any(statistics.median(r) > MAX_RATIO for r in _ratios(rows)))


def measure(trees: Mapping[str, Path], kind: str, options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each version in each window."""
    key, channels = secrets.token_hex(32), [DEVICES_EACH] * -(-options.count // DEVICES_EACH)
    settings = {"SYNCKIT_PARKING": PARKING[kind], "SYNCKIT_KEEPALIVE_SECONDS": str(options.period)}
    with ExitStack() as stack:
        sides: dict[str, tuple[Server, Generator]] = {}
        for name, tree in trees.items():
            _say(f"{name}, {kind}: starting")
            folder = tree.parent / f"{name}-{kind}"
            folder.mkdir()
            server = stack.enter_context(gunicorn(key, folder, root=tree, settings=settings))
            load = Generator(Programs(folder), server, key, channels, silence=2 * options.period)
            sides[name] = server, stack.enter_context(load)
        pool = stack.enter_context(ThreadPoolExecutor(len(sides)))

        def listen(seconds: float) -> list[Row]:
            return list(pool.map(lambda side: side[1].ask(f"listen {seconds}"), sides.values()))

        began = time.monotonic()
        for step in range(1, STEPS + 1):
            for _, load in sides.values():
                load.ask(f"open {options.count * step // STEPS - options.count * (step - 1) // STEPS}")
            listen(max(0.01, began + options.period * step / STEPS - time.monotonic()))
        for window in range(1, options.windows + 1):
            with ExitStack() as clocks:
                used = [clocks.enter_context(server.usage(load.pid)) for server, load in sides.values()]
                counted = listen(options.period)
            for name, usage, count in zip(sides, used, counted, strict=True):
                row = {
                    "tree": name,
                    "kind": kind,
                    "window": window,
                    "streams": options.count,
                    "keepalives": count["keepalives"],
                    "cpu_ms_per_second": usage.server_cpu / usage.seconds * 1e3,
                }
                _say(f"{name}, {kind}, window {window}: {row['cpu_ms_per_second']:.1f} ms in a second")
                yield row


def table(rows: Sequence[Row], against: str | None) -> str:
    """Return the report as Markdown: medians of the windows with the least and the greatest."""
    lines = report.head_of_table("processor time, ms in a second", against)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        this, other = _values(rows, kind, "this"), _values(rows, kind, "against")
        compared = f" {report.spread(other, 1)} | {report.spread(report.ratios(this, other), 2)} |" if against else ""
        lines.append(f"| {kind} | {report.spread(this, 1)} |{compared}")
    return "\n".join(lines)


def is_wrong(row: Row) -> bool:
    """Return whether keepalives were missing."""
    return bool(row["keepalives"] < ARRIVED * row["streams"])


def _ratios(rows: Sequence[Row]) -> Iterator[list[float]]:
    """Yield the ratios of each kind of stream."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        if other := _values(rows, kind, "against"):
            yield report.ratios(_values(rows, kind, "this"), other)


def _values(rows: Sequence[Row], kind: str, tree: str) -> list[float]:
    return [row["cpu_ms_per_second"] for row in rows if (row["kind"], row["tree"]) == (kind, tree)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", help="compare with a commit or the folder of another checkout")
    parser.add_argument(
        "--streams", nargs="+", choices=PARKING, default=list(PARKING), help="kinds of streams (default both)"
    )
    parser.add_argument("--count", type=int, default=10_000, help="streams of each server (default 10,000)")
    parser.add_argument("--period", type=float, default=30.0, metavar="S", help="seconds of a keepalive (default 30)")
    parser.add_argument("--windows", type=int, default=4, help="how many periods are measured (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows to this file")
    options = parser.parse_args(arguments)
    check_streams(parser, options.count, 3, 200)
    return options


if __name__ == "__main__":
    sys.exit(main())
