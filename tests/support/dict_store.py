"""`DictStore`: a Store over dictionaries, as short as the protocol allows; with a file it survives its process.

store.edit("tasks", "1", {"title": "Buy milk"})     an edit of the app, which `run` sends
store.rows()                                        {("tasks", "1"): {"title": "Buy milk"}}
"""

import pickle
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from synckit_notify.client import ChangeEntry, Order, PendingEntry, Position, PulledChange

Key = tuple[str, str]
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Row:
    """What the row holds (None: deleted), and its last known place in the one order."""

    data: Any = None
    order: Order | None = None
    edit: PendingEntry | None = None
    refused: str | None = None
    seen: bool = False


@dataclass
class Content:
    rows: dict[Key, Row] = field(default_factory=dict)
    position: Position = field(default_factory=Position)
    reading_again: bool = False


class DictStore:
    """One device's rows; any thread may edit. `clock` returns the device's time of day in seconds."""

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.clock_offset = timedelta()
        self._file, self._clock = file, clock
        self._lock, self._woken = threading.RLock(), threading.Condition()
        self._edited = self._awake = False
        self._content: Content = pickle.loads(file.read_bytes()) if file and file.exists() else Content()

    def edit(self, table: str, row_id: str, data: Any) -> None:
        """Write a row like an app; None deletes it."""
        with self._lock:
            row = self._content.rows.setdefault((table, row_id), Row())
            at = datetime.fromtimestamp(self._clock(), UTC) + self.clock_offset
            known = [row.order.order_at] if row.order else []
            known += [row.edit.entry.timestamp] if row.edit else []
            at = max([at, *(each + MICROSECOND for each in known)])
            entry = ChangeEntry(table, "DELETE" if data is None else "UPDATE", row_id, at, data)
            row.data, row.edit, row.refused = data, PendingEntry(str(uuid.uuid4()), entry), None
            self._save()
        with self._woken:
            self._edited = True
            self._woken.notify_all()

    def rows(self) -> dict[Key, Any]:
        """Return the rows that are not deleted."""
        with self._lock:
            return {key: row.data for key, row in self._content.rows.items() if row.data is not None}

    def refusals(self) -> dict[Key, str]:
        """Return the reasons of the rows that were set aside."""
        with self._lock:
            return {key: row.refused for key, row in self._content.rows.items() if row.refused is not None}

    def position(self) -> Position:
        return self._content.position

    def apply(self, changes: Sequence[PulledChange], position: Position) -> None:
        with self._lock:
            content = self._content
            for change in changes:
                self._apply(change, content.rows.setdefault((change.table, change.row_id), Row()))
            content.position = position
            if content.reading_again and position.is_complete:
                content.reading_again = False
                gone = [key for key, row in content.rows.items() if not row.seen and row.order is not None]
                for key in gone:
                    del content.rows[key]
            self._save()

    def begin_again(self, *, was_away: bool) -> None:
        with self._lock:
            self._content.reading_again, self._content.position = True, Position()
            for row in self._content.rows.values():
                row.seen = False
            self._save()

    def keep(self, rows: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            for key in rows:
                if key in self._content.rows:
                    self._content.rows[key].seen = True
            self._save()

    def _apply(self, change: PulledChange, row: Row) -> None:
        row.seen = True
        edit = row.edit
        if edit is not None and self._is_that(change, edit.entry):
            row.order, row.edit = max(change.order, row.order or change.order), None
        elif edit is not None and edit.entry.timestamp > change.order_at:
            row.order = max(change.order, row.order or change.order)
        elif row.order is None or change.order >= row.order:
            row.order, row.data, row.edit, row.refused = change.order, change.data, None, None

    @staticmethod
    def _is_that(change: PulledChange, entry: ChangeEntry) -> bool:
        return (change.op, change.timestamp, change.data) == (entry.op, entry.timestamp, entry.data)

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        with self._lock:
            rows = self._content.rows.values()
            edits = [row.edit for row in rows if row.edit is not None and row.refused is None]
            return sorted(edits, key=lambda edit: edit.entry.timestamp)[:limit]

    def sent(self, versions: Mapping[str, Order]) -> None:
        with self._lock:
            for row in self._content.rows.values():
                if row.edit is not None and row.edit.version in versions:
                    row.order, row.edit = versions[row.edit.version], None
            self._save()

    def refused(self, version: str, reason: str) -> None:
        with self._lock:
            for row in self._content.rows.values():
                if row.edit is not None and row.edit.version == version:
                    row.refused = reason
            self._save()

    def wait(self, timeout: float) -> bool:
        with self._woken:
            self._woken.wait_for(lambda: self._edited or self._awake, timeout)
            edited, self._edited, self._awake = self._edited, False, False
            return edited

    def wake(self) -> None:
        with self._woken:
            self._awake = True
            self._woken.notify_all()

    def _save(self) -> None:
        if self._file is not None:
            written = self._file.with_suffix(".new")
            written.write_bytes(pickle.dumps(self._content))
            written.replace(self._file)
