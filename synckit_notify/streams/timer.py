"""The timer of all streams of one application in one process: it wakes those whose deadline has come.

    a stream begins to wait ──▶ add, if its step is new to its channel ──▶ TimerWheel ──▶ a step has passed
                                                                                             │
            the streams of the channel that wait for this step and no others ◀── due(step) ◀─┘

So a waiting stream has no timer of its own. The thread sleeps until the next step that has an entry. Without this
thread, streams wait with a timeout of their own: where gevent has not patched threads, and while the thread cannot run.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..runtime.background import Periodic
from ..runtime.logs import log
from .timer_wheel import TimerWheel

TICK_SECONDS = 0.02
"""The step of the wheel: how late a keepalive may be."""

REST_SECONDS = 1.0
"""The longest sleep: so long does the thread stay after the last stream."""


class Timed(Protocol):
    """What the timer asks when a step has passed."""

    def due(self, step: int) -> int | None:
        """Wake whatever waits for this step or an earlier one; return the next step to be called, None for none.

        The caller holds the lock of the registry.
        """


class Timer:
    """The wheel and its thread. Any thread may call `ensure` and `check`; the rest needs the lock of the registry.

    `failed` is called, without the lock, when the thread has died: then whoever waits must wait in another way.
    """

    def __init__(
        self,
        lock: threading.Lock,
        failed: Callable[[], object],
        needed: Callable[[], bool],
        *,
        tick: float = TICK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runs = False
        """Whether the thread will call those that wait; else they must wake up by themselves."""
        self._lock = lock
        self._failed = failed
        self._clock = clock
        self._wheel: TimerWheel[Timed] = TimerWheel(tick, clock())
        self._event = threading.Event()
        self._wakes_at = 0.0
        self._thread = Periodic("synckit-timer", REST_SECONDS, self._work, needed, pause=self._pause)

    def step(self, at: float) -> int:
        """Return the step in which a deadline is due."""
        return self._wheel.step(at)

    def add(self, entry: Timed, step: int) -> None:
        """Call `entry.due` when this step has passed."""
        self._wheel.add(entry, step)
        if (self._wheel.next_due or 0.0) < self._wakes_at:
            self._event.set()

    def ensure(self) -> None:
        """Start the thread unless it runs. If it cannot start, streams wait with timeouts of their own."""
        try:
            self._thread.ensure()
            self.runs = True
        except RuntimeError as error:  # no thread can be started now; the next stream tries again
            self._fail(error)

    def check(self) -> None:
        """Notice within a tenth of a second that the thread has died. Called by another thread."""
        if self.runs and self._thread.has_died:
            self._fail(None)

    def join_idle(self) -> None:
        """Make the thread end now if no stream needs it, and wait for that."""
        self._thread.join_idle()

    def _pause(self, seconds: float) -> None:
        with self._lock:
            now, due = self._clock(), self._wheel.next_due
            self._wakes_at = now + seconds if due is None else min(due, now + seconds)
        self._event.wait(max(0.0, self._wakes_at - now))
        self._event.clear()

    def _work(self) -> None:
        try:
            with self._lock:
                for entry in self._wheel.due(self._clock()):
                    again = entry.due(self._wheel.passed)
                    if again is not None:
                        self._wheel.add(entry, again)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception | None) -> None:
        was_running, self.runs = self.runs, False
        if was_running:
            log.error("the timer of the streams failed: each waits with a timeout of its own", exc_info=error)
        self._failed()
