"""After a gap all streams are woken, spread over time if there are many, and checked again for revocation."""

import logging
import threading

import pytest

from synckit_notify.brokers import Gap
from synckit_notify.brokers.memory import MemoryBroker
from synckit_notify.node import Node
from synckit_notify.streams import recovery as repair_room
from synckit_notify.streams.channel import ChannelKey, EndReason, Subscriber
from synckit_notify.streams.recovery import AT_ONCE, SPREAD_SECONDS, STEP_SECONDS, UNREACHED, GapRecovery, Sweep
from synckit_notify.streams.registry import Registry

from ..support.wait import until


def users(registry: Registry, number: int) -> list[Subscriber]:
    return [registry.subscribe(ChannelKey("notes", str(user)), "phone") for user in range(number)]


def test_a_few_streams_are_woken_at_once() -> None:
    registry = Registry()
    streams = users(registry, AT_ONCE)
    repair = GapRecovery(registry, None)
    repair.gap()
    assert until(lambda: all(stream.pending for stream in streams), SPREAD_SECONDS / 3)
    repair.join_idle()
    assert [len(stream.pending) for stream in streams] == [1] * AT_ONCE


def test_many_streams_are_woken_spread_over_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(repair_room.time, "sleep", pauses.append)
    registry = Registry()
    streams = users(registry, 3 * AT_ONCE)
    repair = GapRecovery(registry, None)
    repair.gap()
    repair.join_idle()
    spread = sum(pause for pause in pauses if pause == STEP_SECONDS)  # threads of other tests may pause too
    assert 0.9 * SPREAD_SECONDS <= spread <= SPREAD_SECONDS
    assert [len(stream.pending) for stream in streams] == [1] * len(streams)


def test_a_stream_revoked_during_a_gap_ends_and_the_others_stay() -> None:
    registry = Registry()
    alice, bob = users(registry, 2)
    repair = GapRecovery(registry, lambda subscriber: subscriber is bob)
    repair.gap()
    repair.join_idle()
    assert (alice.end, bob.end) == (None, EndReason.REVOKED)


def test_a_gap_during_a_recovery_is_recovered_after_it() -> None:
    registry = Registry()
    [alice] = users(registry, 1)
    asked: list[Subscriber] = []
    first_asked, go_on = threading.Event(), threading.Event()

    def revoked(subscriber: Subscriber) -> bool:
        asked.append(subscriber)
        first_asked.set()
        return not go_on.wait(60)

    repair = GapRecovery(registry, revoked)
    repair.gap()
    assert first_asked.wait(60)
    for _ in range(3):
        repair.gap()
    go_on.set()
    repair.join_idle()
    assert len(asked) == 2
    assert (len(alice.pending), alice.end) == (2, None)


def test_a_stream_whose_hook_fails_is_checked_again_until_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(repair_room, "FIRST_PAUSE_SECONDS", 0.01)
    registry = Registry()
    alice, bob, carol = users(registry, 3)
    asked: list[Subscriber] = []

    def revoked(subscriber: Subscriber) -> bool:
        asked.append(subscriber)
        if subscriber is bob and asked.count(bob) < 4:
            raise RuntimeError("the database is away")
        return subscriber is not carol

    GapRecovery(registry, revoked).gap()
    assert until(lambda: bob.end is EndReason.REVOKED)
    assert (alice.end, carol.end) == (EndReason.REVOKED, None)  # they were not held up
    assert [asked.count(stream) for stream in (alice, bob, carol)] == [1, 4, 1]
    assert [len(stream.pending) for stream in (alice, bob, carol)] == [1, 1, 1]
    [record] = caplog.records
    assert "the database is away" in record.getMessage()


def test_a_hook_that_fails_does_not_delay_a_gap() -> None:
    registry = Registry()
    streams = users(registry, 50)
    first_asked, go_on = threading.Event(), threading.Event()

    def revoked(_: Subscriber) -> bool:
        first_asked.set()
        assert go_on.wait(60)
        raise RuntimeError("the database is away")

    repair = GapRecovery(registry, revoked)
    repair.gap()
    assert first_asked.wait(60)
    repair.gap()
    go_on.set()
    assert until(lambda: all(len(stream.pending) == 2 for stream in streams))
    for stream in streams:
        registry.release(stream)
    repair.join_idle()
    assert not [thread for thread in threading.enumerate() if thread.name == "synckit-recovery"]


def test_the_node_recovers_a_gap_of_the_broker() -> None:
    worker = Node(Registry(), MemoryBroker())
    alice = worker.open(ChannelKey("notes", "alice"), "phone")
    worker.receive(Gap())
    assert until(lambda: len(alice.pending) == 1)
    worker.registry.release(alice)
    worker.join_idle()


class TestChangesWithoutANotice:
    """A sweep finds them; when that lasts, the broker does not reach the processes that make them."""

    NOW = 1790000000.0

    @pytest.fixture
    def sweeps(self) -> "SweptChannel":
        return SweptChannel(self.NOW)

    def test_three_times_in_ten_minutes_are_one_warning_an_hour(
        self, sweeps: "SweptChannel", caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            sweeps.change(announced=False)
        sweeps.run()
        assert not caplog.records
        for _ in range(20):
            sweeps.change(announced=False)
        sweeps.run()
        assert [(each.levelno, each.getMessage()) for each in caplog.records] == [(logging.WARNING, UNREACHED)]
        sweeps.now += 3600
        for _ in range(4):
            sweeps.change(announced=False)
        sweeps.run()
        assert len(caplog.records) == 2

    def test_are_none_if_the_notice_only_came_after_the_sweep(
        self, sweeps: "SweptChannel", caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(20):
            sweeps.change(announced=True)
        assert not caplog.records

    def test_are_expected_while_a_gap_is_open(self, sweeps: "SweptChannel", caplog: pytest.LogCaptureFixture) -> None:
        sweeps.recovers = True
        for _ in range(20):
            sweeps.change(announced=False)
        assert not caplog.records

    def test_now_and_then_are_crashes(self, sweeps: "SweptChannel", caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(20):
            sweeps.change(announced=False)
            sweeps.now += 400
        assert not caplog.records


class SweptChannel:
    """A channel with one stream whose changes a sweep finds, by a clock of its own."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.recovers = False
        self._rows: list[tuple[ChannelKey, float | None]] = []
        self._registry = Registry(clock=self._clock)
        self._stream = self._registry.subscribe(ALICE)
        self._sweep = Sweep(
            self._registry,
            lambda since: list(self._rows),
            recovers=lambda: self.recovers,
            clock=self._clock,
            steady_clock=self._clock,
        )

    def change(self, *, announced: bool) -> None:
        """Commit a change that a sweep finds; if it is announced, then after that sweep."""
        self._rows = [(ALICE, self.now)]
        self.run()
        if announced:
            self._registry.deliver(ALICE, changed_at=self._rows[0][1])

    def run(self) -> None:
        """Sweep, three seconds after the last time."""
        self.now += 3
        self._sweep.run()

    def _clock(self) -> float:
        return self.now


ALICE = ChannelKey("notes", "alice")
