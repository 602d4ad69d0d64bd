"""`benchmarks.listeners` compares two versions of the package run by run, and its exit status judges the answers."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import listeners
from benchmarks.contenders import start_floor
from benchmarks.generator import Generator, Programs

from ..support.programs import need

AGAINST = str(listeners.ROOT)


def row(tree: str, repeat: int, milliseconds: float, **other: Any) -> dict[str, Any]:
    times = dict.fromkeys(listeners.FIGURES, milliseconds)
    what = {"tree": tree, "kind": "parked", "channel": 3, "repeat": repeat}
    return {**what, "expected": 30, "frames": 30, **times, **other}


def rows(*milliseconds: tuple[float, float]) -> list[dict[str, Any]]:
    """Return rows of this version and the other one for each repeat; they are in the order of the runs."""
    found = []
    for repeat, (this, against) in enumerate(milliseconds):
        found += [row("this", repeat, this), row("against", repeat, against)][:: 1 if repeat % 2 == 0 else -1]
    return found


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        (rows((1.0, 1.0), (1.6, 1.0), (1.5, 1.0)), 0),
        (rows((1.6, 1.0)), 1),
        ([row("this", 1, 9.0)], 0),
        ([row("this", 1, 9.0, frames=29)], 1),
    ],
)
def test_a_slower_answer_or_a_lost_event_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, measured: list[dict[str, Any]], status: int
) -> None:
    monkeypatch.setattr(listeners, "prepare", lambda: None)
    monkeypatch.setattr(listeners, "measure", lambda *_: measured)
    assert listeners.main(["--against", AGAINST] if len(measured) > 1 else []) == status


def test_ratios_are_those_of_the_same_repeat() -> None:
    table = listeners.table(rows((1.0, 2.0), (6.0, 3.0), (4.0, 4.0)), Path("before"))
    cells = "4.00 (1.00 - 6.00) | 3.00 (2.00 - 4.00) | 1.00 (0.50 - 2.00)"
    assert f"| parked, channels of 3: answer, p99 | {cells} |" in table


def test_what_is_no_checkout_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        listeners.main(["--against", str(tmp_path)])
    assert "must be a checkout, with a folder synckit_notify" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_answer_of_each_push_is_timed(tmp_path: Path) -> None:
    need("cc")
    programs = Programs(tmp_path)
    with start_floor(programs, "", 30) as server, Generator(programs, server, "k" * 32, [3, 3]) as load:
        load.ask("open 6")
        for _ in range(2):
            counted = load.ask("pace 0 1 50 0.2")
            assert counted["frames"] == counted["expected"] == 30
            assert 0 < counted["answer_p50_ms"] <= counted["answer_p99_ms"] <= counted["answer_longest_ms"]
