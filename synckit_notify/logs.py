"""The package's log, and lines that clients can cause: those come at most so many a second.

A reconnect storm or a flood of bad tokens must not fill a disk. What is left out is told with the next line.
"""

import logging
import time
import traceback
from collections.abc import Callable

log = logging.getLogger("synckit_notify")

LINES_PER_SECOND = 10


class SparingLog:
    """Writes the lines of one kind at level info; any thread may call it, a race only miscounts what was left out."""

    def __init__(self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._second = 0
        self._written = 0
        self._left_out = 0

    def info(self, line: str, *values: object) -> None:
        """Write a line, unless too many of its kind came within this second."""
        if not log.isEnabledFor(logging.INFO):
            return
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        self._written += 1
        if self._written > self._per_second:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        try:
            log.info(line + (f" ({left_out} lines like this were left out)" if left_out else ""), *values)
        except Exception:  # a handler's fault must not become that of a stream
            if logging.raiseExceptions:
                traceback.print_exc()
