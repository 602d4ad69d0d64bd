"""A background thread that exists only while it is needed.

Threads are looked up as `threading.X` at the time of use, so that they are greenlets where gevent has patched.
"""

import os
import threading
from collections.abc import Callable

from .logs import RateLimitedLog

SETTLE_SECONDS = 5.0
"""How long to wait for a thread that is no longer needed; it ends at once unless the machine is busy."""

Action = Callable[[], None]


def _nothing() -> None:
    pass


class BackgroundThread:
    """A daemon thread of this process, started at once, that knows whether it has ended.

    `Thread.is_alive` of Python 3.11 and 3.12 tries a lock, and gevent then lets all other greenlets run first: half a
    second in a worker that clients keep busy, during which the caller keeps its locks. Raises RuntimeError if no
    thread can be started.
    """

    def __init__(self, run: Action, name: str) -> None:
        self._run = run
        self._pid = os.getpid()
        self._ended = False
        self._thread = threading.Thread(target=self._run_to_the_end, name=name, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Return whether the thread has returned or was ended by an error, or belongs to the parent process."""
        return self._ended or self._pid != os.getpid()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, for `timeout` seconds at most."""
        self._thread.join(timeout)

    def _run_to_the_end(self) -> None:
        try:
            self._run()
        finally:
            self._ended = True


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
        self._thread: BackgroundThread | None = None
        self._faults = RateLimitedLog()

    @property
    def has_died(self) -> bool:
        """Return whether a BaseException has ended the thread; `ensure` starts it again."""
        thread = self._thread
        return thread is not None and thread.has_ended

    def ensure(self) -> None:
        """Start the thread unless it runs. Call it after `needed` has become true, never before.

        Raises RuntimeError if no thread can be started; the next call tries again.
        """
        with self._lock:
            if self._thread is None or self._thread.has_ended:  # by a BaseException
                self._wakeup.clear()
                self._begin()
                self._thread = BackgroundThread(self._run, self._name)

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
