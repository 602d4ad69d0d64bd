"""Sync for an app's own SQLite file: `client.run(SQLiteStore("tasks.db", tables={"tasks": ["title", "done"]}))`.

    the app writes its tables ── triggers ──▶ edits ── pending ──▶ run ── push ──▶ the log
    the app reads its tables ◀── merge ◀── apply ◀── run ◀── pull ── the log

Why all devices end with equal tables, whatever happens in between:
1. Each transaction here is one of SQLite, so a crash leaves a state between two calls. Every call may be repeated.
2. A row's winner is the greatest `(order_at, device_id, seq)` of its changes in the log (see sqlite_merge). It does
   not depend on the order or the number of readings. The position goes with the rows, in one file.
3. An edit is pending until the log has it: its version was sent, or its row, timestamp and data came back. So a file
   or a state that was restored from a copy sends nothing twice, and nothing is lost between an answer and its record.
4. When nothing is pending and the log was read to its end, each row shows its winner. Rows that cannot (clashes,
   orphans) become edits that are the same on all devices (see sqlite_repair).
5. A log that is read from its start shows what was deleted while this device was away; one with another epoch gets
   what it lost again, with its old order (see sqlite_compare).

Why no edit is undone by one that its device knew: its timestamp is at least 1 µs after the `order_at` of all that is
known of the row, and the server receives it later than it received those.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from sqlite3 import Connection, OperationalError

from ..errors import StoreError
from ..models import Order, Position, PulledChange, RefusedChange
from . import PendingEntry
from .sqlite_compare import begin_again, compare, end_again
from .sqlite_connection import Database, OnConnect, errors
from .sqlite_merge import Merge, log
from .sqlite_migrate import prepare
from .sqlite_outbox import BadKey, entries, has_edits, named
from .sqlite_repair import OnOrphan, delete_orphans, resolve_clashes, retry_held
from .sqlite_schema import Table, inspect
from .sqlite_tables import edits_name, layout, make_base
from .sqlite_values import microseconds

POLL_SECONDS = 0.1
"""How often `wait` looks for edits of other connections and processes: one read of the file's header."""

COMPARE_SECONDS = 3600.0
"""How often all rows are compared with what is known of them."""

MIN_OFFSET_CHANGE = timedelta(milliseconds=100)
"""A smaller change of the clock's offset is not written: it is the network's delay."""

OnRefused = Callable[[RefusedChange], object]


class SQLiteStore:
    """Keeps tables of an app's SQLite file in step with the account, for `client.run`.

    `tables` maps each table to the columns to sync; its primary key is always synced, and is the row id. Two edits of
    one row do not mix: the later whole row wins. The store makes tables and triggers whose names begin with "synckit_";
    a migration tool must leave them alone. The app may write with any number of connections and processes, and with any
    settings of theirs. The store has a connection of its own; `on_connect` is called with it, to register functions and
    collations that the tables use.

    Pass `device_made_keys=True` for an INTEGER PRIMARY KEY whose numbers no other device makes. A row whose parent was
    deleted on another device is deleted, unless `on_orphan` decides otherwise. `on_refused` is told of a row whose key
    cannot be sent, and of an edit that is dropped because the row was deleted while this device was away for long.

    Raises StoreError for a database that cannot be synced, ValueError for other bad arguments, and
    sqlite3.OperationalError if the file is busy. Thread-safe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tables: Mapping[str, Sequence[str]],
        *,
        device_made_keys: bool = False,
        on_orphan: OnOrphan | None = None,
        on_refused: OnRefused | None = None,
        on_connect: OnConnect | None = None,
    ) -> None:
        if not tables or any(isinstance(columns, str) for columns in tables.values()):
            raise ValueError('tables must map names of tables to lists of columns, such as {"tasks": ["title"]}')
        if len({name.lower() for name in tables}) != len(tables):
            raise ValueError("tables must name each table once")
        if str(path) == ":memory:":
            raise ValueError("path must be a file: no other connection can see a database in memory")
        self._wanted = {name: tuple(columns) for name, columns in tables.items()}
        self._device_made_keys, self._on_orphan, self._on_refused = device_made_keys, on_orphan, on_refused
        self._database = Database(path, on_connect)
        self._lock = threading.RLock()
        self._woken, self._is_closed = threading.Event(), False
        self._tables: dict[str, Table] = {}
        self._schema_version: int | None = None
        self._compared_at: float | None = None
        self._seen: int | None = None
        self._offset = self._stored_offset = timedelta()
        with self._ready():
            pass

    @property
    def clock_offset(self) -> timedelta:
        """The server's clock minus this device's; it is kept in the file, for the triggers."""
        return self._offset

    @clock_offset.setter
    def clock_offset(self, offset: timedelta) -> None:
        is_new = abs(offset - self._stored_offset) >= MIN_OFFSET_CHANGE
        self._offset = offset
        if is_new:
            with suppress(OperationalError), self._ready(), self._database.write() as connection:
                connection.execute("UPDATE synckit_store SET clock_offset = ?", (offset // timedelta(microseconds=1),))
                self._stored_offset = offset

    def position(self) -> Position:
        """Return the position of the last `apply`; the start, if the log must be read again."""
        with self._ready(), self._database.read() as connection:
            epoch, cursor, is_complete = connection.execute(
                "SELECT epoch, cursor, is_complete FROM synckit_store"
            ).fetchone()
        return Position(epoch, cursor, is_complete=bool(is_complete))

    def apply(self, changes: Sequence[PulledChange], position: Position) -> None:
        """Merge changes into the app's tables and store the position, in one transaction."""
        with self._ready():
            stored = self.position()
            if not changes and position == stored and stored.is_complete:
                return
            if stored.epoch is not None and position.epoch not in (None, stored.epoch):
                self._compare()  # what no trigger recorded must not look like a row of the log
            with self._write() as merge:
                connection = self._database.connection
                if self._is_replaced(connection, position):
                    begin_again(connection, merge, was_away=False)
                merge.apply(changes)
                retry_held(connection, merge)
                self._advance(connection, merge, position)
                lost = self._complete(connection, merge) if position.is_complete else []
        for table, row_id in lost:
            self._report(
                table, row_id, "the row was deleted on the server while this device was away: its edit is dropped"
            )

    def begin_again(self, *, was_away: bool) -> None:
        """Prepare to read the log from its start; after that, rows that it does not have are deleted or sent again."""
        with self._ready():
            self._compare()  # as in `apply`
            with self._write() as merge:
                begin_again(self._database.connection, merge, was_away=was_away)

    def keep(self, rows: Sequence[tuple[str, str]]) -> None:
        """Do not delete these rows while the log is read again: it has changes of them that cannot be read here."""
        with self._ready(), self._write() as merge:
            merge.keep(rows)

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        """Return at most `limit` edits, oldest first; none until the log was read to its end for the first time."""
        bad: list[BadKey] = []
        found: list[PendingEntry] = []
        with self._ready():
            with self._database.read() as connection:
                self._seen = self._database.data_version()
                is_any = has_edits(connection, self._tables.values())
            while is_any and not found:
                with self._write():
                    found, bad_now, is_any = entries(self._database.connection, self._tables.values(), limit)
                bad += bad_now
        for table, key, reason in bad:
            self._report(table, key, reason)
        return found

    def sent(self, versions: Mapping[str, Order]) -> None:
        """Forget these edits; the log has them at these orders."""
        with self._ready(), self._write() as merge:
            for version, order in versions.items():
                found = named(self._tables, version)
                if found is None:
                    continue
                table, key, random, digest = found
                rows = merge.rows[table.name]
                edit = rows.edit(key)
                if edit is not None and edit.version == random:
                    plain = (microseconds(order.order_at), order.device_id, order.seq)
                    merge.settle(rows, key, rows.known(key), plain, digest)
            if merge.must_read_again:
                self._database.connection.execute("UPDATE synckit_store SET cursor = 0")

    def refused(self, version: str, reason: str) -> None:
        """Set an edit aside until its row is edited again."""
        with self._ready(), self._database.write() as connection:
            found = named(self._tables, version)
            if found is not None:
                table, _, random, _ = found
                connection.execute(f"UPDATE {edits_name(table)} SET refused = ? WHERE version = ?", (reason, random))

    def wait(self, timeout: float) -> bool:
        """Wait for edits of any connection or process; return False after `timeout` seconds, and at `wake`.

        The same edits end one wait only.
        """
        until = time.monotonic() + timeout
        while True:
            with suppress(OperationalError):
                if self._may_have_edits():
                    return True
            left = until - time.monotonic()
            if self._is_closed or self._woken.wait(max(0.0, min(left, POLL_SECONDS))) or left <= 0:
                self._woken.clear()
                return False

    def wake(self) -> None:
        """End the `wait` that is in progress, or the next one."""
        self._woken.set()

    def compare(self) -> int:
        """Record edits that no trigger recorded; return their number. It runs by itself at opening and every hour."""
        with self._ready():
            return self._compare()

    def close(self) -> None:
        """Close the store's connection, from any thread; a call that is running is finished first."""
        self._is_closed = True
        self.wake()
        with self._lock:
            self._database.close()

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Have the lock, a connection to the file that is there now, and tables that fit the app's schema."""
        with self._lock, errors(self._database.path):
            if not self._is_closed and self._database.connect():
                self._schema_version, self._tables = None, {}
            if self._tables:
                self._require_layout()
            if self._schema_version != self._database.schema_version():
                self._prepare()
            if self._compared_at is None or time.monotonic() - self._compared_at > COMPARE_SECONDS:
                self._compare()
            yield

    def _prepare(self) -> None:
        with self._database.exclusive() as connection:
            tables = inspect(connection, self._wanted, device_made_keys=self._device_made_keys)
            make_base(connection)
        with self._database.write() as connection:
            prepare(connection, tables)
            schema_version = self._database.schema_version()
            stored = connection.execute("SELECT clock_offset FROM synckit_store").fetchone()[0]
        self._tables, self._schema_version = tables, schema_version
        self._stored_offset = timedelta(microseconds=stored)
        self._offset = self._offset or self._stored_offset
        self._compare()

    def _require_layout(self) -> None:
        """Raise StoreError if another process opened the store with other tables or columns."""
        found = self._database.connection.execute("SELECT layout FROM synckit_store").fetchone()[0]
        if found != layout(self._tables):
            raise StoreError(
                "another process opened this database with other tables or columns: start this one again with the same"
            )

    def _compare(self) -> int:
        connection = self._database.connection
        found = sum(compare(connection, table, self._write) for table in self._tables.values())
        self._compared_at = time.monotonic()
        if found:
            self._seen = None
        return found

    @contextmanager
    def _write(self) -> Iterator[Merge]:
        with self._database.write() as connection:
            yield Merge(connection, self._tables)

    def _is_replaced(self, connection: Connection, position: Position) -> bool:
        epoch: str | None = connection.execute("SELECT epoch FROM synckit_store").fetchone()[0]
        return epoch is not None and position.epoch not in (None, epoch)

    def _advance(self, connection: Connection, merge: Merge, position: Position) -> None:
        related = {table.name for table in self._tables.values() if table.references}
        related |= {reference.parent for table in self._tables.values() for reference in table.references}
        connection.execute(
            "UPDATE synckit_store SET epoch = coalesce(?, epoch), cursor = ?, "
            "check_references = max(check_references, ?)",
            (position.epoch, position.cursor, int(bool(merge.written & related))),
        )

    def _complete(self, connection: Connection, merge: Merge) -> list[tuple[str, str]]:
        """Do what must wait for the end of the log; return the rows that lose an edit."""
        is_restarting, check_references = connection.execute(
            "SELECT is_restarting, check_references FROM synckit_store"
        ).fetchone()
        lost = end_again(connection, merge) if is_restarting else []
        resolve_clashes(connection, merge)
        if check_references or merge.written:
            delete_orphans(connection, merge, self._on_orphan)
        connection.execute("UPDATE synckit_store SET is_complete = 1, check_references = 0")
        return lost

    def _may_have_edits(self) -> bool:
        if not self._lock.acquire(timeout=POLL_SECONDS):
            return False
        try:
            if self._is_closed:
                return False
            with self._ready():
                version = self._database.data_version()
                if version == self._seen:
                    return False
                self._seen = version
                return has_edits(self._database.connection, self._tables.values())
        finally:
            self._lock.release()

    def _report(self, table: str, row_id: str, reason: str) -> None:
        log.warning("a local change was set aside (table %.130r, row %.260r): %s", table, row_id, reason)
        if self._on_refused is not None:
            try:
                self._on_refused(RefusedChange(table, row_id, reason))
            except Exception:
                log.exception("on_refused raised an error")
