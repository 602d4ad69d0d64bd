"""The registry: the subscribers of this process, by channel.

Under the lock it only appends, wakes and counts: it writes nothing and calls nobody else's code. One lock serves all
registries of a process and their channels, so no order of locks can be wrong.

A channel also remembers up to which time every change was delivered here. So a notice that names the change before it
shows that an earlier notice was lost, and the sweep wakes only the channels that missed something.

Any thread may call anything here. It is made inside the worker process, never at import: a lock made before gevent
patches would freeze the worker.
"""

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from .. import sse
from ..errors import TooManyStreams
from .channel import Channel, ChannelKey, EndReason, Subscriber
from .counters import Counters
from .timer import Timer
from .wakeups import Wakeable, Wakeups

_ONE_CHANGE = (sse.CHANGED,)


class Limits(NamedTuple):
    """How many streams one process may have open; None means no limit."""

    streams: int | None = None
    """All streams."""
    unparked: int | None = None
    """Streams that are not parked: each of them takes a connection or a thread of the server."""


NO_LIMITS = Limits()


class Seats:
    """The lock and the count that all registries of a process share, since the limits apply to the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.registries: weakref.WeakSet[Registry] = weakref.WeakSet()

    def are_taken(self, limits: Limits) -> bool:
        """Return whether one more stream would be above a limit. The caller holds the lock."""
        streams, unparked = self._count()
        return (limits.streams is not None and streams >= limits.streams) or (
            limits.unparked is not None and unparked >= limits.unparked
        )

    def usage(self, limits: Limits) -> tuple[int, float]:
        """Return how many streams are open, and the share of the nearest limit that they take (0 to 1)."""
        with self.lock:
            streams, unparked = self._count()
        shares = [count / limit for count, limit in zip((streams, unparked), limits, strict=True) if limit]
        return streams, max(shares, default=0.0)

    def _count(self) -> tuple[int, int]:
        streams = parked = 0
        for registry in self.registries:
            registry._reap()
            streams += registry.counters.open
            parked += registry.counters.parked
        return streams, streams - parked


class Registry:
    """All channels of one application in one process.

    `seats` is shared with the registries of other applications in the process. `max_per_channel` limits the streams of
    one (app, user); None means no limit. `wakeups` are the streams to look at that no thread waits for.
    """

    def __init__(
        self,
        *,
        seats: "Seats | None" = None,
        max_per_channel: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seats = seats or Seats()
        self.counters = Counters()
        self.wakeups = Wakeups()
        self._clock = clock
        self._max_per_channel = max_per_channel
        self._lock = self.seats.lock
        self.timer = Timer(self._lock, self.wakeups, lambda: len(self) > 0, self._leave_timer)
        self._channels: dict[ChannelKey, Channel] = {}
        self._abandoned: deque[Subscriber] = deque()
        self._unannounced: dict[ChannelKey, float] = {}
        self.seats.registries.add(self)

    def __len__(self) -> int:
        with self._lock:
            self._reap()
            return self.counters.open

    def subscribe(self, key: ChannelKey, device: str | None = None, limits: Limits = NO_LIMITS) -> Subscriber:
        """Register a subscriber; from here on it misses no notice.

        Raises TooManyStreams when the process (503) or the channel (429) is full.
        """
        with self._lock:
            if self.seats.are_taken(limits):
                raise TooManyStreams("this server has reached its limit of open streams", status=503)
            channel = self._channels.get(key) or Channel(key, self._lock, self.counters, self.timer, self._clock())
            if self._max_per_channel is not None and len(channel.subscribers) >= self._max_per_channel:
                raise TooManyStreams("this account has reached its limit of open streams", status=429)
            subscriber = Subscriber(channel, device)
            channel.subscribers.append(subscriber)
            self._channels[key] = channel
            self.counters.opened += 1
            return subscriber

    def release(self, subscriber: Subscriber) -> None:
        """Remove a subscriber; its stream ends if somebody still iterates it. A second call does nothing."""
        with self._lock:
            self._remove(subscriber)

    def abandon(self, subscriber: Subscriber) -> None:
        """Release a little later, without the lock: for a finalizer, which may run while this thread holds it."""
        self._abandoned.append(subscriber)

    def deliver(
        self,
        key: ChannelKey,
        origin_device: str | None = None,
        *,
        changed_at: float | None = None,
        previous_at: float | None = None,
    ) -> int:
        """Put `changed` into the buffers of a channel, except those of the device that pushed; return how many.

        With the times of this change and of the one before it (Unix seconds), a lost notice in between is detected
        here. Then the device that pushed is woken too, since it may have missed that other change.
        """
        with self._lock:
            channel = self._channels.get(key)
            if channel is None:
                return 0
            if changed_at is not None:
                if previous_at is not None and not channel.is_covered(previous_at, self._clock()):
                    origin_device = None
                channel.watermark = max(channel.watermark, changed_at)
                if self._unannounced and changed_at >= self._unannounced.get(key, changed_at):
                    self._unannounced.pop(key, None)
            return self._wake(channel, origin_device)

    def deliver_missed(self, key: ChannelKey, changed_at: float | None = None) -> int:
        """Wake a whole channel that the host reports as changed, unless that change was delivered here already."""
        with self._lock:
            if (channel := self._channels.get(key)) is None:
                return 0
            if changed_at is not None:
                if channel.is_covered(changed_at, self._clock()):
                    return 0
                channel.watermark = changed_at
                self._unannounced[key] = changed_at
            return self._wake(channel, None)

    def take_unannounced(self) -> int:
        """Return how many channels `deliver_missed` woke since the last call, without a notice of that change since."""
        with self._lock:
            count, self._unannounced = len(self._unannounced), {}
            return count

    def end(self, key: ChannelKey, reason: EndReason, device: str | None = None) -> int:
        """Tell the streams of a channel, or of one device in it, to end; return how many.

        A subscriber that names no device ends too: it may be that device, and connects again if it is not.
        """
        with self._lock:
            channel = self._channels.get(key)
            return self._end(_may_be(device, channel), reason) if channel else 0

    def end_all(self, reason: EndReason) -> int:
        """Tell every stream of the process to end; return how many."""
        with self._lock:
            return sum(self._end(channel.subscribers, reason) for channel in self._channels.values())

    def end_one(self, subscriber: Subscriber, reason: EndReason) -> None:
        """Tell one stream to end."""
        with self._lock:
            self._end([subscriber], reason)

    def park(self, subscriber: Subscriber, stream: Wakeable) -> None:
        """Put the stream into `wakeups` now, and from now on wherever a waiting thread would be woken."""
        with self._lock:
            self.counters.parked += subscriber.stream is None
            subscriber.stream = stream
            self.wakeups.wake([stream])

    def take(self, subscribers: list[Subscriber]) -> list[bytes]:
        """Take the buffered frames of each subscriber, joined as by `Subscriber.take`, under one lock for all."""
        taken = []
        with self._lock:
            for subscriber in subscribers:
                taken.append(subscriber.pending)
                subscriber.pending = ()
            self.counters.frames += sum(map(len, taken))
        return [pending[0] if len(pending) == 1 else b"".join(pending) for pending in taken]

    def count_by_app(self) -> Counter[str]:
        """Return how many streams each app has."""
        counts: Counter[str] = Counter()
        with self._lock:
            self._reap()
            for key, channel in self._channels.items():
                counts[key.app] += len(channel.subscribers)
        return counts

    def snapshot(self) -> list[tuple[ChannelKey, list[Subscriber]]]:
        """Return every channel with its subscribers, as they are now."""
        with self._lock:
            return [(key, list(channel.subscribers)) for key, channel in self._channels.items()]

    def _leave_timer(self) -> None:
        with self._lock:
            for channel in self._channels.values():
                channel.leave_timer()
        self.wakeups.wake([])  # from now on their thread turns the wheel alone, and more often

    def _remove(self, subscriber: Subscriber) -> None:
        channel = subscriber.channel
        try:
            channel.subscribers.remove(subscriber)
        except ValueError:
            return
        subscriber.end = subscriber.end or EndReason.CLOSED
        self.counters.ended[subscriber.end] += 1
        self.counters.parked -= subscriber.stream is not None
        if not channel.subscribers:
            del self._channels[channel.key]
            if channel.condition is not None:  # the server may still iterate the stream
                channel.condition.notify_all()
                channel.condition = None  # the timer keeps the channel until its next deadline

    def _reap(self) -> None:
        while self._abandoned:
            self._remove(self._abandoned.popleft())

    def _wake(self, channel: Channel, origin_device: str | None) -> int:
        listeners = channel.subscribers
        if origin_device is not None:
            listeners = [s for s in listeners if s.device != origin_device]
        for subscriber in listeners:
            if subscriber.pending:
                subscriber.offer(sse.CHANGED)
            else:
                subscriber.pending = _ONE_CHANGE
        self._call(channel, listeners)
        return len(listeners)

    def _end(self, subscribers: list[Subscriber], reason: EndReason) -> int:
        for subscriber in subscribers:
            subscriber.end = subscriber.end or reason
            self._call(subscriber.channel, [subscriber])
        return len(subscribers)

    def _call(self, channel: Channel, subscribers: list[Subscriber]) -> None:
        if channel.condition is not None:
            channel.condition.notify_all()
        if parked := [s.stream for s in subscribers if s.stream is not None]:
            self.wakeups.wake(parked)


def _may_be(device: str | None, channel: Channel) -> list[Subscriber]:
    return [s for s in channel.subscribers if device is None or s.device in (None, device)]
