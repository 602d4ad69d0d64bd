"""The clock of a FakeServer and of its clients: it can be advanced, and waits for a retry do not take their time."""

import time
from datetime import UTC, datetime, timedelta

from ..models import to_text

WAIT_SECONDS = 0.01
"""How long a wait takes in real time: not nothing, so that a client whose server is offline does not use a core."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FakeClock:
    """The time of day. Thread-safe.

    Without `at` it is the real time, plus what was added. With `at`, a datetime with a time zone, it stands still there
    and moves only when it is advanced.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._fixed = None if at is None else at.timestamp()
        self._added = 0.0

    def time(self) -> float:
        """Return the seconds since 1970, as `time.time` does."""
        return (time.time() if self._fixed is None else self._fixed) + self._added

    def now(self) -> datetime:
        """Return the time as a datetime in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass; a negative number sets the clock back."""
        self._added += seconds

    def wait(self, seconds: float) -> None:
        """Let time pass as a wait for a retry does, without taking so long."""
        self.advance(seconds)
        time.sleep(min(seconds, WAIT_SECONDS))

    def microseconds(self) -> int:
        """Return the whole microseconds since 1970."""
        return round(self.time() * 1_000_000)


def rfc3339(microseconds: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC with six digits."""
    return to_text(_EPOCH + timedelta(microseconds=microseconds))


def instant(moment: datetime, nanoseconds: int) -> int:
    """Return the microseconds since 1970 of a datetime without its fraction, which is added and rounded up."""
    return (moment - _EPOCH) // timedelta(microseconds=1) - -nanoseconds // 1000
