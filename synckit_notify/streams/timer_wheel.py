"""A timer wheel: what is due when, for many entries with deadlines seconds away.

    add(entry, step) ──▶ the slot of its step ──▶ due(now) takes out every slot whose step has passed

Adding costs one append and nothing is ever moved, so ten thousand deadlines cost no more than their own lists.
"""

from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


class TimerWheel(Generic[T]):
    """Entries by deadline, in steps of `tick` seconds of the monotonic clock. Not thread-safe."""

    def __init__(self, tick: float, now: float) -> None:
        self._tick = tick
        self._next = int(now / tick)
        self._steps: list[int] = []
        self._slots: dict[int, list[T]] = {}

    @property
    def next_due(self) -> float | None:
        """Return when the next entry is due, None if there is none."""
        return self._steps[0] * self._tick if self._steps else None

    @property
    def passed(self) -> int:
        """Return the last step that `due` has taken out."""
        return self._next - 1

    def step(self, at: float) -> int:
        """Return the first step that is not before `at`, and has not passed."""
        return max(self._next, int(at / self._tick) + 1)

    def add(self, entry: T, step: int) -> None:
        """Make the entry due in this step, as `step` returned it."""
        slot = self._slots.get(step)
        if slot is None:
            slot = self._slots[step] = []
            heappush(self._steps, step)
        slot.append(entry)

    def due(self, now: float) -> list[T]:
        """Remove and return the entries whose step has passed."""
        self._next = int(now / self._tick) + 1
        entries: list[T] = []
        while self._steps and self._steps[0] < self._next:
            entries += self._slots.pop(heappop(self._steps))
        return entries
