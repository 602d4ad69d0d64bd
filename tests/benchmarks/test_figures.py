"""The figures in README.md are those that `benchmarks.figures` makes of the report in benchmarks/README.md."""

from pathlib import Path

import pytest

from benchmarks import figures

from ..support.server import ROOT


def test_the_readme_shows_the_figures_of_the_report() -> None:
    shown = (ROOT / "README.md").read_text().partition("<!-- ratios -->")[2].partition("<!-- /ratios -->")[0]
    assert figures.table(figures.REPORT) in shown


def test_values_and_ratios_stand_in_columns_of_their_own() -> None:
    head, _, memory, connects, *_ = figures.table(figures.REPORT).splitlines()
    columns = dict(zip(head.split("|"), memory.split("|"), strict=True))
    assert columns[" one greenlet per stream "].endswith(" KiB ")
    assert all(float(columns[name]) < 1 for name in (" x sse-starlette ",))
    assert connects.count(" - ") == 2, "nchan checks no token"


def test_a_file_without_a_report_is_an_error_that_says_what_it_must_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.md").write_text("")
    assert figures.main([str(tmp_path / "empty.md")]) == 2
    assert "must hold a report of benchmarks.peers with generator and parked streams" in capsys.readouterr().err
