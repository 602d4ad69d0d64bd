"""The rules of one stream, with a clock that only the test advances."""

import itertools
import re
import socket
import struct

import pytest

from synckit_notify import sse
from synckit_notify.streams.channel import ChannelKey, EndReason, Subscriber
from synckit_notify.streams.registry import Registry
from synckit_notify.streams.stream import Deadline, Stream, deadline, farewell, frames

ALICE = ChannelKey("notes", "alice")
NEVER = Deadline(float("inf"), EndReason.MAX_AGE)


class Room:
    """One stream, its registry, and a clock."""

    def __init__(self, *, keepalive: float = 30.0, ends: Deadline = NEVER) -> None:
        self.registry = Registry()
        self.subscriber: Subscriber = self.registry.subscribe(ALICE)
        self.stream = Stream(self.subscriber, keepalive=keepalive, ends=ends)
        self.now = 100.0

    def push(self, times: int = 1) -> None:
        for _ in range(times):
            self.registry.deliver(ALICE)

    def after(self, seconds: float) -> bytes:
        self.now += seconds
        return self.stream.poll(self.now)


def test_the_first_bytes_come_at_once() -> None:
    assert Room().after(0) == sse.CONNECTED


def test_a_push_before_the_first_bytes_follows_them() -> None:
    room = Room()
    room.push()
    assert room.after(0) == sse.CONNECTED + sse.CHANGED


def test_pending_frames_are_joined_into_one_write() -> None:
    room = Room()
    room.after(0)
    room.push(3)
    assert room.after(1) == sse.CHANGED * 3


def test_twenty_unread_pushes_leave_sixteen() -> None:
    room = Room()
    room.after(0)
    room.push(20)
    assert room.after(1) == sse.CHANGED * 16


def test_a_keepalive_comes_thirty_seconds_after_the_last_bytes() -> None:
    room = Room()
    room.after(0)
    assert [room.after(29.9), room.after(0.1), room.after(29.9), room.after(0.1)] == [b"", sse.KEEPALIVE] * 2


def test_a_push_moves_the_next_keepalive() -> None:
    room = Room()
    room.after(0)
    room.push()
    assert [room.after(20), room.after(29.9), room.after(0.1)] == [sse.CHANGED, b"", sse.KEEPALIVE]


def test_the_next_deadline_is_the_keepalive_or_the_end() -> None:
    room = Room(ends=Deadline(141.0, EndReason.TOKEN_EXPIRED))
    room.after(0)
    assert room.stream.next_deadline == 130.0
    room.after(30)
    assert room.stream.next_deadline == 141.0


@pytest.mark.parametrize("reason", [EndReason.TOKEN_EXPIRED, EndReason.MAX_AGE])
def test_a_deadline_ends_it_with_its_reason(reason: EndReason) -> None:
    room = Room(ends=Deadline(110.0, reason))
    room.after(0)
    assert room.after(9.9) == b""
    assert room.after(0.1) == f": bye {reason}\n\n".encode()
    assert room.stream.over


def test_pending_frames_are_written_before_the_bye() -> None:
    room = Room()
    room.after(0)
    room.push()
    room.registry.end_all(EndReason.REVOKED)
    assert room.after(0) == sse.CHANGED + b": bye revoked\n\n"


def test_a_stream_that_opens_while_draining_only_gets_its_bye() -> None:
    room = Room()
    room.registry.end_all(EndReason.DRAINING)
    assert re.fullmatch(rb"retry: \d+\n\n: bye draining\n\n", room.after(0))


def test_the_retry_of_a_drain_is_spread_between_half_a_second_and_five() -> None:
    delays = [int(farewell(EndReason.DRAINING).split()[1]) for _ in range(500)]
    assert 500 <= min(delays) < 1500 < 4000 < max(delays) <= 5000


def test_a_token_ends_at_most_five_seconds_early_and_never_late() -> None:
    ends = [deadline(0.0, seconds_to_expiry=100.0, max_age=None).at for _ in range(500)]
    assert 95.0 <= min(ends) < 96.0 < 99.0 < max(ends) <= 100.0


def test_a_short_token_still_lives_half_its_life() -> None:
    assert all(1.0 <= deadline(0.0, seconds_to_expiry=2.0, max_age=None).at <= 2.0 for _ in range(100))


def test_the_age_limit_is_spread_over_its_last_fifth() -> None:
    ends = [deadline(0.0, seconds_to_expiry=1e6, max_age=100.0) for _ in range(500)]
    assert all(80.0 <= end.at <= 100.0 and end.reason is EndReason.MAX_AGE for end in ends)


def test_without_expiry_and_age_limit_it_never_ends_by_itself() -> None:
    assert deadline(0.0, seconds_to_expiry=None, max_age=None).at == float("inf")


def test_frames_are_what_poll_says_until_it_is_over() -> None:
    room = Room(keepalive=0.01, ends=Deadline(3.5, EndReason.TOKEN_EXPIRED))
    clock = itertools.count(0).__next__
    assert list(frames(room.stream, clock=lambda: float(clock()))) == [
        sse.CONNECTED,
        sse.KEEPALIVE,
        sse.KEEPALIVE,
        sse.KEEPALIVE,
        b": bye token_expired\n\n",
    ]


def test_a_keepalive_after_an_error_of_the_network_fails_as_on_any_closed_connection() -> None:
    """gunicorn passes over EPIPE and logs the others, such as EHOSTUNREACH, with a traceback."""
    room = Room()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server:
        room.stream.socket = server
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # a reset: now the socket has a pending error, ECONNRESET
        writing = frames(room.stream, lambda: room.now)
        assert next(writing) == sse.CONNECTED
        room.now += 30.0
        assert next(writing) == sse.KEEPALIVE
        with pytest.raises(BrokenPipeError):
            server.send(sse.KEEPALIVE)
