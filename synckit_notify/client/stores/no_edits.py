"""The store of `follow`: it has no edits, and only its waits are used."""

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

from ..models import BEGINNING, Order, Position, PulledChange
from . import PendingEntry


class NoEdits:
    """A Store without rows."""

    def __init__(self) -> None:
        self.clock_offset = timedelta()
        self._woken = threading.Event()

    def position(self) -> Position:
        """Return the beginning."""
        return BEGINNING

    def apply(self, changes: Sequence[PulledChange], position: Position) -> None:
        """Do nothing."""

    def begin_again(self, *, was_away: bool) -> None:
        """Do nothing."""

    def keep(self, rows: Sequence[tuple[str, str]]) -> None:
        """Do nothing."""

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        """Return nothing."""
        return ()

    def sent(self, versions: Mapping[str, Order]) -> None:
        """Do nothing."""

    def refused(self, version: str, reason: str) -> None:
        """Do nothing."""

    def wait(self, timeout: float) -> bool:
        """Wait for `wake`."""
        self._woken.wait(timeout)
        self._woken.clear()
        return False

    def wake(self) -> None:
        """End the wait."""
        self._woken.set()
