"""Rows of all contenders in, Markdown out: medians side by side, ratios of pairs with spread, aims and whether met.

A pair is two contenders measured in the same repeat, within minutes of each other. So a ratio stands firm where the
rates themselves move with whatever else the machine does.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from .contenders import Contender
from .report import GENERATOR_BOUND
from .trials import Row, verified

OTHERS_BOUND = 0.05
"""From this share of the server's core on, rates and delays are no longer those of the server alone."""


class Figure(NamedTuple):
    """One number of one phase."""

    label: str
    phase: str
    key: str
    digits: int


MEMORY = Figure("memory per idle stream, KiB", "connects", "kib_per_stream", 1)
CONNECTS = Figure("connects/s", "connects", "connects_per_second", 0)
CONNECT_CPU = Figure("CPU per connect, µs", "connects", "cpu_us", 0)
SAT1 = Figure("events/s, one-frame waves (sat1)", "sat1", "events_per_second", 0)
EVENT_CPU = Figure("CPU per event, sat1, µs", "sat1", "cpu_us", 1)
SAT = Figure("events/s, frames may join (sat)", "sat", "events_per_second", 0)
SAT_CPU = Figure("CPU per event, sat, µs", "sat", "cpu_us", 1)
KEEPALIVE_CPU = Figure("CPU per keepalive, µs", "keepalives", "cpu_us", 1)
P50 = Figure("push to frame, p50, ms", "delays", "p50_ms", 2)
P99 = Figure("push to frame, p99, ms", "delays", "p99_ms", 2)
LATE = Figure("the generator's own longest lateness then, ms", "delays", "late_ms", 1)
BYTES = Figure("bytes per event on the wire, sat1", "sat1", "bytes_per_event", 0)

FIGURES = (MEMORY, CONNECTS, CONNECT_CPU, SAT1, EVENT_CPU, SAT, SAT_CPU, KEEPALIVE_CPU, P50, P99, LATE, BYTES)
COMPARED = [figure for figure in FIGURES if figure not in (LATE, BYTES)]


class Aim(NamedTuple):
    """What a figure of ours should be, by itself or as a ratio to another's."""

    ours: str
    figure: Figure
    sign: str
    bound: float
    other: str | None = None


AIMS = (
    Aim("generator", MEMORY, "≤", 18),
    Aim("generator", SAT1, "≥", 28_000),
    Aim("generator", SAT1, "≥", 1.2, "sse-starlette"),
    Aim("generator", SAT, "≥", 2, "sse-starlette"),
    Aim("generator", CONNECTS, "≥", 1_900),
    Aim("parked", MEMORY, "≤", 2),
    Aim("parked", MEMORY, "≤", 0.2, "nchan"),
    Aim("parked", SAT1, "≥", 1.2, "nchan"),
    Aim("parked", EVENT_CPU, "≤", 0.85, "nchan"),
    Aim("parked", EVENT_CPU, "≤", 1.5, "floor"),
    Aim("parked", KEEPALIVE_CPU, "≤", 1.2, "nchan"),
    Aim("parked", CONNECTS, "≥", 2_600),
)


class Rows:
    """The measured rows, found by contender and figure."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.all = rows
        self.names = list(dict.fromkeys(row["contender"] for row in rows))

    def values(self, name: str, figure: Figure) -> dict[int, float]:
        """Return a figure of every repeat that has it."""
        mine = (row for row in self.all if row["contender"] == name and row["phase"] == figure.phase)
        return {row["repeat"]: row[figure.key] for row in mine if figure.key in row}

    def ratios(self, name: str, other: str, figure: Figure) -> list[float]:
        """Return one ratio for each repeat in which both were measured."""
        ours, theirs = self.values(name, figure), self.values(other, figure)
        return [ours[repeat] / theirs[repeat] for repeat in ours if theirs.get(repeat)]


def tables(rows: Rows, contenders: Sequence[Contender]) -> str:
    """Return the whole comparison, all but its head."""
    there = [contender for contender in contenders if contender.name in rows.names]
    names = [contender.name for contender in there]
    pairs = [(ours, other) for ours in there if ours.ours for other in there if not other.ours]
    parts = [
        _table(
            "figure: median (min - max)",
            names,
            [(f.label, [_told(rows.values(name, f).values(), f.digits) for name in names]) for f in FIGURES],
        ),
        _table(
            "ratio within a repeat: median (min - max)",
            [f"{ours.name} / {other.name}" for ours, other in pairs],
            [(f.label, [_compared(ours, other, f, rows) for ours, other in pairs]) for f in COMPARED],
        )
        if pairs
        else "",
        _table("aim, for 10,000 streams", ["median (min - max)", "repeats", ""], [_judged(aim, rows) for aim in AIMS]),
        "\n".join(_warnings(rows)),
        "\n".join([verdict(rows.all), *failures(rows.all)]),
    ]
    return "\n\n".join(part for part in parts if part)


def verdict(rows: Sequence[Row]) -> str:
    """Say whether everything arrived that was due."""
    wrong = [row for row in rows if not verified(row)]
    received = sum(row.get("received", 0) for row in rows)
    return (
        f"NOT VERIFIED: {len(wrong)} rows." if wrong else f"All {received:,} connects, events and keepalives verified."
    )


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for everything that went wrong."""
    for row in rows:
        if not verified(row):
            what = row.get("failed") or f"{row['received']:,} of {row['expected']:,} arrived"
            yield f"- {row['contender']}, {row['phase']}, repeat {row['repeat']}: {what}"


def _judged(aim: Aim, rows: Rows) -> tuple[str, list[str]]:
    if aim.other is None:
        values, against, digits = list(rows.values(aim.ours, aim.figure).values()), "", aim.figure.digits
    else:
        values, against, digits = rows.ratios(aim.ours, aim.other, aim.figure), f" x {aim.other}", 2
    label = f"{aim.ours}: {aim.figure.label} {aim.sign} {aim.bound:,g}{against}"
    if not values:
        return label, ["", "0", "not measured"]
    middle = statistics.median(values)
    met = middle <= aim.bound if aim.sign == "≤" else middle >= aim.bound
    return label, [_told(values, digits), str(len(values)), "met" if met else "MISSED"]


def _compared(ours: Contender, other: Contender, figure: Figure, rows: Rows) -> str:
    comparable = figure.phase in ("sat1", "sat") or not other.floor
    return _told(rows.ratios(ours.name, other.name, figure), 2) if comparable else ""


def _warnings(rows: Rows) -> Iterator[str]:
    """Yield a line for everything that makes figures less than the server's own."""
    shares = (
        ("others_share", OTHERS_BOUND, "Others used the server's core, which spoils rates and delays"),
        ("generator_share", GENERATOR_BOUND, "The generator was busy, so rates may be its limit"),
    )
    for key, bound, text in shares:
        found = []
        for name, phase in product(rows.names, dict.fromkeys(figure.phase for figure in FIGURES)):
            values = rows.values(name, Figure("", phase, key, 2)).values()
            if values and (middle := statistics.median(values)) >= bound:
                found.append(f"{name} {phase} {middle:.0%}")
        if found:
            yield f"{text}: {', '.join(found)}."


def _told(values: Iterable[float], digits: int) -> str:
    numbers = list(values)
    if not numbers:
        return ""
    low, middle, high = (f"{f(numbers):,.{digits}f}" for f in (min, statistics.median, max))
    return middle if len(numbers) == 1 else f"{middle} ({low} - {high})"


def _table(first: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = [f"| {first} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    return "\n".join([*head, *(f"| {label} | {' | '.join(cells)} |" for label, cells in lines)])
