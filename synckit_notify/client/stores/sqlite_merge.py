"""How a change of the log meets a row: the one order decides, also against an edit that was not sent yet.

    change ─┬─ is the edit, come back from the server ─▶ the edit is settled
            ├─ not later than what is known ───────────▶ nothing, or a deletion that the log may have forgotten is sent
            ├─ the edit is later ──────────────────────▶ the row stays; the change is kept as `theirs`
            └─ else ───────────────────────────────────▶ the edit is dropped, the row becomes the change

Invariant: for each row, `Known.order` is the greatest order in the log that this device has read. Its data is what the
table shows, or `theirs`. So whatever is repeated, sent twice or refused, the winner is at hand. An edit gets a
timestamp T after the `order_at` of everything that its device knew of the row. The server receives it later than all of
that, so it becomes the greatest order of the row, unless someone who knew it, or a later clock, wrote another.

The table may refuse a change (UNIQUE, CHECK, NOT NULL, a trigger of the app). Then `theirs` keeps it: it is held. No
method here ends a transaction.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import StoreError
from ..models import PulledChange
from .sqlite_rows import GONE, Devices, Edit, Known, PlainOrder, Rows
from .sqlite_schema import Table
from .sqlite_values import Key, Value, digest, dump, from_json, key_of, microseconds

log = logging.getLogger("synckit_notify.client")

FORGETTING_MICROSECONDS = 86400 * 10**6
"""A log keeps a deletion for so long at least; the included server keeps it for 180 days."""

CLASHES = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"})


class Merge:
    """The synced tables in one transaction.

    `written` are the names of those in which a row was written. `must_read_again` tells that the log must be read again
    from its start.
    """

    def __init__(self, connection: sqlite3.Connection, tables: Mapping[str, Table]) -> None:
        self._connection = connection
        devices = Devices(connection)
        self.rows = {name: Rows(connection, table, devices) for name, table in tables.items()}
        self.written: set[str] = set()
        self.must_read_again = False
        self._is_restarting = False

    def apply(self, changes: Iterable[PulledChange]) -> None:
        """Merge changes in the order of the log; one that is no row is left out, on all devices alike."""
        (self._is_restarting,) = self._connection.execute("SELECT is_restarting FROM synckit_store").fetchone()
        malformed: list[tuple[PulledChange, ValueError]] = []
        for change in changes:
            if (rows := self.rows.get(change.table)) is None:
                continue
            try:
                key = key_of(change.row_id, rows.table.key_types)
                _check(change)
            except ValueError as error:
                malformed.append((change, error))
                continue
            self._merge(rows, key, change)
        if malformed:
            first, reason = malformed[0]
            log.warning(
                "changes that are no rows of this app were left out: %d. "
                "The first is %d (table %.130r, row %.260r): %s",
                *(len(malformed), first.seq, first.table, first.row_id, reason),
            )
            self.keep([(change.table, change.row_id) for change, _ in malformed])

    def keep(self, names: Iterable[tuple[str, str]]) -> None:
        """Note that the log has a change of these rows that cannot be read here."""
        for table, row_id in names:
            if (rows := self.rows.get(table)) is None:
                continue
            try:
                key = key_of(row_id, rows.table.key_types)
            except ValueError:
                continue
            known = rows.known(key)
            if known.is_stale and not known.is_unread:
                known.is_unread = True
                rows.save(key, known)

    def examine(self, rows: Rows, key: Key, known: Known) -> Edit | None:
        """Return the edit of a row: one that no trigger recorded is recorded, one that changed nothing is dropped."""
        edit, content = rows.edit(key), rows.digest(key)
        if edit is None and content != known.digest:
            return rows.record_now(key, known)
        if edit is not None and not edit.must_send and content == known.digest:
            rows.drop_edit(key)
            return None
        return edit

    def show_theirs(self, rows: Rows, key: Key, known: Known, local: Mapping[str, Value] | None = None) -> str | None:
        """Write `theirs` into the app's table; as `show`."""
        assert known.theirs is not None
        return self.show(rows, key, known, json.loads(known.theirs), local)

    def show(
        self,
        rows: Rows,
        key: Key,
        known: Known,
        data: Mapping[str, Any] | None,
        local: Mapping[str, Value] | None = None,
    ) -> str | None:
        """Write a change into the app's table, and save; if the table refuses it, return the error's name.

        `local` are values of columns that are not synced, for a new row.
        """
        refusal = None
        try:
            if data is None:
                rows.delete(key)
            else:
                rows.write(key, values_of(rows.table, data), local)
        except sqlite3.IntegrityError as error:
            if not self._connection.in_transaction:
                raise StoreError(f"a trigger of {rows.table.name} rolled back a synced change: {error}") from error
            refusal, known.theirs = error.sqlite_errorname, dump(data)
            log.info("the table %.130r refuses row %.260r for now: %s", rows.table.name, key, error)
        else:
            known.theirs, known.extras = None, extras_of(rows.table, data)
            self.written.add(rows.table.name)
        known.digest = rows.digest(key)
        rows.save(key, known)
        return refusal

    def settle(self, rows: Rows, key: Key, known: Known, order: PlainOrder, sent: bytes | None) -> None:
        """Forget an edit, since the log has it at this order; `sent` is the digest of what it has."""
        rows.drop_edit(key)
        known.is_stale = False
        if known.order is None or order >= known.order:
            known.order, known.digest, known.theirs = order, sent, None
            known.extras = None if sent is None else known.extras
        elif known.theirs is not None and rows.digest(key) != sent:  # edited again, and no trigger recorded it
            known.digest = sent
            rows.record_now(key, known)
        elif known.theirs is not None:
            self.show_theirs(rows, key, known)
        else:  # only if the server's received_at does not increase: the winner's data is nowhere but in the log
            known.order, known.digest, self.must_read_again = None, sent, True
        rows.save(key, known)

    def _merge(self, rows: Rows, key: Key, change: PulledChange) -> None:
        order = (microseconds(change.order_at), change.device_id, change.seq)
        known = rows.known(key)
        if known.order is not None and order < known.order and rows.edit(key) is None:
            if change.data is not None and known.is_deletion and _is_late(change, known.order):
                rows.record(key, known.order[0], must_send=True)
            return
        edit = self.examine(rows, key, known)
        if edit is not None and edit.edited_at == microseconds(change.timestamp):
            sent = None if change.data is None else digest(tuple(values_of(rows.table, change.data).values()))
            if edit.handed == (sent or GONE) or rows.data(key, known) == change.data:
                self.settle(rows, key, known, order, sent)
                self.examine(rows, key, known)
                return
        if known.order is not None and order <= known.order:
            if order == known.order and change.data is not None and known.theirs is None:
                self._refresh(rows, key, known, change)
            return
        known.order, known.is_stale = order, False
        if edit is not None and edit.edited_at > order[0]:
            known.theirs = dump(change.data)
            rows.require_sending(key)
            if self._is_restarting and change.data is not None:  # the edit was made on top of this change
                known.extras = extras_of(rows.table, change.data)
            rows.save(key, known)
            return
        if edit is not None:
            rows.drop_edit(key)
        self.show(rows, key, known, change.data)

    def _refresh(self, rows: Rows, key: Key, known: Known, change: PulledChange) -> None:
        """Fetch the members without a column again, after a column was removed here."""
        extras = extras_of(rows.table, change.data)
        if extras != known.extras:
            known.extras = extras
            rows.save(key, known)


def values_of(table: Table, data: Mapping[str, object]) -> dict[str, Value]:
    """Return the columns of a row; a member that a device without the column did not send is the default."""
    return {name: from_json(data[name]) if name in data else table.defaults[name] for name in table.columns}


def extras_of(table: Table, data: Mapping[str, object] | None) -> str | None:
    """Return the members that have no column here."""
    extras = {name: value for name, value in (data or {}).items() if name not in table.columns}
    return dump(extras) if extras else None


def latest(edit: Edit | None, known: Known) -> int:
    """Return the time of the last edit of a row, or -1 for none."""
    return max(edit.edited_at if edit else -1, known.order[0] if known.order else -1)


def _is_late(change: PulledChange, deletion: PlainOrder) -> bool:
    """Return whether a change arrived so long after a deletion that the log may have forgotten that.

    It is one of a device that was restored from an old copy. Devices that have forgotten the deletion too would show
    the row, so it is sent again, with its old timestamp.
    """
    return microseconds(change.received_at) - deletion[0] > FORGETTING_MICROSECONDS


def _check(change: PulledChange) -> None:
    if change.op == "DELETE":
        if change.data is not None:
            raise ValueError("a DELETE has no data")
        return
    if not isinstance(change.data, dict):
        raise ValueError("data must be an object")  # noqa: TRY004 - it is not the caller's mistake
    for value in change.data.values():
        from_json(value)
