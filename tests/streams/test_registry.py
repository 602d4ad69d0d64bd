"""Which subscribers receive a notice, and that no subscriber is left in the registry."""

import threading
import time

import pytest

from synckit_notify import sse
from synckit_notify.errors import TooManyStreams
from synckit_notify.streams.channel import BUFFERED_FRAMES, BroadcastCondition, ChannelKey, EndReason, Subscriber
from synckit_notify.streams.registry import Limits, Registry, Seats

from ..support.gevent_script import under_gevent
from ..support.wait import collect_garbage, wait_until

ALICE = ChannelKey("notes", "alice")
BOB = ChannelKey("notes", "bob")
ALICE_ELSEWHERE = ChannelKey("tasks", "alice")


def heard(subscriber: Subscriber) -> int:
    return len(subscriber.pending)


def test_a_push_reaches_only_the_other_subscribers_of_its_channel() -> None:
    registry = Registry()
    laptop, phone, unnamed = (registry.subscribe(ALICE, device) for device in ("laptop", "phone", None))
    strangers = [registry.subscribe(BOB, "laptop"), registry.subscribe(ALICE_ELSEWHERE, "phone")]
    assert registry.deliver(ALICE, "laptop") == 2
    assert [heard(s) for s in (laptop, phone, unnamed, *strangers)] == [0, 1, 1, 0, 0]


def test_a_push_without_a_device_reaches_all_subscribers() -> None:
    registry = Registry()
    listeners = [registry.subscribe(ALICE, device) for device in ("laptop", None)]
    registry.deliver(ALICE)
    assert [heard(s) for s in listeners] == [1, 1]


def test_every_stream_of_the_pushing_device_is_left_out() -> None:
    registry = Registry()
    streams = [registry.subscribe(ALICE, "laptop") for _ in range(3)]
    assert registry.deliver(ALICE, "laptop") == 0
    assert [heard(s) for s in streams] == [0, 0, 0]


def test_a_full_buffer_drops_the_oldest_and_keeps_the_subscriber() -> None:
    registry = Registry()
    subscriber = registry.subscribe(ALICE)
    for _ in range(BUFFERED_FRAMES + 4):
        registry.deliver(ALICE)
    assert list(subscriber.pending) == [sse.CHANGED] * 16
    assert len(registry) == 1


def test_a_subscriber_is_released_once_and_its_channel_with_the_last() -> None:
    registry = Registry()
    first, second = registry.subscribe(ALICE), registry.subscribe(ALICE)
    for subscriber in (first, first, second, second):
        registry.release(subscriber)
    assert len(registry) == 0
    assert registry.deliver(ALICE) == 0


def test_a_finalizer_may_run_while_its_thread_holds_the_lock() -> None:
    registry = Registry()
    subscriber = registry.subscribe(ALICE)
    with registry._lock:
        registry.abandon(subscriber)
    assert len(registry) == 0


def test_the_process_limit_answers_503_and_the_channel_limit_429() -> None:
    registry, limits = Registry(max_per_channel=2), Limits(3)
    kept = [registry.subscribe(ALICE, limits=limits), registry.subscribe(ALICE, limits=limits)]
    with pytest.raises(TooManyStreams) as channel_full:
        registry.subscribe(ALICE, limits=limits)
    kept.append(registry.subscribe(BOB, limits=limits))
    with pytest.raises(TooManyStreams) as process_full:
        registry.subscribe(ALICE_ELSEWHERE, limits=limits)
    assert (channel_full.value.status, process_full.value.status) == (429, 503)
    registry.release(kept[0])
    assert registry.subscribe(ALICE, limits=limits)


def test_registries_of_one_process_share_its_limit_and_abandoned_streams_count_no_more() -> None:
    seats, limits = Seats(), Limits(2)
    mine, other = Registry(seats=seats), Registry(seats=seats)
    mine.subscribe(ALICE, limits=limits)
    abandoned = other.subscribe(BOB, limits=limits)
    assert (len(mine), len(other), seats.usage(limits)) == (1, 1, (2, 1.0))
    for registry in (mine, other):
        with pytest.raises(TooManyStreams):
            registry.subscribe(BOB, limits=limits)
    other.abandon(abandoned)
    assert mine.subscribe(BOB, limits=limits)


def test_an_application_that_is_gone_leaves_its_share_to_the_others() -> None:
    seats, limits = Seats(), Limits(1)
    Registry(seats=seats).subscribe(BOB)  # nobody keeps it
    wait_until(lambda: collect_garbage() and seats.usage(limits)[0] == 0)
    assert Registry(seats=seats).subscribe(ALICE, limits=limits)


def test_a_parked_stream_leaves_its_connection_to_another_and_counts_until_it_is_released() -> None:
    registry, limits = Registry(), Limits(streams=3, unparked=1)
    parked = registry.subscribe(ALICE, limits=limits)
    with pytest.raises(TooManyStreams):
        registry.subscribe(ALICE, limits=limits)
    registry.park(parked, object())
    assert registry.seats.usage(limits) == (1, 1 / 3)
    unparked = registry.subscribe(ALICE, limits=limits)
    assert registry.seats.usage(limits) == (2, 1.0)
    registry.release(parked)
    assert registry.seats.usage(limits) == (1, 1.0)
    registry.release(unparked)
    assert registry.seats.usage(limits) == (0, 0.0)


def test_retry_after_is_spread() -> None:
    assert len({TooManyStreams("full", status=503).retry_after for _ in range(200)}) > 5


@pytest.mark.parametrize(
    ("device", "ended"), [(None, [True, True, True]), ("laptop", [True, False, True]), ("tv", [False, False, True])]
)
def test_a_disconnect_ends_a_user_or_what_may_be_one_device(device: str | None, ended: list[bool]) -> None:
    registry = Registry()
    streams = [registry.subscribe(ALICE, name) for name in ("laptop", "phone", None)]
    bystander = registry.subscribe(BOB, "laptop")
    registry.end(ALICE, EndReason.REVOKED, device)
    assert [s.end is EndReason.REVOKED for s in streams] == ended
    assert bystander.end is None


def test_the_first_reason_to_end_stays() -> None:
    registry = Registry()
    subscriber = registry.subscribe(ALICE)
    registry.end(ALICE, EndReason.REVOKED)
    registry.end_all(EndReason.DRAINING)
    assert subscriber.end is EndReason.REVOKED


class TestMissedNotices:
    """Times are Unix seconds; the first subscriber came at 1000."""

    def subscribe(self) -> tuple[Registry, Subscriber, Subscriber]:
        self.now = 1000.0
        registry = Registry(clock=lambda: self.now)
        laptop, phone = registry.subscribe(ALICE, "laptop"), registry.subscribe(ALICE, "phone")
        self.now = 1010.0
        return registry, laptop, phone

    def test_without_losses_the_pusher_is_skipped_and_the_sweep_wakes_nobody(self) -> None:
        registry, laptop, phone = self.subscribe()
        registry.deliver(ALICE, "laptop", changed_at=1001, previous_at=990)
        registry.deliver(ALICE, "laptop", changed_at=1002, previous_at=1001)
        assert registry.deliver_missed(ALICE, 1002) == 0
        assert (heard(laptop), heard(phone)) == (0, 2)

    def test_the_first_push_ever_has_no_predecessor(self) -> None:
        registry, laptop, phone = self.subscribe()
        registry.deliver(ALICE, "laptop", changed_at=1001, previous_at=None)
        assert (heard(laptop), heard(phone)) == (0, 1)

    def test_a_lost_notice_is_noticed_by_the_next_one_and_the_pusher_is_told(self) -> None:
        registry, laptop, phone = self.subscribe()
        registry.deliver(ALICE, "laptop", changed_at=1003, previous_at=1002)  # nobody heard of 1002
        assert (heard(laptop), heard(phone)) == (1, 1)

    def test_a_lost_notice_is_repaired_by_the_sweep_once(self) -> None:
        registry, laptop, phone = self.subscribe()
        assert [registry.deliver_missed(ALICE, 1002) for _ in range(3)] == [2, 0, 0]
        assert (heard(laptop), heard(phone)) == (1, 1)

    def test_notices_out_of_order_wake_too_many_rather_than_too_few(self) -> None:
        registry, laptop, phone = self.subscribe()
        registry.deliver(ALICE, "laptop", changed_at=1003, previous_at=1002)
        registry.deliver(ALICE, "phone", changed_at=1002, previous_at=1001)
        assert heard(laptop) == 2
        assert heard(phone) == 1

    def test_a_change_before_the_first_subscriber_wakes_nobody(self) -> None:
        registry, *_ = self.subscribe()
        assert registry.deliver_missed(ALICE, 997.9) == 0

    def test_a_change_that_may_have_been_committed_later_wakes(self) -> None:
        registry, *_ = self.subscribe()
        assert registry.deliver_missed(ALICE, 998.1) == 2

    def test_after_a_clock_was_set_back_every_change_wakes(self) -> None:
        registry, laptop, phone = self.subscribe()
        self.now = 900.0
        assert registry.deliver_missed(ALICE, 899) == 2
        registry.deliver(ALICE, "laptop", changed_at=901, previous_at=900)
        assert (heard(laptop), heard(phone)) == (2, 2)

    def test_without_times_the_sweep_wakes_everybody_every_time(self) -> None:
        registry, *_ = self.subscribe()
        assert [registry.deliver_missed(ALICE) for _ in range(2)] == [2, 2]


def test_waiting_ends_with_a_push_an_end_or_the_time() -> None:
    registry = Registry()
    subscriber = registry.subscribe(ALICE)
    subscriber.wait(time.monotonic())
    for wake in (lambda: registry.deliver(ALICE), lambda: registry.end(ALICE, EndReason.REVOKED)):
        subscriber.take()
        waiting = threading.Thread(target=subscriber.wait, args=(time.monotonic() + 30.0,))
        waiting.start()
        wake()
        waiting.join(5)
        assert not waiting.is_alive()


def test_a_wave_is_taken_at_once_and_what_is_asked_for_twice_is_given_once() -> None:
    registry = Registry()
    phone, tablet = registry.subscribe(ALICE), registry.subscribe(BOB)
    registry.deliver(ALICE), registry.deliver(ALICE)
    assert registry.take([phone, tablet, phone]) == [sse.CHANGED * 2, b"", b""]
    assert registry.counters.frames == 2


def test_a_notice_wakes_all_who_wait_and_none_who_comes_after() -> None:
    lock = threading.Lock()
    ready, woken = BroadcastCondition(lock), []

    def wait() -> None:
        with lock:
            woken.append(ready.wait(5.0))

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while any(thread.is_alive() for thread in waiting):  # a thread may come after a notice, and waits for the next
        with lock:
            ready.notify_all()
    assert woken == [True] * 3
    with lock:
        assert not ready.wait(0.01)
        assert not lock.acquire(blocking=False), "whoever waited holds the lock again"


def test_ten_threads_that_subscribe_push_and_release_leave_nothing() -> None:
    registry = Registry()

    def come_and_go(number: int) -> None:
        for _ in range(100):
            subscriber = registry.subscribe(ChannelKey("notes", str(number % 3)), str(number))
            registry.deliver(ChannelKey("notes", str(number % 3)), "other")
            assert subscriber.pending
            registry.release(subscriber)

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry) == 0
    assert not registry._channels


def test_under_gevent_nobody_else_runs_while_the_registry_is_locked() -> None:
    """Otherwise each wait and each wake-up takes one round of the hub, and keepalives are seconds late under load."""
    done = under_gevent("""
        import time

        import gevent
        from synckit_notify.streams.channel import ChannelKey
        from synckit_notify.streams.registry import Limits, Registry, Seats

        registry, alice = Registry(), ChannelKey("notes", "alice")
        looks = []

        def look_on_and_on():
            while True:
                looks.append(registry._lock.locked())
                gevent.sleep(0)

        looking = gevent.spawn(look_on_and_on)
        waiting = [gevent.spawn(registry.subscribe(alice).wait, time.monotonic() + 5.0) for _ in range(3)]
        gevent.sleep(0.05)
        registry.deliver(alice)
        gevent.joinall(waiting)
        looking.kill()
        print(len(looks) > 10, any(looks))
    """)
    assert done.stdout == "True False\n", done.stderr
