"""The timer wheel: entries come back once, in the first step that is not before their time."""

from synckit_notify.streams.timer_wheel import TimerWheel


def test_an_entry_comes_back_once_and_not_before_its_time() -> None:
    wheel: TimerWheel[str] = TimerWheel(0.25, now=100.0)
    wheel.add("entry", wheel.step(130.1))
    assert wheel.due(130.0) == []
    assert wheel.due(130.25) == ["entry"]
    assert wheel.due(200.0) == []


def test_an_entry_that_is_late_already_comes_with_the_next_step() -> None:
    wheel: TimerWheel[str] = TimerWheel(0.25, now=100.0)
    wheel.due(150.0)
    wheel.add("entry", wheel.step(120.0))
    assert wheel.due(150.3) == ["entry"]


def test_the_entries_of_all_steps_that_were_slept_through_come_in_order() -> None:
    wheel: TimerWheel[int] = TimerWheel(0.25, now=100.0)
    for number in range(4):
        wheel.add(number, wheel.step(100.0 + number))
    assert wheel.due(110.0) == [0, 1, 2, 3]
