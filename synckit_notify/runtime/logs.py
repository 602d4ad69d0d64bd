"""The package's logger, and limits for lines that clients or lasting faults can cause.

A reconnect storm or a flood of bad tokens must not fill a disk. The next line says how many were left out.
"""

import logging
import time
import traceback
from collections.abc import Callable, Hashable

log = logging.getLogger("synckit_notify")

LINES_PER_SECOND = 10

REPEAT_SECONDS = 60.0
"""A fault that lasts is logged again after this time."""

MAX_FAULTS = 100
"""Kinds of fault that are remembered; with more, all are forgotten and may be logged again."""


class RateLimitedLog:
    """Writes the lines of one kind at level INFO; any thread may call it. A race only miscounts what was left out."""

    def __init__(self, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._second = 0
        self._written = 0
        self._left_out = 0

    def info(self, line: str, *values: object) -> None:
        """Write a line, unless too many of its kind were written within this second."""
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
        except Exception:  # an error of a log handler must not end a stream
            if logging.raiseExceptions:
                traceback.print_exc()


class FaultLog:
    """Writes each kind of fault once, and again once per minute at most while it lasts; any thread may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def error(self, fault: Hashable, line: str, *values: object, exc_info: BaseException | None = None) -> None:
        """Write a line at level ERROR, unless this fault was logged within the last minute."""
        now = self._clock()
        if now - self._told_at.get(fault, -REPEAT_SECONDS) < REPEAT_SECONDS:
            self._left_out[fault] = self._left_out.get(fault, 0) + 1
            return
        if len(self._told_at) >= MAX_FAULTS:
            self._told_at.clear()
            self._left_out.clear()
        self._told_at[fault] = now
        left_out = self._left_out.pop(fault, 0)
        more = f" ({left_out} times more since the last line)" if left_out else ""
        log.error(line + more, *values, exc_info=exc_info)
