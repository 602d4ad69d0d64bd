"""The command: `python -m benchmarks.figures` prints the table of figures in README.md, made of a report of `peers`.

    the table of a report (default: the one in benchmarks/README.md) ──▶ one line a figure: values and ratios

README.md holds the table between its two `ratios` marks; a test compares both. After a new run, replace the report in
benchmarks/README.md and the table in README.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.markdown import rows

from .comparison import (
    CONNECT_CPU,
    CONNECTS,
    EVENT_CPU,
    EVENTS,
    EVENTS_OF_FOUR,
    HEAD,
    KEEPALIVE_CPU,
    MEMORY,
    P50,
    VALUE,
    Figure,
    label,
)
from .server import ROOT

REPORT = ROOT / "benchmarks" / "README.md"
KINDS = {"generator": "one greenlet per stream", "parked": "parked"}
PEERS = ("nchan", "sse-starlette", "pushpin")


class Line(NamedTuple):
    """One line of the table."""

    label: str
    figure: Figure
    unit: str
    better: str
    not_compared: str = ""
    """A peer whose figure means something else."""


LINES = (
    Line("memory per idle stream", MEMORY, " KiB", "lower"),
    Line("connects per second, each with its own token", CONNECTS, "", "higher", "nchan"),
    Line("processor time per connect", CONNECT_CPU, " µs", "lower", "nchan"),
    Line("events per second, one push in flight", EVENTS, "", "higher"),
    Line("events per second, four pushes in flight", EVENTS_OF_FOUR, "", "higher"),
    Line("processor time per event", EVENT_CPU, " µs", "lower"),
    Line("processor time per keepalive", KEEPALIVE_CPU, " µs", "lower"),
    Line("push to event, median", P50, " ms", "lower"),
)

Cells = dict[tuple[str, str], str]
"""The median of each cell of the table, by the first cell of its line and the name of its column."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("report", nargs="?", type=Path, default=REPORT, help="what `benchmarks.peers` printed")
    options = parser.parse_args(arguments)
    try:
        print(table(options.report))
    except (OSError, KeyError) as error:
        print(
            f"{options.report} must hold a report of benchmarks.peers with generator and parked streams: {error}",
            file=sys.stderr,
        )
        return 2
    return 0


def table(report: Path) -> str:
    """Return the table made of a report; raises KeyError for a figure that is not in it."""
    found, peers = _medians(report)
    columns = ["10,000 streams on one core", "better"]
    for name in KINDS.values():
        columns += [name, *(f"x {peer}" for peer in peers)]
    lines = [columns, ["---", "---", *["--:"] * (len(columns) - 2)]]
    for line in LINES:
        cells = [line.label, line.better]
        for kind in KINDS:
            first = label(kind, line.figure)
            cells.append(found[first, VALUE] + line.unit)
            cells += ["-" if peer == line.not_compared else found[first, f"x {peer}"] for peer in peers]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _medians(report: Path) -> tuple[Cells, list[str]]:
    """Return the medians, which stand before the spread in brackets, and the peers that the report has."""
    every = rows(report)
    found = [place for place, row in enumerate(every) if row[:2] == [HEAD, VALUE]]
    if not found:
        raise KeyError(f"{HEAD}, {VALUE}")
    columns = every[found[0]]
    cells: Cells = {}
    for row in every[found[0] + 1 :]:
        if len(row) == len(columns):
            medians = (cell.lstrip("*").partition(" (")[0] for cell in row)
            cells |= {(row[0], column): median for column, median in zip(columns, medians, strict=True)}
    return cells, [peer for peer in PEERS if f"x {peer}" in columns]


if __name__ == "__main__":
    sys.exit(main())
