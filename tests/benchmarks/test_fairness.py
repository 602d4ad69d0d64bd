"""`python -m benchmarks.fairness` runs, and knows what a broken promise is."""

from typing import Any

import pytest

from benchmarks import fairness

from ..support.postgresql import DEBIAN
from ..support.programs import need


def row(without: float, during: float, refused: int = 0) -> dict[str, Any]:
    times = {"without": {"p50": without, "p99": without}, "during": {"p50": during, "p99": during, "refused": refused}}
    return {"database": "sqlite", "attack": "right logins", "kind": "status", "answers": {"200": 7}, **times}


@pytest.mark.parametrize(
    ("without", "during", "refused", "expected"),
    [(0.002, 0.049, 0, False), (0.002, 0.051, 0, True), (0.1, 0.49, 0, False), (0.1, 0.51, 0, True), (1, 1, 1, True)],
)
def test_the_promise_is_five_times_or_50_ms_and_nobody_refused(
    without: float, during: float, refused: int, expected: bool
) -> None:
    assert fairness.is_broken(row(without, during, refused)) is expected


@pytest.mark.thorough
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_attack_is_measured_beside_others(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    if database == "postgresql":
        need("postgres", *DEBIAN)
    few = ["--seconds", "1", "--rows", "2000", "--devices", "10"]
    fairness.main(["pulls by a future time", "devices listed", "--databases", database, *few])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {database} |")]
    assert len(lines) == 2 * len(fairness.KINDS)
    assert all(" x 200" in line for line in lines)
