"""The timer wakes the streams whose deadline has come, once each and no others; without it they wake by themselves."""

import math
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from synckit_notify.streams.channel import BroadcastCondition, Channel, ChannelKey, EndReason, Subscriber
from synckit_notify.streams.parking import ParkedStream
from synckit_notify.streams.registry import Registry, Seats
from synckit_notify.streams.stream import Deadline
from synckit_notify.streams.timer import Timer
from synckit_notify.streams.wakeups import Wakeups

from ..support.wait import until

ALICE, BOB = ChannelKey("notes", "alice"), ChannelKey("notes", "bob")
NEVER = Deadline(math.inf, EndReason.MAX_AGE)


class World:
    """A registry whose timer has a clock that only the test advances, and runs when the test calls `pass_time`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.registry = Registry()
        self.registry.timer = Timer(self.registry._lock, self.registry.wakeups, bool, bool, clock=lambda: self.now)
        self.registry.timer.runs = True
        self.threads: list[threading.Thread] = []
        self.woken: list[str] = []

    def wait(self, name: str, at: float, key: ChannelKey = ALICE) -> Subscriber:
        """Let a thread wait as a stream does; return when it waits."""
        subscriber = self.registry.subscribe(key, name)
        self.wait_again(name, at, subscriber)
        return subscriber

    def wait_again(self, name: str, at: float, subscriber: Subscriber) -> None:
        def wait() -> None:
            subscriber.wait(at)
            self.woken.append(name)

        thread = threading.Thread(target=wait, daemon=True)
        before = self._waiting(subscriber.channel)
        thread.start()
        self.threads.append(thread)
        assert until(lambda: self._waiting(subscriber.channel) > before)

    def pass_time(self, until_moment: float) -> list[str]:
        """Turn the wheel at this time, and return who has woken up since the last call."""
        self.now = until_moment
        waits = sum(self._waiting(channel) for channel in self.registry._channels.values())
        self.registry.timer.turn()
        left = sum(self._waiting(channel) for channel in self.registry._channels.values())
        assert until(lambda: len(self.woken) >= waits - left)
        woken, self.woken = sorted(self.woken), []
        return woken

    @staticmethod
    def _waiting(channel: Channel) -> int:
        groups = channel.condition._groups if channel.condition else []
        return sum(len(event._cond._waiters) for _, event in groups)

    def shut(self) -> None:
        self.registry.end_all(EndReason.DRAINING)
        for thread in self.threads:
            thread.join(20.0)
            assert not thread.is_alive()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.shut()


class TestChannels:
    def test_a_turn_wakes_the_due_streams_once_and_no_others(self, world: World) -> None:
        for name, at in {"a": 1010.0, "b": 1010.001, "c": 1020.0, "d": 1030.0}.items():
            world.wait(name, at)
        world.wait("bob", 1020.0, BOB)
        seen = [world.pass_time(now) for now in (1009.0, 1010.1, 1019.9, 1020.1, 1029.0, 1030.1, 1099.0)]
        assert seen == [[], ["a", "b"], [], ["bob", "c"], [], ["d"], []]

    def test_an_earlier_deadline_that_comes_later_is_kept_too(self, world: World) -> None:
        world.wait("late", 1030.0)
        world.wait("early", 1005.0)
        world.wait("earlier", 1002.0)
        assert [world.pass_time(now) for now in (1002.1, 1005.1, 1030.1)] == [["earlier"], ["early"], ["late"]]
        assert world.registry.timer._wheel.next_due == math.inf

    def test_a_push_wakes_all_and_the_deadlines_after_it_count(self, world: World) -> None:
        laptop, phone = world.wait("laptop", 1030.0), world.wait("phone", 1020.0)
        world.now = 1015.0
        world.registry.deliver(ALICE)
        assert until(lambda: sorted(world.woken) == ["laptop", "phone"])
        world.woken.clear()
        for name, subscriber in (("laptop", laptop), ("phone", phone)):
            subscriber.take()
            world.wait_again(name, 1045.0, subscriber)
        assert [world.pass_time(now) for now in (1020.1, 1030.1, 1044.0, 1045.1)] == [[], [], [], ["laptop", "phone"]]

    def test_a_clock_that_jumps_wakes_each_stream_once(self, world: World) -> None:
        for number in range(5):
            world.wait(str(number), 1010.0 + 20 * number)
        assert [world.pass_time(now) for now in (900.0, 100_000.0, 200_000.0)] == [[], ["0", "1", "2", "3", "4"], []]

    def test_a_channel_that_empties_and_is_filled_again_while_in_the_wheel(self, world: World) -> None:
        before = world.wait("before", 1010.0)
        world.registry.release(before)
        assert until(lambda: world.woken == ["before"]), "whoever still iterates a released stream learns of it"
        world.woken.clear()
        world.wait("after", 1020.0)
        assert [world.pass_time(now) for now in (1010.1, 1020.1)] == [[], ["after"]]
        assert world.registry.timer._wheel.next_due == math.inf, "the wheel has forgotten both"

    def test_a_stream_that_ends_when_its_deadline_has_come_is_woken_once(self, world: World) -> None:
        ends, stays = world.wait("ends", 1010.0), world.wait("stays", 1020.0)
        world.now = 1010.1
        world.registry.end_one(ends, EndReason.REVOKED)  # wakes the channel
        assert until(lambda: sorted(world.woken) == ["ends", "stays"])
        world.woken.clear()
        world.registry.release(ends)
        world.wait_again("stays", 1020.0, stays)
        assert [world.pass_time(now) for now in (1010.2, 1020.1)] == [[], ["stays"]]

    def test_the_timer_forgets_a_channel_that_nobody_waits_for(self, world: World) -> None:
        world.registry.release(world.wait("gone", 1010.0))
        world.pass_time(1010.1)
        assert not world.registry.timer._wheel._slots

    @pytest.mark.parametrize(("now", "left"), [(0.0, 20.0), (10.0, 20.0), (20.0, 30.0), (25.0, 30.0), (30.0, math.inf)])
    def test_a_condition_notifies_the_groups_that_are_due(self, now: float, left: float) -> None:
        condition = BroadcastCondition(threading.Lock())
        events = {moment: threading.Event() for moment in (20.0, 30.0)}
        condition._groups = list(events.items())
        assert condition.notify_due(now) == left
        assert [moment for moment, event in events.items() if event.is_set()] == [m for m in events if m <= now]


class TellingLock:
    """A lock that calls a function when it has been released, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.then: Callable[[], object] | None = None

    def acquire(self) -> bool:
        return self._lock.acquire()

    def release(self) -> None:
        self._lock.release()
        then, self.then = self.then, None
        if then is not None:
            then()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("news", ["push", "end", "deadline", "failure"])
def test_what_happens_between_the_check_and_the_wait_is_not_missed(news: str, runs: bool) -> None:
    """The stream has found nothing to do and released the lock; it sleeps next."""
    seats = Seats()
    seats.lock = lock = TellingLock()  # type: ignore[assignment]
    registry, now = Registry(seats=seats), [1000.0]
    registry.timer = timer = Timer(lock, registry.wakeups, bool, registry._leave_timer, clock=lambda: now[0])
    timer.runs = runs
    subscriber = registry.subscribe(ALICE)

    def deadline() -> None:
        now[0] = 1060.1
        timer.turn()

    happens: dict[str, Callable[[], object]] = {
        "push": lambda: registry.deliver(ALICE),
        "end": lambda: registry.end(ALICE, EndReason.REVOKED),
        "deadline": deadline,
        "failure": lambda: timer._fail(None),
    }
    at = 1060.0 if runs or news in ("push", "end") else 1000.01  # where no timer runs, its own timeout wakes it
    lock.then = happens[news]
    waiting = threading.Thread(target=subscriber.wait, args=(at,), daemon=True)
    waiting.start()
    waiting.join(20.0)
    assert not waiting.is_alive()


class TestParkedStreams:
    def parked(self, keepalive: float = 30.0, ends: Deadline = NEVER) -> ParkedStream:
        stream = ParkedStream(Registry().subscribe(ALICE), keepalive=keepalive, ends=ends)
        stream.socket = object()  # type: ignore[assignment]
        assert stream.poll(1000.1)
        return stream

    @pytest.mark.parametrize(
        ("now", "ends_at", "is_woken", "again"),
        [
            (1000.1, math.inf, False, 1030.25),
            (1030.0, math.inf, False, 1030.25),
            (1030.25, math.inf, True, 1060.5),
            (1000.1, 1010.0, False, 1010.25),
            (1010.25, 1010.0, True, 1040.5),
            (1030.25, 1040.0, True, 1040.25),
        ],
    )
    def test_a_deadline_is_rounded_up_so_that_a_wave_has_many(
        self, now: float, ends_at: float, is_woken: bool, again: float
    ) -> None:
        stream, woken = self.parked(ends=Deadline(ends_at, EndReason.MAX_AGE)), []
        assert stream.due(now, woken) == again
        assert woken == [stream] * is_woken

    def test_after_a_push_the_stream_is_called_again_for_its_new_deadline_and_not_woken(self) -> None:
        stream, woken = self.parked(), []
        stream.advance(b"changed", 1020.0)
        assert (stream.due(1030.25, woken), woken) == (1050.25, [])

    def test_a_closed_stream_leaves_the_wheel(self) -> None:
        stream = self.parked()
        stream.socket = None
        wakeups = Wakeups()
        timer = Timer(threading.Lock(), wakeups, bool, bool, clock=lambda: 1030.25)
        timer.add(stream, 1030.25)
        timer.turn()
        assert (wakeups.take(), timer._wheel.next_due) == ([], math.inf)


class TestThread:
    """A timer with a real thread and the real clock."""

    def test_a_deadline_that_comes_while_it_sleeps_is_in_time(self) -> None:
        registry = Registry()
        subscriber = registry.subscribe(ALICE)
        registry.timer.ensure()
        assert until(lambda: registry.timer._wakes_at > 0.0), "it sleeps for a second"
        began = time.monotonic()
        subscriber.wait(began + 0.1)
        assert time.monotonic() - began >= 0.1
        assert registry.timer._wheel.next_due == math.inf, "the timer has woken it, and no timeout"
        registry.release(subscriber)
        registry.timer.join_idle()

    def test_the_thread_ends_with_the_last_stream_and_begins_with_the_next(self) -> None:
        registry = Registry()
        for _ in range(2):
            subscriber = registry.subscribe(ALICE)
            registry.timer.ensure()
            assert [thread.name for thread in threading.enumerate()].count("synckit-timer") == 1
            registry.release(subscriber)
            registry.timer.join_idle()
            assert "synckit-timer" not in [thread.name for thread in threading.enumerate()]
