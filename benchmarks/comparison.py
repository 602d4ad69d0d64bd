"""Rows of all contenders in, Markdown out: medians, ratios, and whether each aim is met.

A ratio compares two contenders of the same repeat, measured within minutes of each other. It is more stable than the
figures themselves, which depend on what else the machine does.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

from .contenders import Contender
from .report import Row
from .scenarios import verified

GENERATOR_BOUND = 0.9
"""If the generator uses more of its core than this, it may limit the rates."""

OTHERS_BOUND = 0.05
"""If other processes use more of the server's core than this, rates and delays are not those of the server alone."""


class Figure(NamedTuple):
    """One number of one phase."""

    label: str
    phase: str
    key: str
    digits: int


MEMORY = Figure("memory per idle stream, KiB", "connects", "kib_per_stream", 1)
CONNECTS = Figure("connects/s", "connects", "connects_per_second", 0)
CONNECT_CPU = Figure("CPU per connect, µs", "connects", "cpu_us", 0)
EVENTS = Figure("events/s, one push in flight", "one_in_flight", "events_per_second", 0)
EVENT_CPU = Figure("CPU per event, one push in flight, µs", "one_in_flight", "cpu_us", 1)
EVENTS_OF_FOUR = Figure("events/s, four pushes in flight", "four_in_flight", "events_per_second", 0)
EVENT_CPU_OF_FOUR = Figure("CPU per event, four pushes in flight, µs", "four_in_flight", "cpu_us", 1)
KEEPALIVE_CPU = Figure("CPU per keepalive, µs", "keepalives", "cpu_us", 1)
P50 = Figure("push to frame, p50, ms", "delays", "p50_ms", 2)
P99 = Figure("push to frame, p99, ms", "delays", "p99_ms", 2)
LATE = Figure("latest push of the generator, ms", "delays", "late_ms", 1)
BYTES = Figure("bytes per event", "one_in_flight", "bytes_per_event", 0)

FIGURES = (
    MEMORY,
    CONNECTS,
    CONNECT_CPU,
    EVENTS,
    EVENT_CPU,
    EVENTS_OF_FOUR,
    EVENT_CPU_OF_FOUR,
    KEEPALIVE_CPU,
    P50,
    P99,
    LATE,
    BYTES,
)
OF_FAN_OUT = (EVENTS, EVENT_CPU, EVENTS_OF_FOUR, EVENT_CPU_OF_FOUR)
COMPARED = [figure for figure in FIGURES if figure not in (LATE, BYTES)]


MEDIANS = "figure: median (min - max)"
RATIOS = "ratio within a repeat: median (min - max)"
"""The heads of the two tables."""


class Aim(NamedTuple):
    """A bound of a figure of this project, or of its ratio to another contender's figure."""

    ours: str
    figure: Figure
    sign: str
    bound: float
    other: str | None = None


AIMS = (
    Aim("generator", MEMORY, "≤", 18),
    Aim("generator", EVENTS, "≥", 28_000),
    Aim("generator", EVENTS, "≥", 1.2, "sse-starlette"),
    Aim("generator", EVENTS_OF_FOUR, "≥", 2, "sse-starlette"),
    Aim("generator", CONNECTS, "≥", 1_900),
    Aim("parked", MEMORY, "≤", 2),
    Aim("parked", MEMORY, "≤", 0.2, "nchan"),
    Aim("parked", EVENTS, "≥", 1.2, "nchan"),
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
    """Return the report without its head."""
    measured = [contender for contender in contenders if contender.name in rows.names]
    names = [contender.name for contender in measured]
    pairs = [(ours, other) for ours in measured if ours.ours for other in measured if not other.ours]
    parts = [
        _table(
            MEDIANS,
            names,
            [(f.label, [_spread(rows.values(name, f).values(), f.digits) for name in names]) for f in FIGURES],
        ),
        _table(
            RATIOS,
            [f"{ours.name} / {other.name}" for ours, other in pairs],
            [(f.label, [_compared(ours, other, f, rows) for ours, other in pairs]) for f in COMPARED],
        )
        if pairs
        else "",
        _table("aim, for 10,000 streams", ["median (min - max)", "repeats", ""], [_result(aim, rows) for aim in AIMS]),
        "\n".join(_warnings(rows)),
        "\n".join([verdict(rows.all), *failures(rows.all)]),
    ]
    return "\n\n".join(part for part in parts if part)


def verdict(rows: Sequence[Row]) -> str:
    """Say whether everything that was expected was received."""
    wrong = [row for row in rows if not verified(row)]
    received = sum(row.get("received", 0) for row in rows)
    return (
        f"NOT VERIFIED: {len(wrong)} rows." if wrong else f"All {received:,} connects, events and keepalives verified."
    )


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for everything that went wrong."""
    for row in rows:
        if not verified(row):
            what = row.get("failed") or f"{row['received']:,} of {row['expected']:,} received"
            yield f"- {row['contender']}, {row['phase']}, repeat {row['repeat']}: {what}"


def _result(aim: Aim, rows: Rows) -> tuple[str, list[str]]:
    if aim.other is None:
        values, against, digits = list(rows.values(aim.ours, aim.figure).values()), "", aim.figure.digits
    else:
        values, against, digits = rows.ratios(aim.ours, aim.other, aim.figure), f" x {aim.other}", 2
    label = f"{aim.ours}: {aim.figure.label} {aim.sign} {aim.bound:,g}{against}"
    if not values:
        return label, ["", "0", "not measured"]
    middle = statistics.median(values)
    met = middle <= aim.bound if aim.sign == "≤" else middle >= aim.bound
    return label, [_spread(values, digits), str(len(values)), "met" if met else "MISSED"]


def _compared(ours: Contender, other: Contender, figure: Figure, rows: Rows) -> str:
    comparable = figure in OF_FAN_OUT or not other.floor
    return _spread(rows.ratios(ours.name, other.name, figure), 2) if comparable else ""


def _warnings(rows: Rows) -> Iterator[str]:
    """Yield a line for whatever else may have limited the figures."""
    shares = (
        (
            "others_share",
            OTHERS_BOUND,
            "Other processes used the server's core, so rates and delays are not reliable",
        ),
        ("generator_share", GENERATOR_BOUND, "The generator was busy, so it may limit the rates"),
    )
    for key, bound, text in shares:
        found = []
        for name, phase in product(rows.names, dict.fromkeys(figure.phase for figure in FIGURES)):
            values = rows.values(name, Figure("", phase, key, 2)).values()
            if values and (middle := statistics.median(values)) >= bound:
                found.append(f"{name} {phase} {middle:.0%}")
        if found:
            yield f"{text}: {', '.join(found)}."


def _spread(values: Iterable[float], digits: int) -> str:
    numbers = list(values)
    if not numbers:
        return ""
    low, middle, high = (f"{f(numbers):,.{digits}f}" for f in (min, statistics.median, max))
    return middle if len(numbers) == 1 else f"{middle} ({low} - {high})"


def _table(first: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = [f"| {first} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    return "\n".join([*head, *(f"| {label} | {' | '.join(cells)} |" for label, cells in lines)])
