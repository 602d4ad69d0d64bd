"""The command: `python -m benchmarks.log` measures what a long log costs, and what `latest` and compaction save.

    growth      1,000 rows edited 1, 10 and 60 times: seconds of a first pull, bytes on the wire and on disk; by plain
                pulls and by `latest`, before and after `flask synckit compact --vacuum`
    winners     pushes to an app with the log mode rows and to one with history, in pairs
    beside      pushes to the account whose log is compacted, while it is and while it is not
    length      pushes and filtered pulls in logs of 10^4, 10^5 and 10^6 changes

Logs are filled by statements of the database, not by pushes. Each part runs on SQLite and on PostgreSQL (Debian's
package). A ratio beyond its aim is printed in bold; exit status 1 when a pull misses a row, 130 on Ctrl-C.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.postgresql import PostgreSQL

from . import report
from .attack_run import summary
from .log_site import Device, Pulled, Site
from .process import interrupt_on_signals
from .report import Row

DATA = "c" * 400
"""Stands for the ciphertext of a row of some 270 bytes."""

RARE = 200
"""Changes of a log that a filtered pull finds, however long the log is."""

REPEATS, REPEAT_SECONDS = 5, 5.0
"""How often something is timed, and after how many seconds it is not repeated."""

PAUSE_SECONDS = 0.002
"""Between two pushes beside a compaction."""

DURABLE = ("fsync=on", "full_page_writes=on", "shared_buffers=128MB", "max_wal_size=2GB")
"""PostgreSQL as it is in production, where the tests' server does not wait for the disk."""

DATABASES = ("SQLite", "PostgreSQL")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    rows: int = 1_000
    edits: tuple[int, ...] = (1, 10, 60)
    pairs: int = 300
    beaten: int = 40_000
    pushes: int = 1_000
    lengths: tuple[int, ...] = (10_000, 100_000, 1_000_000)


QUICK = Scale(rows=20, edits=(1, 3), pairs=5, beaten=1_000, pushes=10, lengths=(1_000, 2_000))


class Wrong(Exception):
    """A pull did not return what it must."""


class Sites:
    """Makes a site on an empty database of one kind, as often as needed."""

    def __init__(self, folder: Path, postgres: PostgreSQL | None) -> None:
        self._folder, self._postgres, self._made = folder, postgres, 0

    @contextmanager
    def site(self) -> Iterator[Site]:
        """Yield a site of its own."""
        self._made += 1
        kind = "sqlite" if self._postgres is None else "postgres"
        folder = self._folder / f"{kind}-{self._made}"
        folder.mkdir()
        database = None
        if self._postgres is not None:
            with self._postgres.connect() as connection:
                connection.execute(f"CREATE DATABASE benchmark{self._made}")
            database = self._postgres.url(f"benchmark{self._made}")
        with Site(folder, database, _tell) as site:
            yield site


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status."""
    options = _options(arguments)
    interrupt_on_signals()
    scale = QUICK if options.quick else Scale()
    facts = report.facts(
        f"rows with {len(DATA)} bytes of data; an HTTP client that neither decrypts nor stores",
        "gunicorn.conf.py, one gevent worker, the included backend; all processes on all cores",
    ) | {"load average before": f"{os.getloadavg()[0]:.1f}"}
    figures: dict[str, Row] = {}
    try:
        for database in options.database:
            with tempfile.TemporaryDirectory(prefix="synckit-log-") as folder:
                figures[database] = measure(Path(folder), database, scale)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 1
    facts["load average after"] = f"{os.getloadavg()[0]:.1f}"
    print(table(facts, figures, scale))
    report.save(options.json, facts, figures=figures)
    return 0


def measure(folder: Path, database: str, scale: Scale) -> Row:
    """Return the figures of all parts on one kind of database."""
    if database == "SQLite":
        return _measure(Sites(folder, None), scale)
    with PostgreSQL(*DURABLE) as server:
        return _measure(Sites(folder, server), scale)


def _measure(sites: Sites, scale: Scale) -> Row:
    found: Row = {"growth": [], "length": []}
    with sites.site() as alone, Device(alone, alone.app(), "alice") as base:
        alone.fill(base, scale.rows, rows=scale.rows, rare=0, data=DATA)
        for edits in scale.edits:
            with sites.site() as site:
                found["growth"].append(grow(site, base, scale.rows, edits))
    with sites.site() as site:
        found["winners"] = compare_modes(site, scale.pairs)
        for length in scale.lengths:
            found["length"].append(lengthen(site, scale, length))
        found["beside"] = push_beside(site, scale)
    return found


def grow(site: Site, base: Device, rows: int, edits: int) -> Row:
    """Return what a first pull takes and what the log takes, before and after its compaction.

    `base` is a device of another server, whose log has the rows alone; its pulls take turns with those here.
    """
    _tell(f"{rows:,} rows edited {edits} times")
    app = site.app()
    with Device(site, app, "alice") as device:
        site.fill(device, rows * edits, rows=rows, rare=0, data=DATA)
        before = _first_pulls(site, base, device, rows * edits, rows)
        began = time.perf_counter()
        _end(site.compact(app, "--vacuum"))
        seconds = time.perf_counter() - began
        after = _first_pulls(site, base, device, rows, rows)
    return {"edits": edits, "before": before, "after": after, "compact_seconds": seconds}


def _first_pulls(site: Site, base: Device, device: Device, changes: int, rows: int) -> Row:
    """Return the figures of plain first pulls and of those by `latest`, and the bytes on disk."""
    plain, latest = _pulls(base, device, changes, rows), _pulls(base, device, rows, rows, latest=True)
    return {"plain": plain, "latest": latest, "disk": site.disk()}


def _pulls(base: Device, device: Device, changes: int, rows: int, **fields: Any) -> Row:
    """Return the median seconds of first pulls, and of those of the base between them; and the bytes of one.

    Each must have so many changes and rows.
    """
    alone: list[Pulled] = []

    def pull() -> Pulled:
        alone.append(base.pull())
        return device.pull(**fields)

    taken = _repeated(pull, REPEATS)
    found = [change["row_id"] for change in taken[-1].changes]
    if (len(found), len({*found})) != (changes, rows):
        raise Wrong(f"a pull {fields or ''} returned {len(found)} of {changes} changes, {len({*found})} of {rows} rows")
    seconds, base_seconds = (statistics.median(each.seconds for each in pulls) for pulls in (taken, alone))
    return {"seconds": seconds, "base_seconds": base_seconds, "bytes": taken[-1].bytes}


def compare_modes(site: Site, pairs: int) -> Row:
    """Return the delays of pushes to an app of each log mode; each pair is sent in a random order."""
    _tell(f"{pairs} pairs of pushes, with winners and without")
    with Device(site, site.app("rows"), "alice") as rows, Device(site, site.app("history"), "alice") as history:
        delays: dict[str, list[float]] = {"rows": [], "history": []}
        for number in range(-(pairs // 10), pairs):
            pair = [("rows", rows), ("history", history)]
            random.shuffle(pair)
            for mode, device in pair:
                seconds = device.push(f"row-{number % 50}", DATA)
                if number >= 0:  # those before it warm the server up
                    delays[mode].append(seconds)
    return {mode: summary(taken) for mode, taken in delays.items()}


def push_beside(site: Site, scale: Scale) -> Row:
    """Return the delays of pushes to an account while its log is compacted, and before and after that."""
    _tell(f"pushes beside the compaction of {scale.beaten:,} changes")
    app = site.app()
    with Device(site, app, "alice") as device:
        site.fill(device, scale.beaten, rows=scale.rows, rare=0, data=DATA)

        def push(times: int) -> list[float]:
            taken = []
            for number in range(times):
                taken.append(device.push(f"row-{number % scale.rows}", DATA))
                time.sleep(PAUSE_SECONDS)
            return taken

        alone = push(scale.pushes // 2)
        beside: list[float] = []
        with site.compact(app) as command:
            while command.poll() is None:
                beside += push(1)
        _end(command)
        alone += push(scale.pushes // 2)
    return {"alone": summary(alone), "beside": summary(beside)}


def lengthen(site: Site, scale: Scale, length: int) -> Row:
    """Return how long a push takes, and a pull of few changes: of one table, and since a time, in a log so long."""
    with Device(site, site.app(), "alice") as device:
        site.fill(device, length, rows=scale.rows, rare=RARE, data=DATA)
        _tell(f"pushes and filtered pulls in {length:,} changes")
        since = device.pull(length - RARE).changes[0]["received_at"]
        pulls: dict[str, dict[str, Any]] = {"by_table": {"tables": ["rare"]}, "since": {"since": since}}
        row: Row = {"length": length}
        for name, fields in pulls.items():
            taken = _repeated(partial(device.pull, **fields), scale.pairs // 5)
            if len(taken[0].changes) != RARE:
                raise Wrong(f"a pull with {fields} returned {len(taken[0].changes)} changes instead of {RARE}")
            row[name] = summary([each.seconds for each in taken])
        return row | {"push": summary([device.push(f"row-{at % scale.rows}", DATA) for at in range(scale.pairs)])}


def _repeated(pull: Callable[[], Pulled], times: int) -> list[Pulled]:
    """Return what so many pulls took, or fewer if they take long."""
    taken: list[Pulled] = []
    while len(taken) < times and sum(each.seconds for each in taken) < REPEAT_SECONDS:
        taken.append(pull())
    return taken


def table(facts: dict[str, str], figures: dict[str, Row], scale: Scale) -> str:
    """Return the whole report: one column for each database."""
    columns = [dict(_lines(figures[database], scale)) for database in figures]
    aims = {name: f"{aim:g} x" for name, aim in AIMS.items()}
    head = f"| what | {' | '.join(figures)} | aim |"
    lines = [
        f"| {what} | {' | '.join(column[what] for column in columns)} | {aims.get(kind_of(what), '')} |"
        for what in columns[0]
    ]
    return "\n".join([report.head(facts), "", head, f"|---|{'--:|' * len(figures)}--:|", *lines])


LATEST, AFTER, ON_DISK = "first pull by `latest`", "first pull after compaction", "on disk after compaction"
WINNERS, BESIDE = "push with winners", "push beside a compaction"
TABLE, SINCE = "pull of a table", "pull since a time"
AIMS = {LATEST: 1.5, AFTER: 1.5, ON_DISK: 2.0, WINNERS: 1.1, BESIDE: 3.0, TABLE: 5.0, SINCE: 5.0}
"""How much more than the figure beside it each may be, at the longest log."""


def _lines(found: Row, scale: Scale) -> Iterator[tuple[str, str]]:
    """Yield a name and a figure for each line; the first of a kind is what the ratios of the others refer to."""
    alone = found["growth"][0]["before"]
    for row in found["growth"]:
        edited = f"{scale.rows:,} rows edited {row['edits']} times" if row["edits"] > 1 else f"{scale.rows:,} rows"
        before, after = row["before"], row["after"]
        yield f"plain first pull: {edited}", _pulled(before["plain"])
        yield f"{LATEST}: {edited}", _pulled(before["latest"], AIMS[LATEST])
        yield f"{AFTER}: {edited}", _pulled(after["plain"], AIMS[AFTER])
        yield f"{AFTER}, by `latest`: {edited}", _pulled(after["latest"], AIMS[AFTER])
        yield f"on disk: {edited}", f"{before['disk'] / 1e6:.1f} MB"
        yield f"{ON_DISK}: {edited}", _ratio(f"{after['disk'] / 1e6:.1f} MB", after["disk"] / alone["disk"], ON_DISK)
        yield f"compaction with --vacuum: {edited}", f"{row['compact_seconds']:.1f} s"
    yield from _compared(found["winners"]["history"], found["winners"]["rows"], "push without winners", WINNERS, "p50")
    yield from _compared(found["beside"]["alone"], found["beside"]["beside"], "push without compaction", BESIDE, "p99")
    for name, kind in (("push", "push"), ("by_table", TABLE), ("since", SINCE)):
        first = found["length"][0][name]["p50"]
        for row in found["length"]:
            figure = f"{row[name]['p50'] * 1e3:.1f} ms"
            yield f"{kind}, p50: {row['length']:,} changes", _ratio(figure, row[name]["p50"] / first, kind)


def _compared(base: Row, other: Row, base_kind: str, kind: str, quantile: str) -> Iterator[tuple[str, str]]:
    yield f"{base_kind}, {quantile}", f"{base[quantile] * 1e3:.1f} ms"
    figure = f"{other[quantile] * 1e3:.1f} ms ({other['count']:,})"
    yield f"{kind}, {quantile}", _ratio(figure, other[quantile] / base[quantile], kind)


def _pulled(row: Row, aim: float = float("inf")) -> str:
    figure = f"{row['seconds']:.2f} s, {row['bytes'] / 1e6:.1f} MB"
    return f"{figure}, {_times(row['seconds'] / row['base_seconds'], aim)}"


def _ratio(figure: str, ratio: float, kind: str) -> str:
    return f"{figure}, {_times(ratio, AIMS.get(kind, float('inf')))}"


def _times(ratio: float, aim: float) -> str:
    return f"{ratio:.2f} x" if ratio <= aim else f"**{ratio:.2f} x**"


def kind_of(what: str) -> str:
    """Return the kind of a line of the table, by which AIMS names its aim."""
    return what.partition(":")[0].partition(",")[0]


def _end(command: "subprocess.Popen[bytes]") -> None:
    """Wait for a command; raise RuntimeError if it failed."""
    if command.wait():
        raise RuntimeError("flask synckit compact failed: see its message above")


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny logs: shows that everything works, measures nothing")
    parser.add_argument("--database", nargs="+", choices=DATABASES, default=DATABASES, help="default: both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw figures as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
