"""The timer of all streams of one application in one process: it wakes those whose deadline has come.

    a channel, when the first of its streams waits for a moment ──┐
    a parked stream, once ────────────────────────────────────────┴──▶ add ──▶ TimerWheel ──▶ turn: the moment has come
                                                                                                      │
           the streams of the channel that wait for this moment, or the parked stream ◀──── due ◀─────┘

So a waiting stream has no timer of its own. For a stream with a greenlet, a keepalive takes 53,000 instructions
instead of 149,000, and an event 53,000 instead of 82,000 (`python -m benchmarks.instructions`, CPython 3.11, gevent
26.9). The thread sleeps until the next moment that has an entry. Where gevent has not patched threads, and after a
failure, it does not run, and streams with threads wait with a timeout of their own. The thread of the parked streams
always turns the wheel too.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..runtime.background import Periodic
from ..runtime.logs import RateLimitedLog
from .timer_wheel import NEVER, TimerWheel
from .wakeups import Wakeable, Wakeups

REST_SECONDS = 1.0
"""The longest sleep, and so how long the thread stays after the last stream."""


class Timed(Protocol):
    """A channel whose streams have threads, or a stream without one."""

    def due(self, now: float, woken: list[Wakeable]) -> float:
        """Wake the threads whose deadline has come, or add the stream itself to `woken`.

        Return when the timer must call again, later than `now`; NEVER if it need not. The caller holds the registry's
        lock.
        """


class Timer:
    """The wheel and its thread.

    Any thread may call any method; the caller of `add_locked` holds the registry's lock. `failed` is called, without
    the lock, when the thread has died or cannot be started: then streams must wait in another way.
    """

    def __init__(
        self,
        lock: threading.Lock,
        wakeups: Wakeups,
        needed: Callable[[], bool],
        failed: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runs = False
        """Whether the thread turns the wheel."""
        self._lock = lock
        self._wakeups = wakeups
        self._failed = failed
        self.clock = clock
        self._wheel: TimerWheel[Timed] = TimerWheel()
        self._event = threading.Event()
        self._wakes_at = 0.0
        self._thread = Periodic("synckit-timer", REST_SECONDS, self._work, needed, pause=self._pause)
        self._has_failed = False
        self._faults = RateLimitedLog()

    def add(self, entry: Timed, moment: float) -> None:
        """Call `entry.due` when this moment has come."""
        with self._lock:
            self.add_locked(entry, moment)

    def add_locked(self, entry: Timed, moment: float) -> None:
        """Do what `add` does; the caller holds the registry's lock."""
        self._wheel.add(entry, moment)
        if moment < self._wakes_at:
            self._event.set()

    def seconds_left(self, limit: float) -> float:
        """Return how long it takes until an entry is due, or `limit` if that is less."""
        with self._lock:
            left = self._wheel.next_due - self.clock()
        return max(0.0, left) if left < limit else limit

    def turn(self) -> None:
        """Call every entry whose moment has come."""
        woken: list[Wakeable] = []
        try:
            with self._lock:
                now = self.clock()
                for entry in self._wheel.due(now):
                    again = entry.due(now, woken)
                    if again != NEVER:
                        self._wheel.add(entry, again)
        finally:
            if woken:
                self._wakeups.wake(woken)

    def ensure(self) -> None:
        """Start the thread unless it runs; if it cannot be started, the next call tries again."""
        try:
            self._thread.ensure()
        except RuntimeError as error:
            self._fail(error)
        else:
            self.runs, self._has_failed = True, False

    def check(self) -> None:
        """Notice that the thread has died. Called by another thread, often."""
        if self.runs and self._thread.has_died:
            self._fail(None)

    def join_idle(self) -> None:
        """Make the thread end now if no stream needs it, and wait for that."""
        self._event.set()
        self._thread.join_idle()

    def _pause(self, seconds: float) -> None:
        with self._lock:
            now = self.clock()
            self._wakes_at = min(self._wheel.next_due, now + seconds)
        self._event.wait(max(0.0, self._wakes_at - now))
        self._event.clear()

    def _work(self) -> None:
        try:
            self.turn()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception | None) -> None:
        if self._has_failed:
            return
        self._has_failed, self.runs = True, False
        line = "the timer of the streams failed; each stream waits with a timeout of its own until it runs again"
        self._faults.error("failed", line, exc_info=error)
        self._failed()
