"""A channel: one (app, user) pair in this process, its subscribers, and the frames that wait for each of them.

A channel owns one Condition, made at the first wait. A subscriber owns a bounded deque of frames, made when a second
frame waits. All of it is guarded by the one lock of the registry that made it.
"""

import math
import threading
from bisect import bisect_left
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from .counters import Counters
from .timer import Timer
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

    def wait(self, at: float, now: float) -> None:
        """Sleep until a frame is pending, the stream must end, or the time is `at`."""
        channel = self.channel
        channel.lock.acquire()
        if self.pending or self.end is not None:
            channel.lock.release()
        else:
            channel.release_and_wait(at, now)


class BroadcastCondition(threading.Condition):
    """The condition variable of a channel: a wait releases the lock, and `notify_all` wakes every waiting stream.

    The standard one makes a lock for each wait, and tries the held lock at each wake-up, which makes gevent switch to
    the other greenlets. Here all that are due in the same step of the timer wait for the same Event, which gevent
    implements in C; and none of them needs a timeout, since `notify_due` wakes them.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock  # all that the standard methods need of the standard constructor
        self._groups: list[tuple[float, threading.Event]] = []
        """The streams that wait, by step."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the next `notify_all`, for `timeout` seconds at most; the lock is held before and after."""
        try:
            return self.release_and_wait(timeout)
        finally:
            self._lock.acquire()

    def release_and_wait(self, timeout: float | None = None, step: float = math.inf) -> bool:
        """Do what `wait` does, or sleep until the `notify_due` of this step; the lock is held before, and not after."""
        event = self._group(step)
        self._lock.release()
        return event.wait(timeout)

    def notify_all(self) -> None:
        """Wake every thread that waits."""
        groups, self._groups = self._groups, []
        for _, event in groups:
            event.set()

    def notify_due(self, step: int) -> float:
        """Wake the threads that wait for this step or an earlier one; return the earliest step that is left."""
        while self._groups and self._groups[0][0] <= step:
            self._groups.pop(0)[1].set()
        return self._groups[0][0] if self._groups else math.inf

    def _group(self, step: float) -> threading.Event:
        groups = self._groups
        place = bisect_left(groups, (step,))
        if place == len(groups) or groups[place][0] != step:
            groups.insert(place, (step, threading.Event()))
        return groups[place][1]


class Channel:
    """The subscribers of one (app, user), and the Condition that wakes them."""

    __slots__ = ("condition", "counters", "key", "lock", "next_step", "subscribers", "timer", "watermark")

    def __init__(
        self, key: ChannelKey, lock: threading.Lock, counters: Counters, now: float, timer: Timer | None = None
    ) -> None:
        self.key = key
        self.lock = lock
        self.counters = counters
        self.timer = timer
        self.next_step = math.inf
        """The step in which the timer calls `due`."""
        self.condition: BroadcastCondition | None = None  # made when somebody waits: 1 KiB
        self.subscribers: list[Subscriber] = []
        self.watermark = now - COMMIT_SECONDS
        """Every change up to this time (Unix seconds) was delivered here, or is older than the subscribers."""

    def release_and_wait(self, at: float, now: float) -> None:
        """Sleep until a stream of the channel is called, or the time is `at`. The caller holds the lock, not after."""
        condition = self.condition = self.condition or BroadcastCondition(self.lock)
        timer = self.timer
        if timer is None or not timer.runs:
            condition.release_and_wait(max(0.0, at - now))
            return
        step = timer.step(at)
        if step < self.next_step:
            self.next_step = step
            timer.add(self, step)
        condition.release_and_wait(step=step)

    def due(self, step: int) -> int | None:
        """Wake the streams whose deadline has passed, and no others; return the step of the next deadline.

        A channel is in the wheel once, mostly: a push moves the deadlines of its streams, and not its place there.
        """
        if self.next_step > step:
            return None
        self.next_step = self.condition.notify_due(step) if self.condition is not None else math.inf
        return None if self.next_step == math.inf else int(self.next_step)

    def is_covered(self, moment: float, now: float) -> bool:
        """Return whether a change of that moment needs no wake-up here: it was delivered, or every pull has seen it.

        The newest delivered change never needs one. About older ones nothing is certain while `watermark` lies in the
        future: the clock has been set back since, and later changes may have earlier times.
        """
        return moment == self.watermark or moment <= self.watermark <= now + COMMIT_SECONDS
