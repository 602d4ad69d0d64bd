"""Reports that all benchmarks share: the machine, the versions, the progress, and results as JSON."""

import json
import os
import platform
import re
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .server import ROOT

PACKAGES = ("gunicorn", "gevent", "greenlet", "Flask", "Werkzeug", "PyJWT")

Row = dict[str, Any]
"""The results of one measurement by name, as JSON values."""


def facts(measured: str, configuration: str) -> dict[str, str]:
    """Return what a reader must know to compare. Call it at the start: files may change during a run."""
    return {**surroundings(), "measured": measured, "configuration": configuration}


def surroundings() -> dict[str, str]:
    """Return when, where, and with which versions something is measured."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} x {cpu[1] if cpu else 'unknown'}, "
        f"{int(memory[1]) / 2**20 if memory else 0:.0f} GiB, {os.uname().sysname} {os.uname().release}",
        "versions": ", ".join([_python(), *(f"{p} {version(p)}" for p in PACKAGES)]),
        "commit": commit(ROOT),
    }


def head(facts: dict[str, str]) -> str:
    """Return facts as a Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def head_of_table(label: str, against: object) -> list[str]:
    """Return the first two lines of a table of this version, and of another one and the ratios if there is one."""
    return [
        f"| {label} | this |" + (f" {against} | ratio |" if against else ""),
        "|---|--:|" + "--:|--:|" * bool(against),
    ]


def ratios(this: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return the ratio of each figure to the one measured beside it."""
    return [mine / theirs for mine, theirs in zip(this, other, strict=True)]


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median, and the least and the greatest in brackets."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def save(file: Path | None, facts: dict[str, str], **measured: object) -> None:
    """Write facts and raw figures as JSON, if there is a file for them."""
    if file is not None:
        file.write_text(json.dumps({**facts, **measured}, indent=1) + "\n")


def progress(row: Row) -> str:
    """Return one row as one line."""
    if "failed" in row:
        return f"{row['phase']} FAILED: {row['failed']}"
    numbers = (f"{key} {value:,.2f}" for key, value in row.items() if isinstance(value, float))
    return f"{row['phase']} {row['received']:,}/{row['expected']:,}: " + ", ".join(numbers)


def commit(root: Path, name: str = "") -> str:
    """Return the commit of a checkout, or the one with this name."""
    command = ["git", "-C", str(root), "describe", "--always", name or "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _python() -> str:
    """Return the version of Python, and how it was built: without PGO a connect takes 13 % more time."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"CPython {platform.python_version()} built {'with' if optimized else 'without'} PGO"
