"""The package's logger, and a limit for lines that clients or lasting faults can cause.

A reconnect storm or a flood of bad tokens must not fill a disk. The next line of a kind says how many were left out.
"""

import logging
import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass

log = logging.getLogger("synckit_notify")

LINES_PER_SECOND = 10
"""For lines that clients cause."""

REPEAT_SECONDS = 60.0
"""How often a fault that lasts is logged again, by default."""

MAX_KINDS = 100
"""How many kinds of line a log remembers. With more, all are forgotten, and logged again."""


class RateLimitedLog:
    """A log that takes each kind of line at most `lines` times in `seconds`; by default, once a minute.

    Any thread may call it. A race only miscounts what was left out.
    """

    def __init__(
        self,
        lines: int = 1,
        seconds: float = REPEAT_SECONDS,
        *,
        logger: logging.Logger = log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines, self._seconds = lines, seconds
        self._logger = logger
        self._clock = clock
        self._periods: dict[Hashable, _Period] = {}

    def info(self, line: str, *values: object) -> None:
        """Write a line at level info; its format string is its kind."""
        self.write(logging.INFO, line, line, *values)

    def error(self, kind: Hashable, line: str, *values: object, exc_info: BaseException | None = None) -> None:
        """Write a line of this kind at level error."""
        self.write(logging.ERROR, kind, line, *values, exc_info=exc_info)

    def write(
        self, level: int, kind: Hashable, line: str, *values: object, exc_info: BaseException | None = None
    ) -> None:
        """Write a line, unless too many of its kind came in this period."""
        if not self._logger.isEnabledFor(level):
            return
        now, period = self._clock(), self._periods.get(kind)
        if period is None or now - period.began_at >= self._seconds:
            if period is None and len(self._periods) >= MAX_KINDS:
                self._periods.clear()
            period = self._periods[kind] = _Period(now, 0 if period is None else period.left_out)
        if period.written >= self._lines:
            period.left_out += 1
            return
        period.written += 1
        more = f" ({period.left_out} more like this since the last line)" if period.left_out else ""
        period.left_out = 0
        try:
            self._logger.log(level, line + more, *values, exc_info=exc_info)
        except Exception:  # a log handler that fails must not fail its caller, such as a stream
            if logging.raiseExceptions:
                traceback.print_exc()


@dataclass(slots=True)
class _Period:
    """What was written and left out of one kind of line since the period began."""

    began_at: float
    left_out: int
    written: int = 0
