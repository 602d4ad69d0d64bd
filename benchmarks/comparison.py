"""Rows of all contenders in, Markdown out: one table of this project's figures and their ratios to the others' figures.

A ratio compares two contenders of the same repeat, measured within minutes of each other. It is more stable than the
figures themselves, which depend on what else the machine does.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from .contenders import Contender, earlier_name
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
RETURN_CPU = Figure("CPU per connect of a device that returns, µs", "returns", "cpu_us", 0)
EVENTS = Figure("events/s, one push in flight", "one_in_flight", "events_per_second", 0)
EVENT_CPU = Figure("CPU per event, one push in flight, µs", "one_in_flight", "cpu_us", 1)
EVENTS_OF_FOUR = Figure("events/s, four pushes in flight", "four_in_flight", "events_per_second", 0)
EVENT_CPU_OF_FOUR = Figure("CPU per event, four pushes in flight, µs", "four_in_flight", "cpu_us", 1)
KEEPALIVE_CPU = Figure("CPU per keepalive, µs", "keepalives", "cpu_us", 1)
P50 = Figure("push to frame, p50, ms", "delays", "p50_ms", 2)
P99 = Figure("push to frame, p99, ms", "delays", "p99_ms", 2)

FIGURES = (
    MEMORY,
    CONNECTS,
    CONNECT_CPU,
    RETURN_CPU,
    EVENTS,
    EVENT_CPU,
    EVENTS_OF_FOUR,
    EVENT_CPU_OF_FOUR,
    KEEPALIVE_CPU,
    P50,
    P99,
)
OF_FAN_OUT = (EVENTS, EVENT_CPU, EVENTS_OF_FOUR, EVENT_CPU_OF_FOUR)

HEAD, VALUE, BEFORE = "figure", "median (min - max)", "before"
"""The first columns of the table; a column of ratios is called `x before` or `x nchan`."""

GENERATOR, PARKED, NCHAN, STARLETTE = "generator", "parked", "nchan", "sse-starlette"

AIMS: Mapping[tuple[str, str, Figure], float] = {
    (GENERATOR, VALUE, MEMORY): 16.5,
    (GENERATOR, BEFORE, MEMORY): 0.96,  # 0.7 KiB less than 17.5
    (GENERATOR, BEFORE, CONNECT_CPU): 0.90,
    (GENERATOR, BEFORE, RETURN_CPU): 0.77,
    (GENERATOR, BEFORE, EVENT_CPU): 0.65,
    (GENERATOR, BEFORE, KEEPALIVE_CPU): 0.60,
    (GENERATOR, BEFORE, P50): 0.70,
    (GENERATOR, BEFORE, P99): 1.1,
    (GENERATOR, NCHAN, EVENT_CPU): 2.5,
    (GENERATOR, NCHAN, P99): 1.0,
    (GENERATOR, STARLETTE, CONNECT_CPU): 0.5,
    (GENERATOR, STARLETTE, RETURN_CPU): 0.5,
    (GENERATOR, STARLETTE, EVENT_CPU): 0.6,
    (GENERATOR, STARLETTE, KEEPALIVE_CPU): 0.7,
    (GENERATOR, STARLETTE, P50): 1.2,
    (PARKED, BEFORE, MEMORY): 1.0,
    (PARKED, BEFORE, CONNECT_CPU): 0.90,
    (PARKED, BEFORE, RETURN_CPU): 0.77,
    (PARKED, BEFORE, EVENT_CPU): 1.0,
    (PARKED, BEFORE, KEEPALIVE_CPU): 1.0,
    (PARKED, BEFORE, P50): 0.62,
    (PARKED, BEFORE, P99): 1.1,
    (PARKED, NCHAN, MEMORY): 0.08,
    (PARKED, NCHAN, EVENT_CPU): 0.75,
    (PARKED, NCHAN, KEEPALIVE_CPU): 1.0,
    (PARKED, NCHAN, P99): 1.0,
    (PARKED, STARLETTE, CONNECT_CPU): 0.5,
    (PARKED, STARLETTE, RETURN_CPU): 0.5,
    (PARKED, STARLETTE, P50): 1.2,
}
"""The most that a figure of 10,000 streams, or a ratio, should be, by contender and column. Those of `before` are for a
comparison with commit dd6d341."""


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
    parts = [_table(rows, contenders), "\n".join(_warnings(rows)), "\n".join([verdict(rows.all), *failures(rows.all)])]
    return "\n\n".join(part for part in parts if part)


def label(name: str, figure: Figure) -> str:
    """Return the first cell of a line of the table."""
    return f"{name}: {figure.label}"


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


def _table(rows: Rows, contenders: Sequence[Contender]) -> str:
    """Return a line for each figure of each of this project's contenders, or of all if none of those was measured."""
    measured = [contender for contender in contenders if contender.name in rows.names]
    lines_of = [contender for contender in measured if contender.ours] or measured
    peers = [contender for contender in measured if contender not in lines_of and not contender.earlier]
    columns = [BEFORE] * any(contender.earlier for contender in measured) + [peer.name for peer in peers]
    floors = {peer.name for peer in peers if peer.floor}
    lines = [f"| {HEAD} | {VALUE} | {''.join(f'x {column} | ' for column in columns)}".rstrip()]
    lines.append("|---|--:|" + "--:|" * len(columns))
    for figure, ours in product(FIGURES, (contender.name for contender in lines_of)):
        cells = [_cell(list(rows.values(ours, figure).values()), figure.digits, AIMS.get((ours, VALUE, figure)))]
        for column in columns:
            other = earlier_name(ours) if column == BEFORE else column
            ratios = rows.ratios(ours, other, figure) if column not in floors or figure in OF_FAN_OUT else []
            cells.append(_cell(ratios, 2, AIMS.get((ours, column, figure))))
        lines.append(f"| {label(ours, figure)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int, aim: float | None) -> str:
    """Return median, smallest and largest, and the aim behind them; in bold if the median misses it."""
    text = _spread(values, digits)
    if not values or aim is None:
        return text
    return f"{text if statistics.median(values) <= aim else f'**{text}**'} ≤ {aim:g}"


def _warnings(rows: Rows) -> Iterator[str]:
    """Yield a line for whatever else may have limited the figures, with the phase in which it did so most."""
    shares = (
        (
            "others_share",
            OTHERS_BOUND,
            "Other processes used the server's core, so rates and delays are not reliable",
        ),
        ("generator_share", GENERATOR_BOUND, "The generator was busy, so it may limit the rates"),
    )
    phases = dict.fromkeys(figure.phase for figure in FIGURES)
    for key, bound, text in shares:
        found = []
        for name in rows.names:
            every = {phase: list(rows.values(name, Figure("", phase, key, 2)).values()) for phase in phases}
            share, phase = max(((statistics.median(of), phase) for phase, of in every.items() if of), default=(0, ""))
            if share >= bound:
                found.append(f"{name} {share:.0%} ({phase})")
        if found:
            yield f"{text}: {', '.join(found)}."


def _spread(values: Iterable[float], digits: int) -> str:
    numbers = list(values)
    if not numbers:
        return ""
    low, middle, high = (f"{f(numbers):,.{digits}f}" for f in (min, statistics.median, max))
    return middle if len(numbers) == 1 else f"{middle} ({low} - {high})"
