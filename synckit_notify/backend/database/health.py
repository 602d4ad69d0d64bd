"""Database errors that are no fault of this program, and what the log and `/ready` say about them.

    a driver's error ──▶ Trouble (sqlite, postgres) ──▶ Failure (store) ──▶ Health: one log line an interval, `writable`

A Trouble is answered with 503. An error of a driver that is none of these is a bug of ours, and keeps its traceback.
Nothing here holds a lock, so a Health may exist before a fork; a race between two threads only miscounts a line.
"""

import enum
import logging
import time
from collections.abc import Callable

from ...runtime.logs import RateLimitedLog

LOG_SECONDS = 30.0
"""The log gets at most one line of each Trouble in this time."""

TRIAL_SECONDS = 30.0
"""How long the result of a write is good for. After that `/ready` asks for a new one."""

MAX_REASON_LENGTH = 500

log = logging.getLogger(__name__)


class Trouble(enum.Enum):
    """Why a transaction could not be run; the value is the beginning of its log line."""

    AWAY = "the database is away or busy"
    UNWRITABLE = "the database cannot be written, its disk is full or it is read-only"
    WRONG = "the database cannot be used"


class Failure(Exception):
    """A transaction that could not be run, with the words of the driver; for Store alone."""

    def __init__(self, trouble: Trouble, error: object) -> None:
        self.trouble = trouble
        self.words = one_line(error)
        super().__init__(f"{trouble.value}: {self.words}")


class Health:
    """What one process knows about its database. `is_quiet` switches its log lines off."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_quiet = False
        self.is_writable = True
        self._clock = clock
        self._written_at: float | None = None
        self._log = RateLimitedLog(seconds=LOG_SECONDS, logger=log, clock=clock)

    def failed(self, failure: Failure) -> None:
        """Remember a failure, and log it unless the log has a line of its Trouble in this interval."""
        trouble = failure.trouble
        if trouble is Trouble.UNWRITABLE:
            self.is_writable, self._written_at = False, self._clock()
        if not self.is_quiet:
            level = logging.WARNING if trouble is Trouble.AWAY else logging.ERROR
            line = "%s, requests that need it are answered with 503: %s"
            self._log.write(level, trouble, line, trouble.value, failure.words)

    def wrote(self) -> None:
        """Remember that a transaction was written."""
        self.is_writable, self._written_at = True, self._clock()

    def trial_is_due(self) -> bool:
        """Return whether the last write is too old to tell; the caller then tries one, and no other caller does."""
        now = self._clock()
        if self._written_at is not None and now < self._written_at + TRIAL_SECONDS:
            return False
        self._written_at = now
        return True


def one_line(error: object) -> str:
    """Return the words of an error as one line of a bounded length."""
    return " ".join(str(error).split())[:MAX_REASON_LENGTH]
