"""Each case of the table "The one order" in docs/sdk.md, between two devices with SQLiteStores."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from synckit_notify.client.models import Position, PulledChange

from ...support.markdown import rows
from ...support.server import ROOT
from ...support.store_walk import Device, Pair

MINUTE = 60_000_000
NOON = 12 * 60

ADD, TITLE = "INSERT INTO tasks (id, title) VALUES ('a', 'milk')", "UPDATE tasks SET title = ?"

Rows = list[tuple[object, ...]]


def edit(device: Device, minute: int, sql: str, *values: str, clock_says: int | None = None) -> None:
    """Edit at this minute of the day; `clock_says` is the minute that the device's clock shows."""
    device.world.elapsed = minute * MINUTE
    device.error = 0 if clock_says is None else (clock_says - minute) * MINUTE
    device.write([(sql, values)])


def sync_at(device: Device, minute: int) -> None:
    device.world.elapsed = minute * MINUTE
    device.sync()


def one_after_the_other(pair: Pair) -> None:
    edit(pair.phone, NOON, TITLE, "oat milk")
    pair.both()
    edit(pair.laptop, NOON + 5, TITLE, "soy milk")


def the_second_clock_is_slow(pair: Pair) -> None:
    edit(pair.phone, NOON, TITLE, "oat milk")
    pair.both()
    edit(pair.laptop, NOON + 5, TITLE, "soy milk", clock_says=NOON - 60)


def the_first_clock_is_fast(pair: Pair) -> None:
    edit(pair.phone, NOON, TITLE, "oat milk", clock_says=NOON + 180)
    sync_at(pair.phone, NOON)
    edit(pair.laptop, NOON + 5, TITLE, "soy milk")


def one_was_offline(pair: Pair) -> None:
    edit(pair.laptop, NOON, TITLE, "soy milk")
    edit(pair.phone, NOON + 60, TITLE, "oat milk")
    sync_at(pair.phone, NOON + 60)
    sync_at(pair.laptop, NOON + 360)


def both_were_offline(pair: Pair) -> None:
    edit(pair.laptop, NOON, TITLE, "soy milk", clock_says=NOON + 30)
    edit(pair.phone, NOON + 5, TITLE, "oat milk")
    pair.elapsed = (NOON + 360) * MINUTE


def different_columns(pair: Pair) -> None:
    edit(pair.laptop, NOON, TITLE, "soy milk")
    edit(pair.phone, NOON + 1, "UPDATE tasks SET done = 1")


def a_deletion(pair: Pair) -> None:
    edit(pair.laptop, NOON, "DELETE FROM tasks")
    edit(pair.phone, NOON + 5, TITLE, "oat milk")


OF_THE_LAPTOP, OF_THE_PHONE = [("a", "soy milk", 0)], [("a", "oat milk", 0)]
CASES: dict[str, tuple[Callable[[Pair], None], Rows]] = {
    "one after the other": (one_after_the_other, OF_THE_LAPTOP),
    "the second clock is slow": (the_second_clock_is_slow, OF_THE_LAPTOP),
    "the first clock is fast": (the_first_clock_is_fast, OF_THE_LAPTOP),
    "one was offline": (one_was_offline, OF_THE_PHONE),
    "both were offline": (both_were_offline, OF_THE_LAPTOP),
    "different columns": (different_columns, [("a", "milk", 1)]),
    "a deletion": (a_deletion, OF_THE_PHONE),
}


@pytest.mark.parametrize("case", CASES)
def test_who_wins(tmp_path: Path, case: str) -> None:
    steps, rows_at_the_end = CASES[case]
    pair = Pair(tmp_path)
    edit(pair.laptop, NOON - 60, ADD)
    pair.both()
    steps(pair)
    assert pair.both() == rows_at_the_end
    pair.close()


def test_the_same_moment(tmp_path: Path) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    changes = [
        PulledChange("tasks", "UPDATE", "a", at, {"title": title, "done": 0}, seq, device, at, at)
        for seq, (device, title) in enumerate([("device 2", "soy milk"), ("device 1", "oat milk")], 1)
    ]
    pair = Pair(tmp_path)
    for device, order in (pair.laptop, changes), (pair.phone, changes[::-1]):
        device.store.apply(order, Position("e1", 2, is_complete=True))
        assert device.rows("tasks") == [("a", "soy milk", 0)]
    pair.close()


def test_the_table_has_these_cases() -> None:
    told = [row[0] for row in rows(ROOT / "docs" / "sdk.md")]
    first = told.index("one after the other")
    assert {*told[first : first + len(CASES) + 1]} == {*CASES, "the same moment"}
