"""Database errors that are not bugs of this program, and what the log and `/ready` report of them.

    a driver's error ──▶ Trouble (sqlite, postgres) ──▶ Failure (store) ──▶ Health: rate-limited log lines, `writable`

A Trouble is answered with 503. Any other error of a driver is a bug of ours and keeps its traceback. Nothing here holds
a lock, so a Health may exist before a fork.
"""

import enum
import logging
import time
from collections.abc import Callable

from ...runtime.logs import RateLimitedLog

LOG_SECONDS = 30.0
"""Each Trouble is logged at most once in this time."""

TRIAL_SECONDS = 30.0
"""How long the result of the last write is valid. After that `/ready` tries a new write."""

MAX_REASON_CHARACTERS = 500

log = logging.getLogger(__name__)


class Trouble(enum.Enum):
    """Why a transaction could not be run; the value begins its log line."""

    AWAY = "the database is unavailable or busy"
    UNWRITABLE = "the database cannot be written (full disk or read-only)"
    WRONG = "the database cannot be used"


class Failure(Exception):
    """A transaction that could not be run, with the driver's message. Only Store handles it."""

    def __init__(self, trouble: Trouble, error: object) -> None:
        self.trouble = trouble
        self.message = one_line(error)
        super().__init__(f"{trouble.value}: {self.message}")


class Health:
    """What one process knows about its database. `is_quiet` switches the log lines off."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_quiet = False
        self.is_writable = True
        self._clock = clock
        self._written_at: float | None = None
        self._log = RateLimitedLog(seconds=LOG_SECONDS, logger=log, clock=clock)

    def failed(self, failure: Failure) -> None:
        """Remember a failure, and log it at most once in LOG_SECONDS for each Trouble."""
        trouble = failure.trouble
        if trouble is Trouble.UNWRITABLE:
            self.is_writable, self._written_at = False, self._clock()
        if not self.is_quiet:
            level = logging.WARNING if trouble is Trouble.AWAY else logging.ERROR
            line = "%s, requests that need it are answered with 503: %s"
            self._log.write(level, trouble, line, trouble.value, failure.message)

    def wrote(self) -> None:
        """Remember that a transaction was committed."""
        self.is_writable, self._written_at = True, self._clock()

    def trial_is_due(self) -> bool:
        """Return whether the result of the last write is too old. The caller that gets True must try a write."""
        now = self._clock()
        if self._written_at is not None and now < self._written_at + TRIAL_SECONDS:
            return False
        self._written_at = now
        return True


def one_line(error: object) -> str:
    """Return the message of an error as one line of bounded length."""
    return " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
