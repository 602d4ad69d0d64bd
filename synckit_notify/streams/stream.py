"""The life of one event stream: what to write, when to look again, why it ends.

`Stream.poll(now)` holds every rule and never waits; `frames()` only waits, and holds no rule. So another way of
waiting can be added without writing the rules again. Times are seconds of the monotonic clock.

    poll ──▶ bytes to write ──▶ over? ── no ──▶ wait for a wake-up or the next deadline ──▶ poll …

No request, no socket and no Flask here: a Subscriber and a few numbers come in.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .. import sse
from .channel import EndReason, Subscriber

if TYPE_CHECKING:
    from socket import SocketType

EXPIRY_SPREAD_SECONDS = 5.0
"""A stream ends up to this long before its token, so that tokens issued together do not come back together."""

AGE_SPREAD = 0.2
"""A stream ends at 80 to 100 percent of the age limit, for the same reason."""

RECONNECT_MILLISECONDS = (500, 5000)
"""The range of the random `retry:` at a drain: a fixed one would bring every client back at once."""

STALL_SECONDS = 15.0
"""Shorter than the kernel's own limit (peer.SILENCE_MILLISECONDS), whose error a server logs with a traceback."""

OVERDUE_SECONDS = 1.0
"""How long after its deadline a stream is left to whoever iterates it."""

Clock = Callable[[], float]


class Deadline(NamedTuple):
    """When a stream ends by itself, and the reason it will give."""

    at: float
    reason: EndReason


def deadline(now: float, *, seconds_to_expiry: float | None, max_age: float | None) -> Deadline:
    """Return the earlier of token expiry and age limit, each a random share early."""
    ends = [Deadline(math.inf, EndReason.MAX_AGE)]
    if seconds_to_expiry is not None:
        spread = min(EXPIRY_SPREAD_SECONDS, seconds_to_expiry / 2)
        ends.append(Deadline(now + seconds_to_expiry - random.uniform(0, spread), EndReason.TOKEN_EXPIRED))
    if max_age is not None:
        ends.append(Deadline(now + max_age * random.uniform(1 - AGE_SPREAD, 1), EndReason.MAX_AGE))
    return min(ends)


class Stream:
    """One stream between its first byte and its last."""

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
        """Whether the last bytes that `poll` gave are being written."""
        self.socket: SocketType | None = None
        """The connection: the server's socket object, or a parked stream's own; None if unknown, and when closed."""
        self.number = -1
        """The descriptor under which the peer is watched. Only the socket object says whether it is still its own."""
        self.callbacks: Sequence[Callable[[], object]] = ()
        """What the host wants called when the stream has ended."""
        self._keepalive = keepalive
        self._ends_at, self.reason = ends
        self.opened_at: float | None = None
        self._last_bytes_at = -math.inf

    @property
    def next_deadline(self) -> float:
        """Return when `poll` has something to say at the latest, even if nobody pushes."""
        return min(self._last_bytes_at + self._keepalive, self._ends_at)

    def needs_poll(self, now: float) -> bool:
        """Return whether `poll` has something to say already, or has said all."""
        return (
            self.over or bool(self.subscriber.pending) or self.subscriber.end is not None or now >= self.next_deadline
        )

    def overdue(self, now: float) -> bool:
        """Return whether its deadline has passed and nobody iterates it; a write that blocks is `stalled` instead."""
        return now >= self._ends_at + OVERDUE_SECONDS and not (self.writing and self.socket is not None)

    def stalled(self, now: float, patience: float = STALL_SECONDS) -> bool:
        """Return whether the peer has not taken the last bytes for so long that it will not read them any more."""
        return self.writing and now - self._last_bytes_at > patience

    def poll(self, now: float) -> bytes:
        """Return what to write now, pending frames joined into one; sets `over` when it is the last.

        From then on `subscriber.end` is the reason.
        """
        return self.advance(self.subscriber.take(), now)

    def advance(self, frames: bytes, now: float) -> bytes:
        """Do what `poll` does, for one who has taken the pending frames already."""
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

    def wait(self, now: float, until: float = math.inf) -> None:
        """Sleep until `poll` has something to say, at most until `until`; it may also wake early."""
        self.writing = False
        self.subscriber.wait(max(0.0, min(self.next_deadline, until) - now))

    def _last_bytes(self, reason: EndReason, frames: bytes) -> bytes:
        told, self.over = self.over or reason.peer_is_gone, True
        return b"" if told else frames + farewell(reason)


def frames(stream: Stream, clock: Clock = time.monotonic) -> Iterator[bytes]:
    """Yield the bytes of one stream until it is over, sleeping in between.

    A connection that broke is an end like any other: the server's next write fails, below the host's code.
    """
    while True:
        data = stream.poll(clock())
        if data:
            yield data
        if stream.over:
            return
        stream.wait(clock())


def farewell(reason: EndReason) -> bytes:
    """Return the last block of a stream; at a drain it also spreads the clients that will come back."""
    bye = sse.comment(f"bye {reason}")
    return sse.retry(random.randint(*RECONNECT_MILLISECONDS)) + bye if reason is EndReason.DRAINING else bye
