"""When each device was last seen, to the hour: noted in memory by pull and push, and stored a little later.

    pull, push ──▶ note(device, what is stored) ──▶ due? ──▶ a set ──▶ one thread, one transaction for many devices

A pull only reads, so it must neither wait for the writer nor fail with it; and thousands of devices may come back in
the same minute. What is lost with a process, or while the database takes no writes, is noted at the device's next
request. One per application, in each process.
"""

import os
import threading
import time
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from ..errors import Refused
from .accounts import note_seen
from .database.schema import now
from .database.store import Store

PRECISION_MICROSECONDS = 3600 * 1_000_000
"""A device is noted again after this time: at most one write an hour for each device in use."""

COLLECTING_SECONDS = 1.0
"""How long devices are collected for one transaction."""

MAX_AT_ONCE = 500
"""Devices of one transaction: some ten milliseconds, for which pushes wait."""

MAX_WAITING = 20_000
"""Devices that wait to be stored; more are left to their next request."""


class LastSeen:
    """The devices that wait to be stored; a forked process begins a thread of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: set[str] = set()
        self._storing_pid: int | None = None

    def note(self, device_id: str, stored_at: int | None) -> None:
        """Note that a device is in use, unless what is stored of it says so already."""
        if stored_at is not None and now() - stored_at < PRECISION_MICROSECONDS:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.add(device_id)
        pid = os.getpid()
        if self._storing_pid != pid:
            with suppress(RuntimeError):  # no thread can be started now: at the next request, then
                threading.Thread(target=self._store_all, daemon=True).start()
                self._storing_pid = pid

    def _store_all(self) -> None:
        """Store in batches until none waits. Two threads that run at once, or one too few for a while, do no harm."""
        try:
            time.sleep(COLLECTING_SECONDS)
            while batch := self._take():
                self._store_some(batch)
        finally:
            self._storing_pid = None

    def _store_some(self, batch: list[str]) -> None:
        with suppress(Refused, SQLAlchemyError):  # what is wrong with the database, pushes tell
            self._store.write(lambda connection: note_seen(connection, batch, now()))

    def _take(self) -> list[str]:
        batch: list[str] = []
        with suppress(KeyError):  # none is left
            while len(batch) < MAX_AT_ONCE:
                batch.append(self._waiting.pop())
        return batch
