"""The queue for a broker that is down: one notice per channel, and no device is skipped wrongly."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synckit_notify.brokers import Disconnect, Gap, Message, Notice, Question, Report
from synckit_notify.brokers.sender import Outbox, merge
from synckit_notify.streams.channel import ChannelKey
from synckit_notify.streams.registry import Registry

DEVICES = ("laptop", "phone")
START = 1790000000.0
"""The receivers' clock stands here: every change of these tests is later than their streams."""


def notice(origin: str | None = None, changed_at: float | None = None, previous_at: float | None = None) -> Notice:
    return Notice("notes", "alice", origin, changed_at, previous_at)


MERGED = [
    ("no times, one device", notice("laptop"), notice("laptop"), notice("laptop")),
    ("no times, two devices", notice("laptop"), notice("phone"), notice(None)),
    ("one after the other", notice("laptop", 5, 4), notice("laptop", 6, 5), notice("laptop", 6, 4)),
    ("the same again", notice("laptop", 5, 4), notice("laptop", 5, 4), notice("laptop", 5, 4)),
    ("the first change of all", notice("laptop", 5), notice("laptop", 6, 5), notice("laptop", 6)),
    ("two devices", notice("laptop", 5, 4), notice("phone", 6, 5), notice(None, 6)),
    ("another's change lies between", notice("laptop", 5, 4), notice("laptop", 7, 6), notice(None, 7)),
    ("perhaps another's lies between", notice("laptop", 5, 4), notice("laptop", 7), notice(None, 7)),
    ("times of one only", notice("laptop", 5, 4), notice("laptop"), notice(None, 5)),
    ("everybody already", notice(None, 7), notice("laptop", 8, 7), notice(None, 8)),
]


def test_questions_and_reports_are_not_merged() -> None:
    reports = [Report(str(number), "web-1", 7, "7f3a", "", 1, 0, {"notes": 1}) for number in range(2)]
    waiting: list[Message] = [Question("0"), Question("1"), *reports, notice("laptop")]
    outbox = Outbox()
    for message in waiting:
        outbox.add(message)
    assert outbox.take(10) == waiting


@pytest.mark.parametrize(("first", "second", "merged"), [case[1:] for case in MERGED], ids=[case[0] for case in MERGED])
def test_two_notices_of_one_channel_become_one(first: Notice, second: Notice, merged: Notice) -> None:
    assert merge(first, second) == merged
    assert merge(second, first) == merged


def test_channels_and_disconnects_are_queued_in_order() -> None:
    outbox = Outbox()
    waiting: list[Message] = [
        Notice("notes", "alice"),
        Notice("notes", "bob"),
        Notice("tasks", "alice"),
        Disconnect("notes", "alice"),
        Disconnect("notes", "alice", "phone"),
    ]
    for message in [*waiting, *waiting]:
        outbox.add(message)
    assert outbox.take(2) + outbox.take(100) == waiting
    assert len(outbox) == 0


def test_too_many_messages_become_one_gap_that_covers_later_ones() -> None:
    outbox = Outbox(limit=3)
    for number in range(9):
        outbox.add(Notice("notes", str(number)))
    assert [type(message) for message in outbox.take(100)] == [Gap]
    outbox.add(Notice("notes", "later"))
    assert outbox.take(100) == [Notice("notes", "later")]


def test_a_gap_that_is_put_back_covers_the_notices_added_since() -> None:
    outbox = Outbox()
    outbox.add(Notice("notes", "alice"))
    outbox.add(Gap())
    outbox.add(Notice("notes", "bob"))
    assert outbox.take(100) == [Gap()]


def test_a_disconnect_survives_a_gap_before_and_after_it() -> None:
    outbox = Outbox(limit=3)
    alice, bob = Disconnect("notes", "alice"), Disconnect("notes", "bob", "phone")
    outbox.add(alice)
    for number in range(9):
        outbox.add(Notice("notes", str(number)))
    outbox.add(bob)
    assert outbox.take(100) == [Gap(), alice, bob]


def test_more_disconnects_than_fit_become_a_gap_too() -> None:
    outbox = Outbox(limit=3)
    for number in range(5):
        outbox.add(Disconnect("notes", str(number)))
    assert outbox.take(1) == [Gap()]
    assert len(outbox) <= 3


class Receiver:
    """Another process, with one stream per device; knows when each device was last told to pull."""

    def __init__(self) -> None:
        self._registry = Registry(clock=lambda: START)
        self._streams = {device: self._registry.subscribe(ChannelKey("notes", "alice"), device) for device in DEVICES}
        self.told = dict.fromkeys(DEVICES, -1)

    def hear(self, notice: Notice, now: int) -> None:
        key = ChannelKey(notice.app, notice.user)
        self._registry.deliver(key, notice.origin_device, changed_at=notice.changed_at, previous_at=notice.previous_at)
        self._look(now)

    def sweep(self, changed_at: float, now: int) -> None:
        self._registry.deliver_missed(ChannelKey("notes", "alice"), changed_at)
        self._look(now)

    def _look(self, now: int) -> None:
        for device, stream in self._streams.items():
            if stream.take():
                self.told[device] = now


OURS_LATER, OTHERS_NOW, OTHERS_LOST = "ours, kept for later", "another process's", "another process's, lost"
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(DEVICES),
        st.sampled_from((OURS_LATER, OURS_LATER, OTHERS_NOW, OTHERS_LOST)),
        st.sampled_from((False, False, True)),
    ),
    min_size=3,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@example([("laptop", OURS_LATER, False), ("phone", OTHERS_LOST, False), ("laptop", OURS_LATER, True)])
@given(CHANGES)
def test_queueing_and_merging_lose_no_change(changes: list[tuple[str, str, bool]]) -> None:
    """One process publishes late and merged, others in time or never; a sweep at the end repairs the rest."""
    outbox, receiver = Outbox(), Receiver()
    times = [START - 2 + 0.01 * (number + 1) for number in range(len(changes))]
    for number, (device, publisher, broker_is_back) in enumerate(changes):
        message = notice(device, times[number], times[number - 1] if number else None)
        if publisher == OURS_LATER:
            outbox.add(message)
        elif publisher == OTHERS_NOW:
            receiver.hear(message, number)
        if broker_is_back or number == len(changes) - 1:
            for waited in outbox.take(100):
                assert isinstance(waited, Notice)
                receiver.hear(waited, number)
    receiver.sweep(times[-1], len(changes))
    for device in DEVICES:
        others = [number for number, (origin, *_) in enumerate(changes) if origin != device]
        assert not others or receiver.told[device] >= others[-1]
