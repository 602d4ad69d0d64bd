"""Recovery from lost notices: the database is the truth, and a device that is woken pulls.

Sweep        every few seconds, ask the host which channels changed, and wake those that were not told of it
GapRecovery  after a gap (the broker may have lost messages), wake every stream, spread over seconds when they are many;
             then check each open stream for revocation again, since a disconnect may have been lost too
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import Refused
from ..runtime.background import BackgroundThread
from ..runtime.logs import RateLimitedLog
from .channel import ChannelKey, EndReason, Subscriber
from .registry import Registry

SWEEP_OVERLAP = timedelta(seconds=5)
"""How far each sweep looks back behind the last one: slow commits, and clocks that differ."""

SPREAD_SECONDS = 3.0
"""Upper bound in seconds for waking every stream after a gap; docs/protocol.md promises 5 s."""

UNANNOUNCED, UNANNOUNCED_SECONDS = 3, 600.0
"""After so many sweeps in this time that found changes without a notice, a warning is logged, once an hour."""

UNREACHED = "changes come from processes this broker does not reach: another machine, user or container?"

AT_ONCE = 500
"""Up to this many streams are woken at once: a host can answer that many pulls."""

STEP_SECONDS = 0.1

FIRST_PAUSE_SECONDS = 1.0
"""Pause before the host is asked again about a stream that it could not answer for; doubled each time."""

MAX_PAUSE_SECONDS = 30.0

ChangedChannels = Callable[[datetime], Iterable[tuple[ChannelKey, float | None]]]
Revoked = Callable[[Subscriber], bool]


class _Start(NamedTuple):
    """When a sweep started, by the steady clock, and how far the wall clock was ahead of it."""

    at: float
    ahead: float


class Sweep:
    """Asks the host which channels changed lately: finds notices lost in a crash, a reload or the broker.

    The host's times follow the wall clock, which may be stepped by an hour at any moment, either way. So the steady
    clock measures how far a sweep looks back, counted from the lowest of the recent positions of the wall clock. A row
    that the sweep before had too is skipped, since its channel was woken then or opened later: otherwise a clock that
    was set back would wake the same channels at every sweep.
    """

    def __init__(
        self,
        registry: Registry,
        changed_channels: ChangedChannels,
        *,
        recovers: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._changed_channels = changed_channels
        self._recovers = recovers
        self._unannounced_at: deque[float] = deque(maxlen=UNANNOUNCED)
        self._reports = RateLimitedLog(seconds=3600.0, clock=steady_clock)
        self._clock = clock
        self._steady_clock = steady_clock
        self.begin()

    def begin(self) -> None:
        """Start over: a device pulls what came before its stream when it connects."""
        self._starts = deque([self._start()])
        self._rows: set[tuple[ChannelKey, float | None]] = set()

    def run(self) -> None:
        """Wake every channel with an undelivered change since the last sweep that succeeded."""
        start = self._start()
        self._report_unannounced(start.at)
        rows: set[tuple[ChannelKey, float | None]] = set()
        is_whole = True
        try:
            for row in self._changed_channels(self._since(start)):
                rows.add(row)
        except Refused:  # the hook failed and was logged; the rows before that count
            is_whole = False
        for key, changed_at in rows - self._rows:
            self._registry.deliver_missed(key, changed_at)
        timed = {row for row in rows if row[1] is not None}  # a row without a time may be another change
        if is_whole:
            self._rows = timed
            self._remember(start)
        else:
            self._rows |= timed

    def _report_unannounced(self, now: float) -> None:
        """Warn if changes keep coming without a notice. One that the sweep only found first has arrived by now."""
        if not self._registry.take_unannounced() or self._recovers():
            return
        self._unannounced_at.append(now)
        if len(self._unannounced_at) == UNANNOUNCED and now - self._unannounced_at[0] <= UNANNOUNCED_SECONDS:
            self._reports.write(logging.WARNING, UNREACHED, UNREACHED)

    def _start(self) -> _Start:
        now = self._steady_clock()
        return _Start(now, self._clock() - now)

    def _since(self, start: _Start) -> datetime:
        lowest = min(each.ahead for each in (*self._starts, start))
        return datetime.fromtimestamp(self._starts[-1].at + lowest, UTC) - SWEEP_OVERLAP

    def _remember(self, start: _Start) -> None:
        """Keep the starts within the overlap, and the last one before it."""
        self._starts.append(start)
        while self._starts[1].at <= start.at - SWEEP_OVERLAP.total_seconds():
            self._starts.popleft()


class GapRecovery:
    """Recovers from gaps in a thread of its own, which ends when nothing is left to do; any thread may report one.

    If the host cannot say whether a stream was revoked, it is asked again after 1, 2, 4 ... 30 s while that is open.
    """

    def __init__(self, registry: Registry, revoked: Revoked | None) -> None:
        self._registry = registry
        self._revoked = revoked
        self._lock = threading.Lock()
        self._wakeup = threading.Event()
        self._gaps = self._handled = 0
        self._thread: BackgroundThread | None = None
        self._faults = RateLimitedLog()

    def gap(self) -> None:
        """Report that notices may have been lost; returns at once. Gaps are handled one after the other."""
        with self._lock:
            self._gaps += 1
        self._wakeup.set()
        self.ensure()

    def ensure(self) -> None:
        """Start the thread if a gap waits and none runs; if that fails, the next call tries again."""
        if self._gaps == self._handled:
            return
        with self._lock:
            if self._thread is not None and not self._thread.has_ended:
                return
            try:
                self._thread = BackgroundThread(self._run, "synckit-recovery")
            except RuntimeError as error:
                self._faults.error("thread", "recovery from a gap waits until a thread can be started: %s", error)

    @property
    def is_open(self) -> bool:
        """Return whether a gap waits or is being handled."""
        return self._gaps != self._handled

    def join_idle(self) -> None:
        """Wait for a recovery that is in progress."""
        thread = self._thread
        self._wakeup.set()
        if thread is not None:
            thread.join(2 * SPREAD_SECONDS)

    def _run(self) -> None:
        unchecked: set[Subscriber] = set()
        failures = 0
        while True:
            self._wakeup.clear()
            gaps = self._gaps
            try:
                if gaps != self._handled:
                    self._wake_all()
                    unchecked, failures = self._all_subscribers(), 0
                    self._handled = gaps
                unchecked = self._end_revoked(unchecked)
            except Exception as error:
                self._faults.error(
                    type(error).__name__, "recovery from a gap failed; it is tried again", exc_info=error
                )
            if not unchecked and self._is_over():
                return
            self._wakeup.wait(min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**failures))
            failures = min(failures + 1, 16)

    def _is_over(self) -> bool:
        with self._lock:
            if self._gaps != self._handled:
                return False
            self._thread = None
            return True

    def _wake_all(self) -> None:
        channels = self._registry.snapshot()
        streams = sum(len(subscribers) for _, subscribers in channels)
        steps = 1 if streams <= AT_ONCE else round(SPREAD_SECONDS / STEP_SECONDS)
        for step in range(steps):
            if step:
                time.sleep(STEP_SECONDS)
            for key, _ in channels[step::steps]:
                self._registry.deliver_missed(key)

    def _all_subscribers(self) -> set[Subscriber]:
        return {subscriber for _, subscribers in self._registry.snapshot() for subscriber in subscribers}

    def _end_revoked(self, unchecked: set[Subscriber]) -> set[Subscriber]:
        """End the revoked ones of these streams; return those that the host could not answer for.

        Stops when another gap was reported: after that one, all streams are checked again.
        """
        unknown: set[Subscriber] = set()
        if self._revoked is None:
            return unknown
        for subscriber in unchecked & self._all_subscribers():
            if self._gaps != self._handled:
                break
            try:
                if self._revoked(subscriber):
                    self._registry.end_one(subscriber, EndReason.REVOKED)
            except Exception as error:
                unknown.add(subscriber)
                self._faults.error(
                    "revocation", "streams could not be checked after a gap; they are checked again: %s", error
                )
        return unknown
