"""A timer wheel: what is due when, for many entries with deadlines seconds away.

    add(entry, at) ──▶ the slot of its step ──▶ due(now) takes out every slot whose step has passed

Adding costs one append and nothing is ever moved, so ten thousand deadlines cost no more than their own lists.
"""

from collections import defaultdict
from typing import Generic, TypeVar

T = TypeVar("T")


class TimerWheel(Generic[T]):
    """Entries by deadline, in steps of `tick` seconds of the monotonic clock. Not thread-safe: one thread owns it."""

    def __init__(self, tick: float, now: float) -> None:
        self._tick = tick
        self._next = int(now / tick)
        self._slots: defaultdict[int, list[T]] = defaultdict(list)

    def add(self, entry: T, at: float) -> None:
        """Make the entry due in the first step that is not before `at`."""
        self._slots[max(self._next, int(at / self._tick) + 1)].append(entry)

    def due(self, now: float) -> list[T]:
        """Remove and return the entries whose step has passed."""
        self._next = int(now / self._tick) + 1
        steps = sorted(step for step in self._slots if step < self._next)
        return [entry for step in steps for entry in self._slots.pop(step)]
