"""Who waits for what: the subscribers of this process, by channel.

A channel is one (app, user) pair. It owns one Condition; each of its subscribers owns a bounded deque of frames
that wait to be written, while there are any. Under the lock we only append and wake: no writing, no logging, no
calling out. One lock serves the whole registry, so there is no order of locks to get wrong.

A channel also remembers up to which moment of the host's log it has heard of every change. A notice that names
its predecessor shows a gap when an earlier one was lost, and the sweep wakes only what was really missed.

Any thread may call anything here. Made inside the worker process, never at import: a lock made before
gevent patches would freeze the worker.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from . import sse
from .errors import TooManyStreams

BUFFERED_FRAMES = 16
"""A subscriber buffers at most this many frames; when full the oldest is dropped (seed, Design Notes)."""


COMMIT_SECONDS = 2.0
"""A change whose time lies longer than this before the first subscriber was committed before it subscribed.

Bounds the time from a push's timestamp to its commit, plus the difference of two machines' clocks.
"""


class End(StrEnum):
    """Why a stream ends; the value is the word that the client reads after `bye`."""

    DRAINING = "draining"
    TOKEN_EXPIRED = "token_expired"
    REVOKED = "revoked"
    MAX_AGE = "max_age"


class ChannelKey(NamedTuple):
    """The pair that a push and its listeners have in common."""

    app: str
    user: str


class Subscriber:
    """One open stream as its channel sees it."""

    __slots__ = ("channel", "device", "end", "pending")

    def __init__(self, channel: "Channel", device: str | None) -> None:
        self.channel = channel
        self.device = device
        self.pending: deque[bytes] | tuple[()] = ()
        self.end: End | None = None

    def offer(self, frame: bytes) -> None:
        """Buffer a frame, the oldest dropped when full. The caller holds the lock."""
        if self.pending:
            self.pending.append(frame)
        else:
            # Only while something is pending: even an empty deque takes 0.7 KiB, and most streams are idle.
            self.pending = deque((frame,), maxlen=BUFFERED_FRAMES)

    def take(self) -> bytes:
        """Return the buffered frames joined, and forget them."""
        with self.channel.lock:
            pending, self.pending = self.pending, ()
        return b"".join(pending)

    def wait(self, seconds: float) -> None:
        """Sleep until something is pending, the stream was told to end, or the time is over."""
        with self.channel.lock:
            if not self.pending and self.end is None:
                self.channel.ready.wait(seconds)


class Channel:
    """The subscribers of one (app, user), and the Condition that wakes them."""

    __slots__ = ("heard", "key", "lock", "ready", "subscribers")

    def __init__(self, key: ChannelKey, lock: threading.Lock, now: float) -> None:
        self.key = key
        self.lock = lock
        self.ready = threading.Condition(lock)
        self.subscribers: list[Subscriber] = []
        self.heard = now - COMMIT_SECONDS
        """Every change up to this time (Unix seconds) was announced here, or is older than the subscribers."""

    def has_heard(self, moment: float, now: float) -> bool:
        """Whether a change of that moment is no news; a clock that was set back since leaves nothing certain."""
        return moment <= self.heard <= now + COMMIT_SECONDS


class Registry:
    """All channels of one process.

    `max_streams` bounds the process, `max_per_channel` one (app, user); None means no bound.
    """

    def __init__(
        self,
        *,
        max_streams: int | None = None,
        max_per_channel: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_streams = max_streams
        self._clock = clock
        self._max_per_channel = max_per_channel
        self._lock = threading.Lock()
        self._channels: dict[ChannelKey, Channel] = {}
        self._count = 0
        self._abandoned: deque[Subscriber] = deque()

    def __len__(self) -> int:
        with self._lock:
            self._reap()
            return self._count

    def subscribe(self, key: ChannelKey, device: str | None = None) -> Subscriber:
        """Register a subscriber; from here on it misses nothing.

        Raises TooManyStreams when the process (503) or the channel (429) is full.
        """
        with self._lock:
            self._reap()
            if self.max_streams is not None and self._count >= self.max_streams:
                raise TooManyStreams("this server has its maximum of open streams", status=503)
            channel = self._channels.get(key) or Channel(key, self._lock, self._clock())
            if self._max_per_channel is not None and len(channel.subscribers) >= self._max_per_channel:
                raise TooManyStreams("this account has its maximum of open streams", status=429)
            subscriber = Subscriber(channel, device)
            channel.subscribers.append(subscriber)
            self._channels[key] = channel
            self._count += 1
            return subscriber

    def release(self, subscriber: Subscriber) -> None:
        """Forget a subscriber; a second call does nothing."""
        with self._lock:
            self._remove(subscriber)

    def abandon(self, subscriber: Subscriber) -> None:
        """Release without the lock, a little later: for a finalizer, which may run while this thread holds it."""
        self._abandoned.append(subscriber)

    def deliver(
        self,
        key: ChannelKey,
        origin_device: str | None = None,
        *,
        changed_at: float | None = None,
        previous_at: float | None = None,
    ) -> int:
        """Put `changed` into every buffer of the channel but those of the device that pushed; return how many.

        With the times of this change and of the one before it (Unix seconds), a notice that was lost in between is
        noticed here, and then the device that pushed is woken too: it may have missed that one.
        """
        with self._lock:
            channel = self._channels.get(key)
            if channel is None:
                return 0
            if changed_at is not None:
                if previous_at is not None and not channel.has_heard(previous_at, self._clock()):
                    origin_device = None
                channel.heard = max(channel.heard, changed_at)
            return _wake(channel, origin_device)

    def deliver_missed(self, key: ChannelKey, changed_at: float | None = None) -> int:
        """Wake a whole channel that the host reports as changed, unless the change was already announced here."""
        with self._lock:
            channel = self._channels.get(key)
            if channel is None:
                return 0
            if changed_at is not None:
                if channel.has_heard(changed_at, self._clock()):
                    return 0
                channel.heard = changed_at
            return _wake(channel, None)

    def end(self, key: ChannelKey, reason: End, device: str | None = None) -> int:
        """Tell the streams of a channel, or of one device in it, to end; return how many.

        A subscriber without a device may be that one, and returns if it is not.
        """
        with self._lock:
            channel = self._channels.get(key)
            return _end(channel, reason, device) if channel else 0

    def end_all(self, reason: End) -> int:
        """Tell every stream of the process to end; return how many."""
        with self._lock:
            return sum(_end(channel, reason, None) for channel in self._channels.values())

    def _remove(self, subscriber: Subscriber) -> None:
        channel = subscriber.channel
        try:
            channel.subscribers.remove(subscriber)
        except ValueError:
            return
        self._count -= 1
        if not channel.subscribers:
            del self._channels[channel.key]

    def _reap(self) -> None:
        while self._abandoned:
            self._remove(self._abandoned.popleft())


def _wake(channel: Channel, origin_device: str | None) -> int:
    listeners = [s for s in channel.subscribers if s.device is None or s.device != origin_device]
    for subscriber in listeners:
        subscriber.offer(sse.CHANGED)
    channel.ready.notify_all()
    return len(listeners)


def _end(channel: Channel, reason: End, device: str | None) -> int:
    ending = [s for s in channel.subscribers if device is None or s.device in (None, device)]
    for subscriber in ending:
        subscriber.end = subscriber.end or reason
    channel.ready.notify_all()
    return len(ending)
