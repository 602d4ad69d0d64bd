"""A background thread that exists only while it is needed.

Threads are looked up as `threading.X` at the time of use, so that they are greenlets where gevent has patched.
"""

import threading
from collections.abc import Callable

from .logs import RateLimitedLog

SETTLE_SECONDS = 5.0
"""How long to wait for a thread that is no longer needed; it ends at once unless the machine is busy."""

Action = Callable[[], None]


def _nothing() -> None:
    pass


class Periodic:
    """A daemon thread that calls `work` every `seconds` while it is `needed`, started again on demand.

    `begin` is called before it starts and `finish` after its last work. `pause(seconds)` replaces the sleep, for work
    that comes due by other events than time.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        work: Action,
        needed: Callable[[], bool],
        *,
        begin: Action = _nothing,
        finish: Action = _nothing,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._needed = needed
        self._begin = begin
        self._finish = finish
        self._lock = threading.Lock()
        self._wakeup = threading.Event()
        self._pause = pause or self._wakeup.wait
        self._thread: threading.Thread | None = None
        self._faults = RateLimitedLog()

    @property
    def has_died(self) -> bool:
        """Return whether a BaseException has ended the thread; `ensure` starts it again."""
        thread = self._thread
        return thread is not None and not thread.is_alive()

    def ensure(self) -> None:
        """Start the thread unless it runs. Call it after `needed` has become true, never before.

        Raises RuntimeError if no thread can be started; the next call tries again.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a BaseException may have ended it
                self._wakeup.clear()
                self._begin()
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def wake(self) -> None:
        """Make the thread work now; not for a thread with its own `pause`."""
        self._wakeup.set()

    def join_idle(self) -> None:
        """Make the thread check now whether it is needed, and wait for its end if it is not."""
        thread = self._thread
        self._wakeup.set()
        if thread is not None and not self._needed():
            thread.join(self._seconds + SETTLE_SECONDS)

    def _run(self) -> None:
        while True:
            self._pause(self._seconds)
            self._wakeup.clear()
            if self._over():
                self._finish()
                return
            try:
                self._work()
            except Exception as error:
                kind = type(error).__name__
                self._faults.error(kind, "%s failed; it is tried again", self._name, exc_info=error)

    def _over(self) -> bool:
        with self._lock:
            if self._needed():
                return False
            self._thread = None
            return True
