"""`python -m benchmarks.brokers` measures every broker, and a push that is lost or doubled shows."""

from typing import Any

import pytest

from benchmarks import brokers

from ..support.postgresql import DEBIAN
from ..support.programs import need


def row(received: int, missing: int) -> dict[str, Any]:
    delays = {"count": 2, "p50": 0.001, "p99": 0.002, "max": 0.003}
    counts = {"expected": 2, "received": received, "missing": missing}
    return {"between": "local", **counts, "delays": delays, "memory_kib": 2048}


@pytest.mark.parametrize(
    ("received", "missing", "shown"), [(2, 0, "2 of 2"), (1, 1, "**1 of 2**"), (3, 0, "**3 of 2**")]
)
def test_a_push_that_is_lost_or_doubled_shows(received: int, missing: int, shown: str) -> None:
    measured = row(received, missing)
    assert brokers.is_complete(measured) is (shown == "2 of 2")
    assert brokers.table({}, [measured]).splitlines()[-1] == f"| local | {shown} | 1.00 | 2.00 | 3.00 | 2.0 |"


@pytest.mark.thorough
def test_every_push_reaches_the_other_process_once() -> None:
    need("postgres", *DEBIAN)
    rows = [brokers.measure(name, 20) for name in brokers.BETWEEN]
    assert [row["between"] for row in rows] == list(brokers.BETWEEN)
    assert all(map(brokers.is_complete, rows)), rows
    assert all(row["delays"]["p50"] > 0 for row in rows)
