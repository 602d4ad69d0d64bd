"""Rows in, one table in Markdown out, headed by the machine and the versions: medians, and min to max over repeats."""

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from .phases import Row
from .server import ROOT

PACKAGES = ("gunicorn", "gevent", "greenlet", "Flask", "Werkzeug", "PyJWT")
GENERATOR_BOUND = 0.9
"""From this share of its core on the generator may be the limit, and the figure says so."""


class Figure(NamedTuple):
    """One line of the table."""

    label: str
    phase: str
    key: str
    digits: int
    aim: str = ""


FIGURES = (
    Figure("memory per idle stream, KiB", "connects", "kib_per_stream", 1, "≤ 19"),
    Figure("the same after pushes and keepalives, KiB", "delays", "kib_per_stream_later", 1),
    Figure("connects/s, each with its own JWT", "connects", "connects_per_second", 0, "≥ 1,900"),
    Figure("server CPU per connect, µs", "connects", "cpu_us", 0),
    Figure("events/s to 1,000 streams, sat1", "sat1", "events_per_second", 0, "≥ 28,000"),
    Figure("server CPU per event, sat1, µs", "sat1", "cpu_us", 1),
    Figure("events/s to 1,000 streams, sat", "sat", "events_per_second", 0),
    Figure("server CPU per event, sat, µs", "sat", "cpu_us", 1),
    Figure("events per read, sat", "sat", "events_per_read", 2),
    Figure("push to frame at 50 pushes/s, p50, ms", "delays", "p50_ms", 2),
    Figure("push to frame at 50 pushes/s, p99, ms", "delays", "p99_ms", 2),
    Figure("push to frame at 50 pushes/s, longest, ms", "delays", "longest_ms", 1),
    Figure("the generator's own longest lateness then, ms", "delays", "late_ms", 1),
)


def facts(measured: str, configuration: str) -> dict[str, str]:
    """Return what a reader must know to compare. Asked at the start: a tree may move on."""
    return {
        **surroundings(),
        "measured": measured,
        "configuration": configuration,
    }


def surroundings() -> dict[str, str]:
    """Return when, where, and with what something is measured."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} x {cpu[1] if cpu else 'unknown'}, "
        f"{int(memory[1]) / 2**20 if memory else 0:.0f} GiB, {os.uname().sysname} {os.uname().release}",
        "versions": ", ".join([f"CPython {platform.python_version()}", *(f"{p} {version(p)}" for p in PACKAGES)]),
        "commit": _commit(),
    }


def table(facts: dict[str, str], rows: Sequence[Row]) -> str:
    """Return the whole report."""
    head = [f"- {name}: {value}" for name, value in (facts | {"collector": rows[0]["collector"]}).items()]
    columns = "| figure | median | min - max | aim | server's core | others on it | generator's core |"
    lines = [_line(figure, rows) for figure in FIGURES]
    return "\n".join([*head, "", columns, "|---|--:|--:|--:|--:|--:|--:|", *lines, "", verdict(rows)])


def verdict(rows: Sequence[Row]) -> str:
    """Say whether everything that was pushed arrived, no more and no less."""
    wrong = [row for row in rows if row["expected"] != row["received"]]
    if wrong:
        return "NOT VERIFIED: " + "; ".join(f"{r['phase']} {r['received']} of {r['expected']}" for r in wrong)
    return f"All {sum(float(row['received']) for row in rows):,.0f} registrations and deliveries verified."


def progress(row: Row) -> str:
    """Return one row as one line."""
    numbers = (f"{key} {value:,.2f}" for key, value in row.items() if isinstance(value, float))
    return f"{row['phase']} {row['received']:,}/{row['expected']:,}: " + ", ".join(numbers)


def _line(figure: Figure, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if row["phase"] == figure.phase]
    values = [float(row[figure.key]) for row in mine]
    low, middle, high = (f"{f(values):,.{figure.digits}f}" for f in (min, statistics.median, max))
    shares = ("server_share", "others_share", "generator_share")
    server, others, generator = (statistics.median(float(row[share]) for row in mine) for share in shares)
    bound = " (limit)" if generator >= GENERATOR_BOUND else ""
    return (
        f"| {figure.label} | {middle} | {low} - {high} | {figure.aim} "
        f"| {server:.0%} | {others:.0%} | {generator:.0%}{bound} |"
    )


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
