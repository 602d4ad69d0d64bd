"""What is done about notices that were lost: the database is the truth, and a device that is woken pulls.

Sweep   every few seconds: which channels changed without our hearing of it? wake those
Repair  after a gap of the broker: wake everybody, spread when they are many; then ask for each open stream again
        whether it is still welcome, since a revocation may have been lost as well
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import Refused
from ..runtime.logs import RateLimitedLog
from .channel import ChannelKey, EndReason, Subscriber
from .registry import Registry

SWEEP_OVERLAP = timedelta(seconds=5)
"""How far each sweep looks back behind the last one: slow commits, and clocks that differ."""

SPREAD_SECONDS = 3.0
"""Upper bound in seconds for waking every stream after a gap; docs/protocol.md promises 5 s."""

AT_ONCE = 500
"""So many streams are woken without a spread: a host takes that many pulls in a breath."""

STEP_SECONDS = 0.1

FIRST_PAUSE_SECONDS = 1.0
"""Before the host is asked again for a stream that it could not tell about; twice as long each time."""

MAX_PAUSE_SECONDS = 30.0

ChangedChannels = Callable[[datetime], Iterable[tuple[ChannelKey, float | None]]]
Revoked = Callable[[Subscriber], bool]


class _Start(NamedTuple):
    """When a sweep started: by the steady clock, and how far the wall clock was ahead of that one."""

    at: float
    ahead: float


class Sweep:
    """Repairs what a crash, a reload or a broker swallowed: asks the host which channels changed lately.

    The host's times follow the wall clock, which may be stepped by an hour at any moment, either way. So how far a
    sweep looks back is measured by the steady clock, and counted from the lowest of the recent positions of the wall
    clock. A row that the sweep before had too is no news, as its channel was woken then, or was opened later: so a
    clock that was set back wakes nobody at every sweep.
    """

    def __init__(
        self,
        registry: Registry,
        changed_channels: ChangedChannels,
        *,
        clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._changed_channels = changed_channels
        self._clock = clock
        self._steady_clock = steady_clock
        self.begin()

    def begin(self) -> None:
        """Start over: what came before the first stream is pulled when that stream connects."""
        self._starts = deque([self._start()])
        self._rows: set[tuple[ChannelKey, float | None]] = set()

    def run(self) -> None:
        """Wake every channel that changed unheard since the last sweep; one that fails is made up for."""
        start = self._start()
        rows: set[tuple[ChannelKey, float | None]] = set()
        is_whole = True
        try:
            for row in self._changed_channels(self._since(start)):
                rows.add(row)
        except Refused:  # the hook failed, which has its log line already; what it told before counts
            is_whole = False
        for key, changed_at in rows - self._rows:
            self._registry.deliver_missed(key, changed_at)
        timed = {row for row in rows if row[1] is not None}  # without its time, a row may be another change
        if is_whole:
            self._rows = timed
            self._remember(start)
        else:
            self._rows |= timed

    def _start(self) -> _Start:
        now = self._steady_clock()
        return _Start(now, self._clock() - now)

    def _since(self, start: _Start) -> datetime:
        lowest = min(each.ahead for each in (*self._starts, start))
        return datetime.fromtimestamp(self._starts[-1].at + lowest, UTC) - SWEEP_OVERLAP

    def _remember(self, start: _Start) -> None:
        """Keep the starts that lie within the overlap, and the last one before it."""
        self._starts.append(start)
        while self._starts[1].at <= start.at - SWEEP_OVERLAP.total_seconds():
            self._starts.popleft()


class GapRecovery:
    """Mends gaps in a thread of its own, which lives until all is mended; any thread may report one.

    A stream that the host cannot tell about now is asked for again after 1, 2, 4 ... 30 s, for as long as it is open.
    """

    def __init__(self, registry: Registry, revoked: Revoked | None) -> None:
        self._registry = registry
        self._revoked = revoked
        self._lock = threading.Lock()
        self._wakeup = threading.Event()
        self._gaps = self._mended = 0
        self._thread: threading.Thread | None = None
        self._faults = RateLimitedLog()

    def gap(self) -> None:
        """Notices may have been lost; returns at once. One that comes while another is mended is mended after it."""
        with self._lock:
            self._gaps += 1
        self._wakeup.set()
        self.ensure()

    def ensure(self) -> None:
        """Start the thread if a gap is to be mended and none runs; if that fails, the next call tries again."""
        if self._gaps == self._mended:
            return
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._run, name="synckit-repair", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._faults.error("thread", "a gap waits to be mended until a thread can be started: %s", error)
            else:
                self._thread = thread

    def join_idle(self) -> None:
        """Wait for a repair that is under way."""
        thread = self._thread
        self._wakeup.set()
        if thread is not None:
            thread.join(2 * SPREAD_SECONDS)

    def _run(self) -> None:
        unasked: set[Subscriber] = set()
        failures = 0
        while True:
            self._wakeup.clear()
            gaps = self._gaps
            try:
                if gaps != self._mended:
                    self._wake_all()
                    unasked, failures = self._everybody(), 0
                    self._mended = gaps
                unasked = self._end_revoked(unasked)
            except Exception as error:
                self._faults.error(type(error).__name__, "a gap could not be mended; it is tried again", exc_info=error)
            if not unasked and self._is_over():
                return
            self._wakeup.wait(min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**failures))
            failures = min(failures + 1, 16)

    def _is_over(self) -> bool:
        with self._lock:
            if self._gaps != self._mended:
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

    def _everybody(self) -> set[Subscriber]:
        return {subscriber for _, subscribers in self._registry.snapshot() for subscriber in subscribers}

    def _end_revoked(self, unasked: set[Subscriber]) -> set[Subscriber]:
        """End those of these streams that are revoked; return those that the host could not tell about.

        Stops where another gap was reported: that one is waited for, and everybody is asked again after it.
        """
        unknown: set[Subscriber] = set()
        if self._revoked is None:
            return unknown
        for subscriber in unasked & self._everybody():
            if self._gaps != self._mended:
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
