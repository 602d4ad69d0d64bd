"""The streams that have something to say and that no thread of their own waits for.

    registry: a push, an end ──┐
    timer: a deadline ─────────┼──▶ wake ──▶ [due] ──▶ wait returns ──▶ take ──▶ whoever writes for these streams
    peers: room in the socket ─┘

A registry owns one. It stays empty while every stream has a thread that waits for its channel's Condition.
"""

import threading
from typing import Protocol


class Wakeable(Protocol):
    """A stream, as far as somebody who wakes it must know it."""

    def needs_poll(self, now: float) -> bool:
        """Return whether it has something to say."""


class Wakeups:
    """The queue of due streams and the event that tells of it. Any thread may wake; one thread takes."""

    def __init__(self) -> None:
        self._due: list[Wakeable] = []
        self._event = threading.Event()

    def wake(self, streams: list[Wakeable]) -> None:
        """Make these due. Called under the registry's lock too, so it only remembers them and sets the event."""
        self._due.extend(streams)
        self._event.set()

    def take(self) -> list[Wakeable]:
        """Remove and return the due streams, in order; one may be there several times."""
        self._event.clear()  # first: whoever wakes now sets it again
        due = self._due[:]
        del self._due[: len(due)]  # not a new list: another thread may be about to extend this one
        return due

    def wait(self, seconds: float) -> None:
        """Sleep until a stream is due, for `seconds` at most."""
        self._event.wait(seconds)
