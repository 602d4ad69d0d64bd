"""The edits of a store on their way to the server, for `run`.

    store.pending ──▶ sealed, a batch of the queue ──▶ sent ──▶ store.sent
                  └─────────────────┴──▶ refused: store.refused, and the rest goes on

A batch is written into the queue before it is sent, so a process that dies and starts again repeats the same `push_id`.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from .conflicts import ReadAgain
from .errors import ServerError
from .models import RefusedChange
from .queue import Batch, SealedEdit
from .sender import Sender
from .serialization import MAX_BATCH_BYTES, MAX_CHANGES, Keys, seal
from .session import Session
from .state import State
from .stores import Store

REFUSING = frozenset({413, 422})
"""Statuses by which a server refuses a batch for its content; it then stores nothing of it."""

_INDEX = re.compile(r"changes\[(\d+)\]")
"""How the server names the change that it refuses, at the beginning of its message."""

MAX_CLOCK_ERROR_SECONDS = 0.5
"""A smaller error of a clock is not corrected: a store may write each correction."""

MAX_OFFSET_SECONDS = 100 * 365 * 86400.0
"""Upper bound of a correction; a device without a clock of its own starts in 1970."""

OnRefused = Callable[[RefusedChange], object]

log = logging.getLogger("synckit_notify.client")


class Parts(NamedTuple):
    """The parts of a client that `run` uses."""

    session: Session
    state: State
    keys: Keys
    sender: Sender


class Outbox:
    """Sends the edits of a store; `sending` is called with the number of changes before each batch."""

    def __init__(
        self,
        parts: Parts,
        store: Store,
        sending: Callable[[int], object],
        on_refused: OnRefused | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._state, self._keys, self._sender = parts
        self._store, self._sending, self._on_refused, self._wall_clock = store, sending, on_refused, wall_clock
        self._limit = MAX_CHANGES
        self._handled: set[str] = set()

    def send_all(self, is_closed: Callable[[], bool]) -> bool:
        """Send the queue and all edits of the store, until `is_closed`; return whether the store set its position back.

        Raises ReadAgain if the log must be read first, and what the session raises.
        """
        went_back = False
        while not is_closed():
            for answered in self._state.queue.answered():
                before = self._store.position().cursor
                self._store.sent(answered.orders)
                went_back |= self._store.position().cursor < before
                self._handled.update(answered.orders)
                self._state.queue.forget(answered.push_id)
            batch = self._state.queue.next()
            if batch is not None:
                self._send(batch)
            elif not self._queue_edits():
                break
        return went_back

    def _send(self, batch: Batch) -> None:
        self._sending(len(batch.changes))
        began = self._wall_clock()
        try:
            server_time = self._sender.send(batch)
        except ServerError as error:
            if error.status in REFUSING:
                self._take_back(batch, error)
                return
            again = ReadAgain.asked_by(error)
            if again is not None:
                raise again from error
            if error.status == 409 and batch.versions:  # the store still has the edits; they get another push_id
                self._state.queue.drop(batch.push_id)
            raise
        if server_time is not None:
            found = server_time.timestamp()
            correct_clock(self._store, found - min(max(found, began), self._wall_clock()))

    def _take_back(self, batch: Batch, error: ServerError) -> None:
        """Set aside the change that the server refuses, or make smaller batches until it is found."""
        named = _INDEX.match(str(error))
        index = int(named[1]) if named else len(batch.changes)
        if len(batch.changes) == 1:
            index = 0
        if index < len(batch.changes):
            self._state.queue.take_out(batch, index)
            self._refuse(batch.versions[index] if batch.versions else None, batch.changes[index], str(error))
            self._limit = MAX_CHANGES
        elif batch.versions:
            self._state.queue.drop(batch.push_id)
            self._limit = max(1, len(batch.changes) // 2)
        else:
            self._state.queue.split(batch)

    def _queue_edits(self) -> bool:
        """Move edits of the store into the queue; return whether there may be more to do."""
        pending = self._store.pending(self._limit)
        self._handled &= {edit.version for edit in pending}
        edits: list[SealedEdit] = []
        size, refused = 0, False
        for edit in pending:
            if edit.version in self._handled:
                continue
            try:
                text = seal(edit.entry, self._keys.codec(), self._session.account())
            except ValueError as error:
                change = {"table": edit.entry.table, "row_id": edit.entry.row_id}
                self._refuse(edit.version, change, str(error))
                refused = True
                continue
            if edits and size + len(text) > MAX_BATCH_BYTES:
                break
            edits.append(SealedEdit(edit.version, edit.entry.timestamp, text))
            size += len(text)
        return self._state.queue.add_edits(edits) if edits else refused

    def _refuse(self, version: str | None, change: Mapping[str, Any], reason: str) -> None:
        refused = RefusedChange(str(change.get("table")), str(change.get("row_id")), reason)
        log.warning(
            "a local change was set aside (table %.130r, row %.260r): %s", refused.table, refused.row_id, reason
        )
        if version is not None:
            self._store.refused(version, reason)
            self._handled.add(version)
        if self._on_refused is not None:
            try:
                self._on_refused(refused)
            except Exception:
                log.exception("on_refused raised an error")


def correct_clock(store: Store, seconds: float) -> None:
    """Set the store's `clock_offset` if it is wrong; a time that no server can mean is ignored."""
    wrong = abs(seconds - store.clock_offset.total_seconds())
    if wrong > MAX_CLOCK_ERROR_SECONDS and abs(seconds) < MAX_OFFSET_SECONDS:
        store.clock_offset = timedelta(seconds=seconds)
