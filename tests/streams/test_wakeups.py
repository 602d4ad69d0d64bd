"""Wakeups: whoever wakes from any thread is not lost, and a waiting thread is woken."""

import threading
import time

from synckit_notify.streams.wakeups import Wakeups


class Due:
    """A stream that always has something to say."""

    def needs_poll(self, now: float) -> bool:
        return True


def test_due_streams_are_taken_in_order_and_once() -> None:
    wakeups, first, second = Wakeups(), Due(), Due()
    wakeups.wake([first])
    wakeups.wake([second, first])
    assert wakeups.take() == [first, second, first]
    assert wakeups.take() == []


def test_a_wait_ends_at_the_first_wake_up_also_one_that_came_before() -> None:
    wakeups = Wakeups()
    wakeups.wake([Due()])
    began = time.monotonic()
    wakeups.wait(30.0)
    assert time.monotonic() - began < 5.0


def test_nothing_is_lost_between_threads_that_wake_and_one_that_takes() -> None:
    wakeups = Wakeups()
    streams = [[Due() for _ in range(500)] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: [wakeups.wake([each]) for each in mine]) for mine in streams]
    taken: list[object] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += wakeups.take()
    taken += wakeups.take()
    assert {id(each) for each in taken} == {id(each) for mine in streams for each in mine}
    assert len(taken) == 2000
