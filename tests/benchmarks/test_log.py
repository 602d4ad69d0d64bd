"""benchmarks.log measures every part in a tiny run, and marks a ratio beyond its aim."""

import re

import pytest

from benchmarks import log


@pytest.mark.thorough
def test_a_quick_run_prints_every_line_with_its_ratio_and_its_aim(capsys: pytest.CaptureFixture[str]) -> None:
    assert log.main(["--quick", "--database", "SQLite"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    shown = {what: (figure, aim) for what, figure, aim in (row for row in rows if len(row) == 3)}
    assert {log.LATEST, log.AFTER, log.ON_DISK, log.WINNERS, log.BESIDE, log.TABLE, log.SINCE} <= {
        log.kind_of(what) for what in shown
    }
    for what, (figure, aim) in shown.items():
        if aim.endswith(" x"):
            assert re.search(r"\d x(\*\*)?$", figure), what
            assert aim == f"{log.AIMS[log.kind_of(what)]:g} x"
    assert shown["push beside a compaction, p99"][0].count("ms") == 1


def test_a_pull_that_misses_a_row_ends_the_run() -> None:
    pulled = log.Pulled(0.1, 10, [{"row_id": "row-1"}, {"row_id": "row-1"}])

    class Device:
        def pull(self, **fields: object) -> log.Pulled:
            return pulled

    with pytest.raises(log.Wrong, match="returned 2 of 2 changes, 1 of 2 rows"):
        log._pulls(Device(), Device(), 2, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ratio", "shown"), [(1.5, "1.50 x"), (1.51, "**1.51 x**")])
def test_a_ratio_beyond_its_aim_is_bold(ratio: float, shown: str) -> None:
    assert log._ratio("2 s", ratio, log.LATEST) == f"2 s, {shown}"
