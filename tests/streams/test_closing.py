"""Streams that their server has lost are found, and looking for them holds up nobody."""

from collections.abc import Callable
from typing import Any

import pytest

from synckit_notify.streams.channel import EndReason
from synckit_notify.streams.closing import SCAN_SECONDS, SCANNED_AT_ONCE, Closer

from ..support.wait import wait_until

PULSE_SECONDS = 0.1
PULSES = round(2 * SCAN_SECONDS / PULSE_SECONDS)


class FakeStream:
    """A stream that tells when the closer looks at it."""

    socket, over, end, reason = None, False, None, EndReason.MAX_AGE

    def __init__(self, looked: Callable[["FakeStream"], object], *, is_lost: bool) -> None:
        self.subscriber, self._looked, self._is_lost = self, looked, is_lost

    def overdue(self, now: float) -> bool:
        self._looked(self)
        return self._is_lost


@pytest.mark.parametrize("number", [2, SCANNED_AT_ONCE, 10_000])
def test_lost_streams_are_found_a_part_at_a_time_and_closed_once(number: int) -> None:
    looks: list[FakeStream] = []
    closed: list[FakeStream] = []
    closer: Any = Closer(closed.append, lambda: closer.busy)  # type: ignore[arg-type]
    streams = [FakeStream(looks.append, is_lost=True) for _ in range(number)]
    for stream in streams:
        closer.add(stream)
    parts = []
    for pulse in range(PULSES):
        before = len(looks)
        closer.check(pulse * PULSE_SECONDS)
        parts.append(len(looks) - before)
        if len(looks) < number:
            by_its_server = next(stream for stream in streams if closer.claim(stream))  # between two parts
            number -= by_its_server not in looks
    wait_until(lambda: len(closed) == len(looks))
    assert max(parts) <= SCANNED_AT_ONCE
    assert len(set(looks)) == len(looks) == number
    assert set(closed) == set(looks)
    assert {stream.end for stream in closed} == {EndReason.MAX_AGE}


def test_each_stream_is_looked_at_in_each_round() -> None:
    looks: list[FakeStream] = []
    closer: Any = Closer(lambda stream: None, lambda: False)
    streams = [FakeStream(looks.append, is_lost=False) for _ in range(10_000)]
    for stream in streams:
        closer.add(stream)
    for pulse in range(PULSES):
        closer.check(pulse * PULSE_SECONDS)
    assert sorted(map(id, looks)) == sorted(2 * [id(stream) for stream in streams])
