"""A channel: one (app, user) pair in this process, its subscribers, and the frames that wait for each of them.

A channel owns one Condition, made at the first wait. A subscriber owns a bounded deque of frames, made when a second
frame waits. All of it is guarded by the one lock of the registry that made it.
"""

import threading
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from .counters import Counters
from .wakeups import Wakeable

BUFFERED_FRAMES = 16
"""A subscriber buffers at most this many frames; when full, the oldest is dropped (docs/protocol.md)."""

COMMIT_SECONDS = 2.0
"""A change that is older than the first subscriber by more than this was committed before it subscribed.

It bounds the time from the timestamp of a push to its commit, plus the difference between two machines' clocks.
"""


class EndReason(StrEnum):
    """Why a stream ends; the value is the word after `bye` in the last comment that the client reads."""

    DRAINING = "draining"
    TOKEN_EXPIRED = "token_expired"
    REVOKED = "revoked"
    MAX_AGE = "max_age"
    CLOSED = "closed"  # the client closed the connection, or its sending half
    RESET = "reset"  # the client reset the connection, or the kernel gave it up
    STALLED = "stalled"  # the client stopped reading, and nothing more can be written

    @property
    def peer_is_gone(self) -> bool:
        """Return whether the client has disconnected or stopped reading."""
        return self in (EndReason.CLOSED, EndReason.RESET, EndReason.STALLED)


class ChannelKey(NamedTuple):
    """The app and the user that a push and its subscribers have in common."""

    app: str
    user: str


class Subscriber:
    """One open stream as its channel sees it."""

    __slots__ = ("channel", "device", "end", "pending", "principal", "stream")

    def __init__(self, channel: "Channel", device: str | None) -> None:
        self.channel = channel
        self.device = device
        self.principal: object = None
        """The Principal, kept only where the host may be asked again whether it was revoked."""
        self.stream: Wakeable | None = None
        """The stream to put into the registry's `wakeups`, where no thread waits for the Condition."""
        self.pending: deque[bytes] | tuple[bytes, ...] = ()
        self.end: EndReason | None = None

    def offer(self, frame: bytes) -> None:
        """Buffer one more frame, and drop the oldest when full. The caller holds the lock."""
        pending = self.pending
        if isinstance(pending, tuple):  # most are taken before a second one comes, and an empty deque takes 0.7 KiB
            pending = self.pending = deque(pending, maxlen=BUFFERED_FRAMES)
        self.channel.counters.dropped += len(pending) == BUFFERED_FRAMES
        pending.append(frame)

    def take(self) -> bytes:
        """Return the buffered frames joined, and forget them."""
        if not self.pending:  # a frame that is offered now also wakes the stream
            return b""
        with self.channel.lock:
            pending, self.pending = self.pending, ()
            self.channel.counters.frames += len(pending)
        return pending[0] if len(pending) == 1 else b"".join(pending)

    def wait(self, seconds: float) -> None:
        """Sleep until a frame is pending, the stream must end, or `seconds` have passed."""
        with self.channel.lock:
            if not self.pending and self.end is None:
                self.channel.condition = self.channel.condition or BroadcastCondition(self.channel.lock)
                self.channel.condition.wait(seconds)


class BroadcastCondition(threading.Condition):
    """The condition variable of a channel: a wait releases the lock, and `notify_all` wakes every waiting stream.

    The standard one makes a lock for each wait, and tries the held lock at each wake-up, which makes gevent switch to
    the other greenlets. Here all wait for the same Event, which gevent implements in C: for a stream with a greenlet,
    an event takes 82,000 instructions instead of 133,000, a keepalive 145,000 instead of 191,000
    (`python -m benchmarks.instructions`, CPython 3.11, gevent 26.9).
    """

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__(lock)
        self._next = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the next `notify_all`, for `timeout` seconds at most; the lock is held before and after."""
        notice = self._next
        self.release()
        try:
            return notice.wait(timeout)
        finally:
            self.acquire()

    def notify_all(self) -> None:
        """Wake every thread that waits."""
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
        """Every change up to this time (Unix seconds) was delivered here, or is older than the subscribers."""

    def is_covered(self, moment: float, now: float) -> bool:
        """Return whether a change of that moment needs no wake-up here: it was delivered, or every pull has seen it.

        The newest delivered change never needs one. About older ones nothing is certain while `watermark` lies in the
        future: the clock has been set back since, and later changes may have earlier times.
        """
        return moment == self.watermark or moment <= self.watermark <= now + COMMIT_SECONDS
