"""When each device was last seen, to the minute, and up to where it has applied the log.

Pull and push note it in memory, and a thread stores it some seconds later.

    pull, push ──▶ note(device, what is stored) ──▶ older than a minute? ──▶ a dict ──▶ one transaction for many devices

A pull only reads, so it must not wait for the writer nor fail with it; and thousands of devices may reconnect within a
minute. What is lost with a process, or while the database cannot be written, is noted at the device's next request.

The stored `confirmed` may be a minute behind what the device has applied. Here it only rises: the pull of a device that
goes back stores it itself (pulls.py).
"""

import threading
import time
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from ..errors import Refused
from .accounts import KnownDevice, note_seen
from .database.schema import now
from .database.store import Store

PRECISION_MICROSECONDS = 60 * 1_000_000
"""A device is noted again after this time, so there is at most one write a minute for each device in use."""

COLLECTING_SECONDS = 5.0
"""How long devices are collected before they are stored in one transaction."""

MAX_AT_ONCE = 500
"""Devices in one transaction. It takes about 10 ms, during which pushes wait."""

MAX_WAITING = 20_000
"""Devices that wait to be stored. Beyond that a device is noted at its next request."""


class LastSeen:
    """The devices of one application that wait to be stored; each process has its own. Any thread may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, int | None] = {}
        self._is_storing = False

    def note(self, device_id: str, stored: KnownDevice, confirmed: int | None = None) -> None:
        """Note that a device is in use and, for a pull, up to which `seq` it has applied the log, if that is known.

        Nothing is noted if that was stored less than a minute ago.
        """
        if stored.seen_at is not None and now() - stored.seen_at < PRECISION_MICROSECONDS:
            return
        if device_id in self._waiting or len(self._waiting) < MAX_WAITING:
            waiting = self._waiting.get(device_id)
            self._waiting[device_id] = waiting if confirmed is None else confirmed
        if not self._is_storing:
            self._is_storing = True
            try:
                threading.Thread(target=self._store_all, daemon=True).start()
            except RuntimeError:  # no thread can be started now; the next request tries again
                self._is_storing = False

    def _store_all(self) -> None:
        """Store in batches until no device waits. It does no harm if two threads run at once, or none for a while."""
        try:
            time.sleep(COLLECTING_SECONDS)
            while batch := self._take():
                self._store_some(batch)
        finally:
            self._is_storing = False

    def _store_some(self, batch: dict[str, int | None]) -> None:
        if not self._store.is_open():  # the application was closed meanwhile
            return
        with suppress(Refused, SQLAlchemyError):  # pushes report what is wrong with the database
            self._store.write(lambda connection: note_seen(connection, batch, now()))

    def _take(self) -> dict[str, int | None]:
        batch: dict[str, int | None] = {}
        with suppress(KeyError):  # none is left
            while len(batch) < MAX_AT_ONCE:
                device_id, confirmed = self._waiting.popitem()
                batch[device_id] = confirmed
        return batch
