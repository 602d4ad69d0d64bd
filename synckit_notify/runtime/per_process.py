"""`PerProcess`: a value that each process makes for itself, for everything that must not be shared by a fork.

Locks, threads, sockets and database connections of a parent process are useless or harmful in its child: two processes
on one connection get each other's answers. Standard library only; the server and the SDK both use it.
"""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process makes once, at its first use. Thread-safe.

    A child keeps a reference to its parent's value and never uses, closes or finalizes it.
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
