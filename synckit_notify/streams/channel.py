"""A channel, its subscribers, and what waits to be written to each: one (app, user) pair as a process sees it.

A channel owns one Condition, made when somebody waits; each of its subscribers owns a bounded deque of frames, while
any wait to be written. All of it is guarded by the one lock of the registry that made it.
"""

import threading
from collections import deque
from enum import StrEnum
from typing import Any, NamedTuple

from .counters import Counters

BUFFERED_FRAMES = 16
"""A subscriber buffers at most this many frames; when full the oldest is dropped (seed, Design Notes)."""

COMMIT_SECONDS = 2.0
"""A change whose time lies longer than this before the first subscriber was committed before it subscribed.

Bounds the time from a push's timestamp to its commit, plus the difference of two machines' clocks.
"""


class EndReason(StrEnum):
    """Why a stream ends; the value is the word that the client reads after `bye`, if it is still there."""

    DRAINING = "draining"
    TOKEN_EXPIRED = "token_expired"
    REVOKED = "revoked"
    MAX_AGE = "max_age"
    CLOSED = "closed"  # by the client, or its half of it
    RESET = "reset"  # by the client, or the kernel gave the connection up
    STALLED = "stalled"  # the client reads no more, and nothing more can be written

    @property
    def peer_is_gone(self) -> bool:
        """Return whether the client has disconnected or stopped reading."""
        return self in (EndReason.CLOSED, EndReason.RESET, EndReason.STALLED)


class ChannelKey(NamedTuple):
    """The pair that a push and its listeners have in common."""

    app: str
    user: str


class Subscriber:
    """One open stream as its channel sees it."""

    __slots__ = ("channel", "device", "end", "pending", "principal", "stream")

    def __init__(self, channel: "Channel", device: str | None) -> None:
        self.channel = channel
        self.device = device
        self.principal: object = None
        """Who it is, kept only where the host must be asked again whether they are still welcome."""
        self.stream: Any = None
        """What to ring with, where no thread of its own waits."""
        self.pending: deque[bytes] | tuple[bytes, ...] = ()
        self.end: EndReason | None = None

    def offer(self, frame: bytes) -> None:
        """Buffer one more frame, the oldest dropped when full. The caller holds the lock."""
        pending = self.pending
        if isinstance(pending, tuple):  # most are taken before a second comes, and even an empty deque takes 0.7 KiB
            pending = self.pending = deque(pending, maxlen=BUFFERED_FRAMES)
        self.channel.counters.dropped += len(pending) == BUFFERED_FRAMES
        pending.append(frame)

    def take(self) -> bytes:
        """Return the buffered frames joined, and forget them."""
        if not self.pending:  # whoever offers one now also wakes
            return b""
        with self.channel.lock:
            pending, self.pending = self.pending, ()
            self.channel.counters.frames += len(pending)
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def wait(self, seconds: float) -> None:
        """Sleep until something is pending, the stream shall end, or the time is over."""
        with self.channel.lock:
            if not self.pending and self.end is None:
                self.channel.condition = self.channel.condition or BroadcastCondition(self.channel.lock)
                self.channel.condition.wait(seconds)


class BroadcastCondition(threading.Condition):
    """The condition variable of a channel: `wait` releases the lock meanwhile, `notify_all` wakes every waiting stream.

    The standard Condition makes a lock for every wait, and at every wake-up it tries a lock that is held, after which
    gevent switches to all other greenlets. Here all streams wait for the same Event, which gevent has in C: an event
    takes 82,000 instructions instead of 133,000, a keepalive 145,000 instead of 191,000, for a stream with a greenlet
    (`python -m benchmarks.instructions`, CPython 3.11, gevent 26.9).
    """

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__(lock)
        self._next = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the next notice, at most so long; the lock is held before and after."""
        notice = self._next
        self.release()
        try:
            return notice.wait(timeout)
        finally:
            self.acquire()

    def notify_all(self) -> None:
        """Wake all who wait."""
        notice, self._next = self._next, threading.Event()
        notice.set()


class Channel:
    """The subscribers of one (app, user), and the Condition that wakes them."""

    __slots__ = ("condition", "counters", "key", "lock", "subscribers", "watermark")

    def __init__(self, key: ChannelKey, lock: threading.Lock, counters: Counters, now: float) -> None:
        self.key = key
        self.lock = lock
        self.counters = counters
        self.condition: BroadcastCondition | None = None  # made when somebody waits: 1 KiB
        self.subscribers: list[Subscriber] = []
        self.watermark = now - COMMIT_SECONDS
        """Every change up to this time (Unix seconds) was announced here, or is older than the subscribers."""

    def is_covered(self, moment: float, now: float) -> bool:
        """Return whether a change of that moment is no news.

        The newest change that was announced here never is. About older ones nothing is certain while `watermark` lies
        in the future: the clock was set back since, and later changes may have got earlier times.
        """
        return moment == self.watermark or moment <= self.watermark <= now + COMMIT_SECONDS
