"""`benchmarks.idle` compares the processor time of idle streams in the same window, and its exit status judges it."""

from typing import Any

import pytest

from benchmarks import idle

from ..support.programs import need


def rows(*milliseconds: tuple[float, float], keepalives: int = 30) -> list[dict[str, Any]]:
    """Return rows of this version and the other one for each window."""
    return [
        {"kind": "parked", "tree": tree, "streams": 30, "keepalives": keepalives, "cpu_ms_per_second": figure}
        for window in milliseconds
        for tree, figure in zip(("this", "against"), window, strict=True)
    ]


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        (rows((10.0, 10.0), (12.0, 10.0), (10.5, 10.0)), 0),
        (rows((10.6, 10.0)), 1),
        (rows((10.0, 10.0))[:1], 0),
        (rows((10.0, 10.0), keepalives=23), 1),
    ],
)
def test_dearer_idle_streams_or_a_missing_keepalive_are_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], status: int
) -> None:
    monkeypatch.setattr(idle, "prepare", lambda: None)
    monkeypatch.setattr(idle, "measure", lambda *_: measured)
    assert idle.main(["--streams", "parked", "--count", "90"]) == status


def test_ratios_are_those_of_the_same_window() -> None:
    table = idle.table(rows((1.0, 2.0), (6.0, 3.0), (4.0, 4.0)), "HEAD~1")
    assert "| parked | 4.0 (1.0 - 6.0) | 3.0 (2.0 - 4.0) | 1.00 (0.50 - 2.00) |" in table


def test_what_is_no_checkout_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need("git")
    monkeypatch.setattr(idle, "prepare", lambda: None)
    assert idle.main(["--count", "90", "--against", "no-such-commit"]) == 2
    assert "no-such-commit" in capsys.readouterr().err


@pytest.mark.thorough
def test_each_stream_gets_its_keepalive_in_each_window(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("cc")
    monkeypatch.setattr(idle, "prepare", lambda: None)
    assert idle.main(["--count", "90", "--period", "2", "--windows", "2"]) == 0
    assert "| parked |" in capsys.readouterr().out
