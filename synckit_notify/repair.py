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

from .channel import ChannelKey, End, Subscriber
from .errors import Refused
from .logs import log
from .registry import Registry

SWEEP_OVERLAP = timedelta(seconds=5)
"""How far each sweep looks back behind the last one: slow commits, and clocks that differ."""

SPREAD_SECONDS = 3.0
"""So long it takes at most until everybody is woken after a gap; the promise is 5 s (contract section 1)."""

AT_ONCE = 500
"""So many streams are woken without a spread: a host takes that many pulls in a breath."""

STEP_SECONDS = 0.1

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
        """Wake every channel that changed since the last sweep unheard; a sweep that fails is made up for."""
        start = self._start()
        try:
            rows = set(self._changed_channels(self._since(start)))
        except Refused:  # the host's database is away, and whoever refuses has written its own log line
            return
        for key, changed_at in rows - self._rows:
            self._registry.deliver_missed(key, changed_at)
        self._rows = {row for row in rows if row[1] is not None}  # without its time, a row may be another change
        self._remember(start)

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


class Repair:
    """Mends gaps in a thread of its own, which lives only as long as one takes; any thread may report one."""

    def __init__(self, registry: Registry, revoked: Revoked | None) -> None:
        self._registry = registry
        self._revoked = revoked
        self._lock = threading.Lock()
        self._due = False
        self._thread: threading.Thread | None = None

    def gap(self) -> None:
        """Notices may have been lost; returns at once. One that comes while another is mended is mended after it."""
        with self._lock:
            self._due = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="synckit-repair", daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Wait for a repair that is under way."""
        thread = self._thread
        if thread is not None:
            thread.join(2 * SPREAD_SECONDS)

    def _run(self) -> None:
        while self._begin():
            try:
                self._wake_all()
                self._end_revoked()
            except Exception:
                log.exception("a gap could not be mended wholly; the sweep goes on")

    def _begin(self) -> bool:
        with self._lock:
            due, self._due = self._due, False
            if not due:
                self._thread = None
            return due

    def _wake_all(self) -> None:
        channels = self._registry.snapshot()
        streams = sum(len(subscribers) for _, subscribers in channels)
        steps = 1 if streams <= AT_ONCE else round(SPREAD_SECONDS / STEP_SECONDS)
        for step in range(steps):
            if step:
                time.sleep(STEP_SECONDS)
            for key, _ in channels[step::steps]:
                self._registry.deliver_missed(key)

    def _end_revoked(self) -> None:
        if self._revoked is None:
            return
        for _, subscribers in self._registry.snapshot():
            for subscriber in subscribers:
                if self._revoked(subscriber):
                    self._registry.end_one(subscriber, End.REVOKED)
