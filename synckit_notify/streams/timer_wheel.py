"""A timer wheel: what is due when, for many entries with deadlines seconds away.

    add(entry, moment) ──▶ the slot of its moment ──▶ due(now) takes out every slot whose moment has come

Adding costs one append and nothing is ever moved, so ten thousand deadlines cost no more than their own lists. Whoever
adds rounds up: entries with the same moment share a slot.
"""

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

NEVER = math.inf
"""The moment that does not come."""


def round_up(at: float, tick: float) -> float:
    """Return a multiple of `tick` seconds at or after `at`, less than two ticks later."""
    return (int(at / tick) + 1) * tick


class TimerWheel(Generic[T]):
    """Entries by moment, in seconds of any clock. Not thread-safe."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._slots: dict[float, list[T]] = {}

    @property
    def next_due(self) -> float:
        """Return the moment of the next entry, NEVER if there is none."""
        return self._moments[0] if self._moments else NEVER

    def add(self, entry: T, moment: float) -> None:
        """Make the entry due at this moment."""
        if moment in self._slots:
            self._slots[moment].append(entry)
        else:
            self._slots[moment] = [entry]
            heappush(self._moments, moment)

    def due(self, now: float) -> Iterator[T]:
        """Remove and yield the entries whose moment has come; what is not asked for stays.

        Entries may be added meanwhile, with a moment after `now`.
        """
        while self._moments and (moment := self._moments[0]) <= now:
            slot = self._slots[moment]
            while slot:
                yield slot.pop()
            del self._slots[heappop(self._moments)]
