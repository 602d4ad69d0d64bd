"""`python -m benchmarks.sdk` finds tables that differ, counts lines of code, and measures what really runs."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import sdk

MEMORY = {"private": 20 * 1024, "pss": 21 * 1024, "rss": 30 * 1024}
LINES = {"run": 38, "primitives": 107}


def first(*, is_equal: bool) -> dict[str, Any]:
    return {"rows": 1000, "send_seconds": 2.0, "pull_seconds": 0.5, "is_equal": is_equal, "memory_kib": MEMORY}


def edits(*, is_equal: bool) -> dict[str, Any]:
    return {"delays": {"p50": 0.1, "p99": 0.2, "max": 0.3}, "is_equal": is_equal, "memory_kib": MEMORY}


def test_the_report_has_a_line_for_each_figure() -> None:
    assert sdk.table({}, [first(is_equal=True)], edits(is_equal=True), LINES).splitlines()[4:] == [
        "| first send of 1,000 rows, s (rows per second) | 2.0 (500) |",
        "| first pull of 1,000 rows, s (rows per second) | 0.5 (2,000) |",
        "| that client afterwards, MiB: private, PSS, RSS | 20.0, 21.0, 30.0 |",
        "| edit to applied on the other device, ms: p50, p99, longest | 100, 200, 300 |",
        "| idle client process, MiB: private, PSS, RSS | 20.0, 21.0, 30.0 |",
        "| examples/todo, lines of code: with run, on the primitives | 38, 107 |",
    ]


@pytest.mark.parametrize(("pulled", "edited", "shown"), [(True, True, 0), (False, True, 1), (True, False, 1)])
def test_tables_that_differ_are_shown(pulled: bool, edited: bool, shown: int) -> None:
    printed = sdk.table({}, [first(is_equal=pulled)], edits(is_equal=edited), LINES)
    assert printed.count("**the tables differ**") == shown


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("x = 1\n\n# a comment\ny = 2  # another\n", 2),
        ('"""A docstring\n\nof three lines."""\n\nx = 1\n', 1),
        ('def f() -> None:\n    """Do it."""\n    print(1)\n', 2),
        ("f(\n    1,\n)\n", 3),
    ],
)
def test_lines_of_code_are_counted_without_comments_and_docstrings(source: str, lines: int) -> None:
    assert sdk.code_lines(source) == lines


@pytest.mark.thorough
def test_the_figures_are_those_of_devices_that_run(tmp_path: Path) -> None:
    with sdk.Site(tmp_path) as site:
        transfer = sdk.measure_first(site, 600)
        edited = sdk.measure_edits(site, 3)
    assert transfer["is_equal"]
    assert transfer["send_seconds"] > 0
    assert transfer["pull_seconds"] > 0
    assert edited["is_equal"]
    assert edited["delays"]["count"] == 3
    assert 0 < edited["delays"]["p50"] <= edited["delays"]["max"]
    assert edited["memory_kib"]["private"] <= edited["memory_kib"]["pss"] <= edited["memory_kib"]["rss"]


@pytest.mark.thorough
def test_a_row_that_is_missing_on_one_device_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sdk.Device.rows
    monkeypatch.setattr(sdk.Device, "rows", lambda device: rows(device)[device.settings.name.startswith("puller") :])
    with sdk.Site(tmp_path) as site:
        assert not sdk.measure_first(site, 3)["is_equal"]
