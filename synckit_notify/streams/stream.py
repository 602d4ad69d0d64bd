"""One event stream: what to write, when to look again, and why it ends.

`Stream.poll(now)` holds every rule and never waits; `frames()` only waits and holds no rule. So another way of waiting
(parking.py) needs no second copy of the rules. Times are seconds of the monotonic clock.

    poll ──▶ bytes to write ──▶ over? ── no ──▶ wait for a wake-up or the next deadline ──▶ poll …

There is no request and no Flask here: a Subscriber and a few numbers come in.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, NamedTuple

from .. import sse
from .channel import EndReason, Subscriber

if TYPE_CHECKING:
    from socket import SocketType

EXPIRY_SPREAD_SECONDS = 5.0
"""A stream ends at random up to this long before its token, so that tokens issued together end apart."""

AGE_SPREAD = 0.2
"""A stream ends at random within this last share of its age limit, for the same reason."""

RECONNECT_MILLISECONDS = (500, 5000)
"""The range of the random `retry:` at a drain: with a fixed one, every client would come back at once."""

STALL_SECONDS = 15.0
"""Shorter than the kernel's limit (peers.SILENCE_MILLISECONDS), whose error a server logs with a traceback."""

OVERDUE_SECONDS = 1.0
"""How long after its deadline a stream may wait for its server to iterate it."""

Clock = Callable[[], float]


class Deadline(NamedTuple):
    """When a stream ends by itself, and why."""

    at: float
    reason: EndReason


def deadline(now: float, *, seconds_to_expiry: float | None, max_age: float | None) -> Deadline:
    """Return the earlier of token expiry and age limit, each moved forward by a random share."""
    ends = [Deadline(math.inf, EndReason.MAX_AGE)]
    if seconds_to_expiry is not None:
        spread = min(EXPIRY_SPREAD_SECONDS, seconds_to_expiry / 2)
        ends.append(Deadline(now + seconds_to_expiry - random.uniform(0, spread), EndReason.TOKEN_EXPIRED))
    if max_age is not None:
        ends.append(Deadline(now + max_age * random.uniform(1 - AGE_SPREAD, 1), EndReason.MAX_AGE))
    return min(ends)


class Stream:
    """One stream, from its first byte to its last."""

    __slots__ = (
        "_ends_at",
        "_keepalive",
        "_last_bytes_at",
        "callbacks",
        "number",
        "opened_at",
        "over",
        "reason",
        "socket",
        "subscriber",
        "writing",
    )

    def __init__(self, subscriber: Subscriber, *, keepalive: float, ends: Deadline) -> None:
        self.subscriber = subscriber
        self.over = False
        self.writing = False
        """Whether the last bytes that `poll` returned are being written now."""
        self.socket: SocketType | None = None
        """The server's socket object, or a parked stream's own; None if it is unknown or closed."""
        self.number = -1
        """The descriptor under which the peer is watched. It is valid only while `socket` says that it is open."""
        self.callbacks: Sequence[Callable[[], object]] = ()
        """Called when the stream has ended: what the host gave to `response.call_on_close`."""
        self._keepalive = keepalive
        self._ends_at, self.reason = ends
        self.opened_at: float | None = None
        self._last_bytes_at = -math.inf

    @property
    def next_deadline(self) -> float:
        """Return when `poll` must be called at the latest, even if nobody pushes."""
        keepalive_at = self._last_bytes_at + self._keepalive
        return keepalive_at if keepalive_at < self._ends_at else self._ends_at

    def needs_poll(self, now: float) -> bool:
        """Return whether `poll` would return bytes now, or has returned the last."""
        return (
            self.over or bool(self.subscriber.pending) or self.subscriber.end is not None or now >= self.next_deadline
        )

    def overdue(self, now: float) -> bool:
        """Return whether the deadline has passed and nobody iterates the stream; a blocked write is `stalled`."""
        return now >= self._ends_at + OVERDUE_SECONDS and not (self.writing and self.socket is not None)

    def stalled(self, now: float, patience: float = STALL_SECONDS) -> bool:
        """Return whether a write has been blocked for more than `patience` seconds: the peer has stopped reading."""
        return self.writing and now - self._last_bytes_at > patience

    def poll(self, now: float) -> bytes:
        """Return the bytes to write now, with pending frames joined; set `over` when they are the last.

        From then on `subscriber.end` is the reason.
        """
        return self.advance(self.subscriber.take(), now)

    def advance(self, frames: bytes, now: float) -> bytes:
        """Do what `poll` does, where the caller has taken the pending frames already."""
        if now >= self._ends_at:
            self.subscriber.end = self.subscriber.end or self.reason
        if self.subscriber.end is not None:
            return self._last_bytes(self.subscriber.end, frames)
        if self.opened_at is None:
            self.opened_at = now
            frames = sse.CONNECTED + frames
        if not frames and now >= self._last_bytes_at + self._keepalive:
            frames = sse.KEEPALIVE
        if frames:
            self._last_bytes_at, self.writing = now, True
        return frames

    def wait(self, until: float = math.inf) -> None:
        """Sleep until `poll` may return bytes, at most until `until`; it may also return early."""
        self.writing = False
        at = self.next_deadline
        self.subscriber.wait(at if at < until else until)

    def clear_error(self) -> None:
        """Take a pending error from the socket: then a write to a broken connection fails with EPIPE.

        gunicorn does not log that one. It logs others with a traceback, such as ETIMEDOUT, or EHOSTUNREACH from a
        network that is gone.
        """
        if self.socket is not None:
            try:
                self.socket.getsockopt(SOL_SOCKET, SO_ERROR)
            except OSError:  # closed
                return

    def _last_bytes(self, reason: EndReason, frames: bytes) -> bytes:
        told, self.over = self.over or reason.peer_is_gone, True
        return b"" if told else frames + farewell(reason)


def frames(stream: Stream, clock: Clock = time.monotonic) -> Iterator[bytes]:
    """Yield the bytes of one stream until it is over, and sleep in between.

    A broken connection is an end like any other: the server's next write fails, below the host's code.
    """
    while True:
        data = stream.poll(clock())
        if data:
            if data is sse.KEEPALIVE:  # the usual write to a vanished client, perhaps before the peer watch has looked
                stream.clear_error()
            yield data
        if stream.over:
            return
        stream.wait()


def farewell(reason: EndReason) -> bytes:
    """Return the last block of a stream; at a drain it also spreads the reconnects of the clients."""
    bye = sse.comment(f"bye {reason}")
    return sse.retry(random.randint(*RECONNECT_MILLISECONDS)) + bye if reason is EndReason.DRAINING else bye
