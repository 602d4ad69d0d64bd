"""A channel: one (app, user) pair in this process, its subscribers, and the frames that wait for each of them.

A channel owns one Condition, made at the first wait. A subscriber owns a bounded deque of frames, made when a second
frame waits. All of it is guarded by the one lock of the registry that made it.
"""

import sys
import threading
from bisect import bisect_left
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from ..runtime import gevent_compat
from .counters import Counters
from .timer import Timer
from .timer_wheel import NEVER, round_up
from .wakeups import Wakeable

BUFFERED_FRAMES = 16
"""A subscriber buffers at most this many frames; when full, the oldest is dropped (docs/protocol.md)."""

TICK_SECONDS = 0.02
"""The deadlines of waiting streams are rounded up to this: how late a keepalive may be."""

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

    def wait(self, at: float) -> None:
        """Sleep until a frame is pending, the stream must end, or the time is `at`."""
        channel = self.channel
        channel.lock.acquire()
        if self.pending or self.end is not None:
            channel.lock.release()
        else:
            channel.release_and_wait(at)


class BroadcastCondition(threading.Condition):
    """The condition variable of a channel: a wait releases the lock, and `notify_all` wakes every waiting thread.

    The standard one makes a lock for each wait, and tries the held lock at each wake-up, which makes gevent switch to
    the other greenlets. Here all that wait for the same moment wait for the same event. They need no timeout where the
    timer calls `notify_due`. Without the standard constructor, which makes a queue of waiting threads, `notify` cannot
    be used.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._groups: list[tuple[float, gevent_compat.Event]] = []
        """The moments and what wakes the threads that wait for them, in order."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the next `notify_all`, for `timeout` seconds at most; the lock is held before and after."""
        try:
            return self.release_and_wait(timeout)
        finally:
            self._lock.acquire()

    def release_and_wait(self, timeout: float | None = None, moment: float = NEVER) -> bool:
        """Do what `wait` does, but also wake at the `notify_due` of this moment, and do not take the lock again."""
        groups, place = self._groups, -1
        if not groups or groups[-1][0] != moment:
            place = bisect_left(groups, (moment,))
            if place == len(groups) or groups[place][0] != moment:
                groups.insert(place, (moment, threading.Event() if moment == NEVER else gevent_compat.new_event()))
        event = groups[place][1]
        self._lock.release()
        return event.wait(timeout)  # type: ignore[arg-type]  # there is no timeout together with a moment

    def notify_all(self) -> None:
        """Wake every thread that waits."""
        groups, self._groups = self._groups, []
        for _, event in groups:
            event.set()

    def notify_due(self, now: float) -> float:
        """Wake the threads whose moment has come, and return the next moment; NEVER if none is left."""
        groups = self._groups
        while groups and groups[0][0] <= now:
            gevent_compat.set_first(groups.pop(0)[1])
        return groups[0][0] if groups else NEVER


class Channel:
    """The subscribers of one (app, user), and the Condition that wakes those with a thread."""

    __slots__ = ("condition", "counters", "key", "lock", "next_due", "subscribers", "timer", "watermark")

    def __init__(self, key: ChannelKey, lock: threading.Lock, counters: Counters, timer: Timer, now: float) -> None:
        self.key = key
        self.lock = lock
        self.counters = counters
        self.timer = timer
        self.next_due = NEVER
        """The moment at which the timer calls `due`."""
        self.condition: BroadcastCondition | None = None  # made when somebody waits: 0.4 KiB
        self.subscribers: list[Subscriber] = []
        self.watermark = now - COMMIT_SECONDS
        """Every change up to this time (Unix seconds) was delivered here, or is older than the subscribers."""

    def release_and_wait(self, at: float) -> None:
        """Sleep until the channel is notified, or the time is `at`. The lock is held before, and not after."""
        condition = self.condition = self.condition or BroadcastCondition(self.lock)
        timer = self.timer
        if not timer.runs:
            condition.release_and_wait(max(0.0, at - timer.clock()))
            return
        moment = round_up(at, TICK_SECONDS)
        if moment < self.next_due:
            self.next_due = moment
            timer.add_locked(self, moment)
        condition.release_and_wait(None, moment)

    def due(self, now: float, woken: list[Wakeable]) -> float:
        """Wake the streams whose deadline has come, and no others; return the next deadline.

        A push moves the deadlines of the streams and leaves the channel where it is in the wheel. It is there again
        for each stream with an earlier deadline that came; the calls for the later places then do nothing.
        """
        if now < self.next_due:
            return NEVER
        self.next_due = self.condition.notify_due(now) if self.condition is not None else NEVER
        return self.next_due

    def leave_timer(self) -> None:
        """Wake the streams that rely on the timer, so that each waits with a timeout of its own."""
        self.next_due = NEVER
        if self.condition is not None:
            self.condition.notify_due(sys.float_info.max)

    def is_covered(self, moment: float, now: float) -> bool:
        """Return whether a change of that moment needs no wake-up here: it was delivered, or every pull has seen it.

        The newest delivered change never needs one. About older ones nothing is certain while `watermark` lies in the
        future: the clock has been set back since, and later changes may have earlier times.
        """
        return moment == self.watermark or moment <= self.watermark <= now + COMMIT_SECONDS
