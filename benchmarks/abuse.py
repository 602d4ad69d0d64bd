"""The command: `python -m benchmarks.abuse` attacks real servers and measures what well-behaved streams notice.

    for each attack: a fresh gunicorn, some hundred streams ──▶ the attack ──▶ a row ──▶ which promises were broken?

Progress is printed on stderr, a table on stdout. Exit status 1 when a promise is broken, 130 on Ctrl-C. All started
processes are ended in any case. All traffic stays on the loopback interface.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import report
from .attack_run import broken_promises, run_attack, target
from .attacks import ATTACKS
from .process import prepare
from .report import Row

PERIOD = 1.0
"""Seconds between keepalives, and the most that one may be late."""

WORKERS: dict[str, dict[str, Any]] = {
    "gevent": {},
    "parked": {"settings": {"SYNCKIT_PARKING": "1"}},
    "gthread": {"options": {"worker-class": "gthread", "threads": 1000}},
}
"""One greenlet per stream, parked streams, one thread per stream."""


COLUMNS = (
    "attack",
    "keepalives late, ms: p50 / p99 / max",
    "push to frame, ms: p50 / max",
    "/live, ms: p50 / max",
    "server's core / others on it",
    "MiB before / most / after",
    "descriptors",
    "threads",
    "log lines/s",
    "responses to the attacker",
    "broken",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack, print, and return the exit status."""
    options = _options(arguments)
    facts = report.facts(
        f"{options.streams} streams, {options.seconds:g} s per attack",
        f"gunicorn.conf.py, one worker ({options.worker}), the reference backend",
    )
    prepare()
    try:
        rows = list(measure(options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(table(facts, rows))
    report.save(options.json, facts, rows=rows)
    return 1 if any(row["broken"] for row in rows) else 0


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Yield one row per attack, each on its own server, and print it on stderr."""
    for number, name in enumerate(options.attacks, 1):
        print(f"[{number}/{len(options.attacks)}] {name} ...", end=" ", file=sys.stderr, flush=True)
        with target(options.streams, PERIOD, **WORKERS[options.worker]) as server:
            row = run_attack(server, name, options.seconds, ATTACKS[name][1])
            row["broken"] = broken_promises(row)
        print(progress(row), file=sys.stderr, flush=True)
        yield row


def progress(row: Row) -> str:
    """Return one row as one line."""
    late = f"keepalives at most {row['keepalive']['max'] * 1e3:,.0f} ms late"
    return f"{late}, {answers(row)}: {'; '.join(row['broken']) or 'all promises kept'}"


def answers(row: Row) -> str:
    """Return which responses the attacker received."""
    seen = row["attacker"] or {"opened": 0, "closed_on": 0, "answers": {}}
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(seen["answers"].items()))
    return f"{seen['opened']:,} connections, {seen['closed_on']:,} closed by the server, {statuses or 'no responses'}"


def table(facts: dict[str, str], rows: Sequence[Row]) -> str:
    """Return the whole report."""
    columns = " | ".join(COLUMNS)
    rule = f"|---{'|--:' * (len(COLUMNS) - 3)}|---|---|"
    return "\n".join([report.head(facts), "", f"| {columns} |", rule, *map(_line, rows)])


def _line(row: Row) -> str:
    before, after = row["before"], row["after"]
    memory = " / ".join(f"{kib / 1024:,.0f}" for kib in (before["memory_kib"], row["peak_kib"], after["memory_kib"]))
    cells = [
        row["attack"],
        _milliseconds(row["keepalive"], "p50", "p99", "max"),
        _milliseconds(row["push"], "p50", "max"),
        _milliseconds(row["live"], "p50", "max"),
        f"{row['server_share']:.0%} / {row['others_share']:.0%}",
        memory,
        f"{before['descriptors']:,} / {after['descriptors']:,}",
        f"{before['threads']} / {after['threads']}",
        f"{row['log_lines'] / row['seconds']:,.1f}",
        answers(row),
        "; ".join(row["broken"]) or "-",
    ]
    return f"| {' | '.join(cells)} |"


def _milliseconds(summary: dict[str, float], *keys: str) -> str:
    return " / ".join(f"{summary[key] * 1e3:,.0f}" for key in keys)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"some of: {', '.join(ATTACKS)} (default all)")
    parser.add_argument("--streams", type=int, default=300, help="number of well-behaved streams (default 300)")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each attack (default 8)")
    parser.add_argument("--worker", choices=list(WORKERS), default="gevent", help="kind of worker (default gevent)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"unknown attack {', '.join(sorted(unknown))}; choose from {', '.join(ATTACKS)}")
    if not 3 <= options.streams <= 900 or not 0 < options.seconds <= 60:
        parser.error("--streams must be 3 to 900, --seconds at most 60")
    options.attacks = options.attacks or list(ATTACKS)
    return options


if __name__ == "__main__":
    sys.exit(main())
