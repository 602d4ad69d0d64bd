"""`PerProcess`: a value that every process makes for itself, for everything that a fork must not share.

Locks, threads, sockets and database connections of a parent process are of no use in its child, or do harm there: two
processes on one connection get each other's answers. Standard library only; server and SDK both use it.
"""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that every process makes at its first use, once.

    A child keeps its parent's value referenced and never uses, closes or finalizes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> T:
        """Return this process's value; raises what `make` raises, and tries again the next time."""
        pid = os.getpid()
        if pid not in self._made:
            with self._locks.setdefault(pid, threading.Lock()):  # its own: an inherited one may be held for ever
                if pid not in self._made:
                    self._made[pid] = self._make()
        return self._made[pid]

    def made(self) -> T | None:
        """Return this process's value if it has been made."""
        return self._made.get(os.getpid())

    def forget(self) -> T | None:
        """Return this process's value if it has been made, and make a new one at the next use."""
        return self._made.pop(os.getpid(), None)
