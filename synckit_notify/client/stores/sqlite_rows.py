"""One synced table: its rows, what is known of each in the log, and its unsent edits.

    Rows(connection, table, devices) ── content, write, delete ──▶ the app's table
                                     ── known, save, forget ─────▶ synckit_rows_X
                                     ── edit, record, drop_edit ─▶ synckit_edits_X

Statements only; the rules are in sqlite_merge. Every method runs inside a transaction of the caller.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .sqlite_schema import Table, quoted
from .sqlite_tables import CLOCK, edits_name, keys, rows_name
from .sqlite_values import Key, Value, digest, load, to_json

PlainOrder = tuple[int, str, int]
"""An `Order` with its time in microseconds."""


@dataclass(slots=True)
class Known:
    """What is known of a row.

    `order` is that of its winner in the log. `theirs` is that winner's data as JSON, "null" for a deletion, if the
    app's table does not show it: an unsent edit beats it, or the table refuses it. `digest` is that of the app's row
    when it was last in step, None if there was none. `extras` are members without a column. `is_stale` marks a row that
    the log had before it was read again, and has not shown since; `is_unread` one of which it has a change that cannot
    be read here.
    """

    order: PlainOrder | None = None
    digest: bytes | None = None
    extras: str | None = None
    theirs: str | None = None
    is_stale: bool = False
    is_unread: bool = False

    @property
    def is_deletion(self) -> bool:
        """Whether the winner is known to be a deletion, and the app's table shows that."""
        return self.order is not None and self.digest is None and self.theirs is None


@dataclass(frozen=True, slots=True)
class Edit:
    """An unsent edit.

    `must_send` is False until it was handed out: one that changed nothing is dropped until then. `handed` is the digest
    of what was handed out, GONE for a deletion.
    """

    edited_at: int
    version: bytes
    must_send: bool
    handed: bytes | None


GONE = b"gone"
"""The digest of a deletion, where None says that there is no digest."""


class Devices:
    """A number for each device id; made anew for each transaction, because a rollback takes numbers back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ids = dict(connection.execute("SELECT number, id FROM synckit_devices").fetchall())
        self._numbers = {device: number for number, device in self._ids.items()}

    def id(self, number: int) -> str:
        """Return the device with a number."""
        return str(self._ids[number])

    def number(self, device: str) -> int:
        """Return the number of a device."""
        if device not in self._numbers:
            number = self._connection.execute("INSERT INTO synckit_devices (id) VALUES (?)", (device,)).lastrowid
            assert number is not None
            self._ids[number], self._numbers[device] = device, number
        return int(self._numbers[device])


class Rows:
    """One synced table in one transaction."""

    def __init__(self, connection: sqlite3.Connection, table: Table, devices: Devices) -> None:
        self.table = table
        self._connection, self.devices = connection, devices
        app, rows, edits = quoted(table.name), rows_name(table), edits_name(table)
        ours = " AND ".join(f"{key} = ?" for key in keys(table))
        theirs = " AND ".join(f"{quoted(name)} = ? AND {quoted(name)} = ? COLLATE BINARY" for name in table.key)
        columns = ", ".join(map(quoted, table.columns)) or "NULL"
        every = (*keys(table), "order_at", "device", "seq", "digest", "extras", "theirs", "is_stale", "is_unread")
        self._known = f"SELECT {', '.join(every[len(table.key) :])} FROM {rows} WHERE {ours}"
        self._save = f"INSERT OR REPLACE INTO {rows} ({', '.join(every)}) VALUES ({_marks(len(every))})"
        self._forget = f"DELETE FROM {rows} WHERE {ours}"
        self._edit = f"SELECT edited_at, version, must_send, handed FROM {edits} WHERE {ours}"
        self._drop_edit = f"DELETE FROM {edits} WHERE {ours}"
        self._require_sending = f"UPDATE {edits} SET must_send = 1 WHERE {ours}"
        self._record = (
            f"INSERT OR REPLACE INTO {edits} ({', '.join(keys(table))}, edited_at, version, must_send) "
            f"VALUES ({_marks(len(table.key))}, ?, randomblob(16), ?)"
        )
        self._content = f"SELECT {columns} FROM {app} WHERE {theirs}"
        self._local = f"SELECT {', '.join(map(quoted, table.local)) or 'NULL'} FROM {app} WHERE {theirs}"
        self._insert = "INSERT OR {} INTO " + app + " ({}) VALUES ({})"
        settings = ", ".join(f"{quoted(name)} = ?" for name in table.columns)
        self._update = "UPDATE OR {} " + f"{app} SET {settings} WHERE {theirs}"
        self._delete = f"DELETE FROM {app} WHERE {theirs}"

    def known(self, key: Key) -> Known:
        """Return what is known of a row; of one that the log never had, nothing."""
        found = self._connection.execute(self._known, key).fetchone()
        if found is None:
            return Known()
        order_at, device, seq, content, extras, theirs, is_stale, is_unread = found
        order = None if order_at is None else (order_at, self.devices.id(device), seq)
        return Known(order, content, extras, theirs, bool(is_stale), bool(is_unread))

    def save(self, key: Key, known: Known) -> None:
        """Store what is known of a row."""
        at, device, seq = known.order or (None, None, None)
        number = None if device is None else self.devices.number(device)
        rest = (known.digest, known.extras, known.theirs, int(known.is_stale), int(known.is_unread))
        self._connection.execute(self._save, (*key, at, number, seq, *rest))

    def forget(self, key: Key) -> None:
        """Forget a row, and its edit."""
        self._connection.execute(self._forget, key)
        self.drop_edit(key)

    def edit(self, key: Key) -> Edit | None:
        """Return the unsent edit of a row."""
        found = self._connection.execute(self._edit, key).fetchone()
        return None if found is None else Edit(found[0], found[1], bool(found[2]), found[3])

    def record(self, key: Key, at: int, *, must_send: bool) -> Edit:
        """Record an edit with this timestamp, in the place of the one that the row has."""
        self._connection.execute(self._record, (*key, at, int(must_send)))
        found = self.edit(key)
        assert found is not None
        return found

    def record_now(self, key: Key, known: Known) -> Edit:
        """Record an edit that no trigger recorded."""
        now: int = self._connection.execute(f"SELECT {CLOCK}").fetchone()[0]
        return self.record(key, max(now, known.order[0] + 1 if known.order else 0), must_send=False)

    def require_sending(self, key: Key) -> None:
        """Send the edit of a row even if it is reverted now: the log has another value."""
        self._connection.execute(self._require_sending, key)

    def drop_edit(self, key: Key) -> None:
        """Forget the edit of a row."""
        self._connection.execute(self._drop_edit, key)

    def content(self, key: Key) -> tuple[Value, ...] | None:
        """Return the synced columns of a row, or None if the app's table does not have it."""
        found = self._connection.execute(self._content, _twice(key)).fetchone()
        return None if found is None else found[: len(self.table.columns)]

    def digest(self, key: Key) -> bytes | None:
        """Return the digest of a row, or None if the app's table does not have it."""
        content = self.content(key)
        return None if content is None else digest(content)

    def data(self, key: Key, known: Known) -> dict[str, Any] | None:
        """Return a row as it is sent, with the members that have no column here, or None if it was deleted."""
        content = self.content(key)
        return None if content is None else as_data(self.table, content, known.extras)

    def local(self, key: Key) -> dict[str, Value]:
        """Return the columns of a row that are not synced."""
        found = self._connection.execute(self._local, _twice(key)).fetchone() or ()
        return dict(zip(self.table.local, found, strict=False))

    def write(
        self, key: Key, values: Mapping[str, Value], local: Mapping[str, Value] | None = None, *, clash: str = "ABORT"
    ) -> None:
        """Update or insert a row; raises sqlite3.IntegrityError if the app's table refuses it.

        `clash` is the ON CONFLICT clause. `local` are values of columns that are not synced, for a new row.
        """
        if self.table.columns:
            ordered = (values[name] for name in self.table.columns)
            if self._change(self._update.format(clash), (*ordered, *_twice(key))):
                return
        elif self.content(key) is not None:
            return
        row = {**dict(zip(self.table.key, key, strict=True)), **values, **(local or {})}
        sql = self._insert.format(clash, ", ".join(map(quoted, row)), _marks(len(row)))
        self._change(sql, tuple(row.values()))

    def delete(self, key: Key) -> None:
        """Delete a row of the app's table; raises sqlite3.IntegrityError if a trigger of the app refuses it."""
        self._change(self._delete, _twice(key))

    def _change(self, sql: str, values: Sequence[Value]) -> int:
        """Run a statement on the app's table, and return how many rows it changed.

        An expression that fails for these values, such as `json_extract` in an index, is an IntegrityError too.
        """
        try:
            return self._connection.execute(sql, values).rowcount
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            self._connection.execute(f"EXPLAIN {sql}", values)  # fails for any values, if a function is missing, say
            refusal = sqlite3.IntegrityError(str(error))
            refusal.sqlite_errorcode, refusal.sqlite_errorname = error.sqlite_errorcode, error.sqlite_errorname
            raise refusal from error


def as_data(table: Table, content: Sequence[Value], extras: str | None) -> dict[str, Any]:
    """Return the `data` of a change: the columns, and the members that have none."""
    return load(extras) | dict(zip(table.columns, map(to_json, content), strict=True))


def _twice(key: Key) -> Key:
    """Return each value two times: once to find the row by the table's index, once to compare bytes."""
    return tuple(value for value in key for _ in range(2))


def _marks(count: int) -> str:
    return ", ".join("?" * count)
