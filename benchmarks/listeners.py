"""The command: `python -m benchmarks.listeners` measures how long a push takes to its listeners and to its answer.

    a fresh server ──▶ channels of 3, 1,000 or 10,000 streams ──▶ pushes at fixed times ──▶ a table

It shows how long a push takes to its events, and to its own answer: p50 and p99. `--against` measures the folder of
another checkout in turn, and prints the ratios of neighbouring runs. The load generator is that of `benchmarks.peers`.
Exit status 1 when an event was lost or an answer's p99 is more than 1.5 times the other's, 130 on Ctrl-C.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from . import report
from .contenders import PARKING
from .generator import Generator, Programs
from .process import prepare
from .report import Row
from .server import ROOT, gunicorn

CHANNELS = {3: (200, 50.0), 1_000: (1, 5.0), 10_000: (1, 0.5)}
"""The streams of a channel: how many channels there are, and the pushes per second in all."""

FIGURES = {
    "p50_ms": "frame, p50",
    "p99_ms": "frame, p99",
    "answer_p50_ms": "answer, p50",
    "answer_p99_ms": "answer, p99",
}
MAX_ANSWER_RATIO = 1.5
REST_SECONDS = 1.0
"""Between opening streams and the first push."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status."""
    options = _options(arguments)
    trees = {"this": ROOT} | ({"against": options.against} if options.against else {})
    facts = report.facts(
        f"{options.repeat} times {options.seconds:g} s each; pushes per second: "
        + ", ".join(f"{CHANNELS[size][1]:g} to channels of {size:,}" for size in options.channels),
        "gunicorn.conf.py, one gevent worker",
    )
    prepare()
    try:
        rows = list(measure(trees, options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:  # the server's own words, or no compiler
        print(error, file=sys.stderr)
        return 2
    print(report.head(facts), table(rows, options.against), sep="\n\n")
    report.save(options.json, facts, rows=rows)
    return int(any(is_wrong(row) for row in rows) or any(ratio > MAX_ANSWER_RATIO for ratio in _answer_ratios(rows)))


def measure(trees: dict[str, Path], options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each run; the order of the trees alternates."""
    with tempfile.TemporaryDirectory(prefix="synckit-bench-") as folder:
        programs = Programs(Path(folder))
        for kind, size, repeat in product(options.streams, options.channels, range(options.repeat)):
            names = list(trees) if repeat % 2 == 0 else list(trees)[::-1]
            for name in names:
                row = _run(programs, trees[name], kind, size, options.seconds)
                print(f"{name}, {kind}, {size:,}: {_times(row)}", file=sys.stderr, flush=True)
                yield {"tree": name, "kind": kind, "channel": size, "repeat": repeat + 1, **row}


def table(rows: Sequence[Row], against: Path | None) -> str:
    """Return the report as Markdown: medians in milliseconds with the least and the greatest."""
    lines = report.head_of_table("ms", against)
    for (kind, size), (key, label) in product(_settings(rows), FIGURES.items()):
        this, other = (_values(rows, name, kind, size, key) for name in ("this", "against"))
        compared = f" {report.spread(other, 2)} | {report.spread(report.ratios(this, other), 2)} |" if against else ""
        lines.append(f"| {kind}, channels of {size:,}: {label} | {report.spread(this, 2)} |{compared}")
    return "\n".join(lines)


def is_wrong(row: Row) -> bool:
    """Return whether not exactly what was pushed has arrived."""
    return bool(row["frames"] != row["expected"])


def _run(programs: Programs, tree: Path, kind: str, size: int, seconds: float) -> Row:
    channels, rate = CHANNELS[size]
    key, users = secrets.token_hex(32), [size] * channels
    with (
        gunicorn(key, programs.folder, root=tree, settings={"SYNCKIT_PARKING": PARKING[kind]}) as server,
        Generator(programs, server, key, users) as generator,
    ):
        generator.ask(f"open {size * channels}")
        time.sleep(REST_SECONDS)
        generator.ask(f"pace 0 {channels - 1} {rate} {2 / rate}")  # the first pushes warm the server up
        return generator.ask(f"pace 0 {channels - 1} {rate} {seconds}")


def _answer_ratios(rows: Sequence[Row]) -> Iterator[float]:
    """Yield the median ratio of the answers' p99 for each kind of stream and size of channel."""
    for kind, size in _settings(rows):
        this, other = (_values(rows, name, kind, size, "answer_p99_ms") for name in ("this", "against"))
        if other:
            yield statistics.median(report.ratios(this, other))


def _settings(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["kind"], row["channel"]) for row in rows))


def _values(rows: Sequence[Row], tree: str, kind: str, size: int, key: str) -> list[float]:
    """Return the figure of each repeat, in their order."""
    found = [row for row in rows if (row["tree"], row["kind"], row["channel"]) == (tree, kind, size)]
    return [row[key] for row in sorted(found, key=lambda row: row["repeat"])]


def _times(row: Row) -> str:
    return ", ".join(f"{label} {row[key]:.2f} ms" for key, label in FIGURES.items())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listeners", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with the folder of another checkout")
    parser.add_argument(
        "--streams", nargs="+", choices=PARKING, default=list(PARKING), help="kinds of streams (default both)"
    )
    parser.add_argument("--channels", nargs="+", type=int, choices=CHANNELS, default=list(CHANNELS), help="default all")
    parser.add_argument("--repeat", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of pushes in each run (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows to this file")
    options = parser.parse_args(arguments)
    if options.against is not None:
        options.against = options.against.resolve()
        if not (options.against / "synckit_notify").is_dir():
            parser.error(f"--against: {options.against} must be a checkout, with a folder synckit_notify")
    return options


if __name__ == "__main__":
    sys.exit(main())
