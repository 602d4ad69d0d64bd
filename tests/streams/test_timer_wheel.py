"""Entries of the timer wheel come back once, in order, and not before their moment."""

import math

import pytest

from synckit_notify.streams.timer_wheel import TimerWheel, round_up


@pytest.mark.parametrize(
    ("at", "tick", "rounded"), [(100.0, 0.25, 100.25), (100.1, 0.25, 100.25), (100.24, 0.25, 100.25), (0.0, 2.0, 2.0)]
)
def test_a_moment_is_the_next_multiple_of_the_tick(at: float, tick: float, rounded: float) -> None:
    assert round_up(at, tick) == rounded


def test_moments_in_one_tick_are_equal() -> None:
    assert len({round_up(1_000_000.001 + milliseconds / 1000, 0.02) for milliseconds in range(19)}) == 1


def test_an_entry_comes_back_once_and_not_before_its_moment() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.add("entry", 130.25)
    assert [list(wheel.due(now)) for now in (130.0, 130.25, 200.0)] == [[], ["entry"], []]


def test_an_entry_that_is_late_already_comes_with_the_next_turn() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    assert list(wheel.due(150.0)) == []
    wheel.add("entry", 120.0)
    assert list(wheel.due(150.0)) == ["entry"]


def test_the_entries_of_all_moments_that_were_slept_through_come_in_order() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for number in (2, 0, 3, 1):
        wheel.add(number, 100.0 + number)
    assert list(wheel.due(110.0)) == [0, 1, 2, 3]


def test_the_next_moment_is_known_and_none_is_left_at_the_end() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    seen = [wheel.next_due]
    for moment in (30.0, 20.0, 30.0):
        wheel.add("entry", moment)
    for now in (0.0, 20.0, 30.0):
        list(wheel.due(now))
        seen.append(wheel.next_due)
    assert seen == [math.inf, 20.0, 30.0, math.inf]
    assert not wheel._slots, "nothing stays of moments that have come"


def test_entries_may_be_added_while_others_are_taken_out() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.add("again", 10.0)
    seen = []
    for now in (10.0, 20.0, 30.0):
        for entry in wheel.due(now):
            wheel.add(entry, now + 10.0)
            seen.append((now, entry))
    assert seen == [(10.0, "again"), (20.0, "again"), (30.0, "again")]


def test_what_is_not_taken_after_a_failure_comes_with_the_next_turn() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for number in range(4):
        wheel.add(number, 100.0 + number // 2)
    due = wheel.due(200.0)
    taken = [next(due)]
    due.close()  # as an exception does
    assert sorted(taken + list(wheel.due(200.0))) == [0, 1, 2, 3]
