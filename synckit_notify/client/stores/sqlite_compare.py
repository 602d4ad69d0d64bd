"""What the triggers did not record, and a log that is read again.

The triggers are the fast way; the comparison is the truth. It finds edits of a writer without our triggers, rows that a
REPLACE deleted, and rows of a table that a migration created again.

When the log is read again from its start, what this device knows of it becomes an edit with the timestamp of its order.
So all rules stay the same: the same change comes back and settles it; an older one loses to it, and the edit is sent
again, since a server that was restored from a backup lost it. What the log does not have is decided at its end:

    the same log, or this device was away   the row was deleted, and the log forgot the deletion: it is deleted here
    another epoch                           the server was restored from a backup: the row is sent again
    a change that cannot be read here       the row stays, and is not sent
"""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager

from .sqlite_merge import Merge
from .sqlite_rows import Known
from .sqlite_schema import Table, quoted
from .sqlite_tables import edits_name, keys, rows_name, same_key
from .sqlite_values import Key, digest, row_id_of

CHUNK_ROWS = 1000
"""Rows in one transaction of a comparison, so that the app need not wait: about 10 ms."""


def compare(connection: sqlite3.Connection, table: Table, write: Callable[[], AbstractContextManager[Merge]]) -> int:
    """Record the edits of a table that no trigger recorded; return their number.

    It reads in short transactions and takes the write lock only for what differs, which is then examined again.
    """
    if not connection.execute("SELECT is_compared FROM synckit_tables WHERE name = ?", (table.name,)).fetchone()[0]:
        with write():
            return _record_existing(connection, table)
    found = 0
    for differing in _chunks(connection, table):
        if differing:
            with write() as merge:
                rows = merge.rows[table.name]
                found += sum(merge.examine(rows, key, rows.known(key)) is not None for key in differing)
    return found


def begin_again(connection: sqlite3.Connection, merge: Merge, *, was_away: bool) -> None:
    """Prepare to read the log from its start.

    The epoch of before is kept for `end_again`; NULL if this device was away, which is decided by the first call.
    """
    for rows in merge.rows.values():
        table = rows.table
        key, ours, edits = ", ".join(keys(table)), rows_name(table), edits_name(table)
        here = " AND ".join(f"e.{name} = r.{name}" for name in keys(table))
        is_edited = f"EXISTS (SELECT 1 FROM {edits} e WHERE {here})"
        connection.execute(f"UPDATE {edits} AS e SET must_send = 1 WHERE EXISTS (SELECT 1 FROM {ours} r WHERE {here})")
        connection.execute(
            f"INSERT INTO {edits} ({key}, edited_at, version, must_send, of_restart) "
            f"SELECT {key}, order_at, randomblob(16), 1, 1 FROM {ours} AS r "
            f"WHERE order_at IS NOT NULL AND theirs IS NULL AND NOT {is_edited}"
        )
        connection.execute(
            f"UPDATE {ours} SET order_at = NULL, device = NULL, seq = NULL, theirs = NULL, is_stale = 1, is_unread = 0"
        )
    connection.execute(
        "UPDATE synckit_store SET former_epoch = CASE WHEN is_restarting THEN former_epoch WHEN ? THEN NULL "
        "ELSE epoch END, epoch = NULL, cursor = 0, is_complete = 0, is_restarting = 1",
        [was_away],
    )


def end_again(connection: sqlite3.Connection, merge: Merge) -> list[tuple[str, str]]:
    """Delete the rows that the log, read to its end, does not have; return those that lose an edit.

    In a log with another epoch they are lost, not deleted, unless this device was away: then the backup is younger than
    all that it knows of the log.
    """
    is_replaced = connection.execute(
        "SELECT former_epoch IS NOT NULL AND epoch IS NOT former_epoch FROM synckit_store"
    ).fetchone()[0]
    lost = []
    for rows in merge.rows.values():
        table = rows.table
        (_keep_all if is_replaced else _keep_unread)(connection, table)
        key, edits = ", ".join(keys(table)), edits_name(table)
        for gone in connection.execute(f"SELECT {key} FROM {rows_name(table)} WHERE is_stale").fetchall():
            here = " AND ".join(f"{name} = ?" for name in keys(table))
            edit = connection.execute(f"SELECT of_restart FROM {edits} WHERE {here}", gone).fetchone()
            if edit == (0,) and rows.content(gone) is not None:
                lost.append((table.name, row_id_of(gone, table.key_types)))
            rows.forget(gone)
            try:
                rows.delete(gone)
                merge.written.add(table.name)
            except sqlite3.IntegrityError:  # a trigger of the app forbids it: the row stays, and is not sent
                rows.save(gone, Known(digest=rows.digest(gone)))
        connection.execute(f"UPDATE {edits} SET of_restart = 0 WHERE of_restart")
    connection.execute("UPDATE synckit_store SET is_restarting = 0")
    return lost


def _keep_all(connection: sqlite3.Connection, table: Table) -> None:
    """Let no row count as gone; one that was held is sent as the app's table has it, with the lowest time."""
    key, ours, edits = ", ".join(keys(table)), rows_name(table), edits_name(table)
    here = " AND ".join(f"e.{name} = r.{name}" for name in keys(table))
    connection.execute(
        f"INSERT INTO {edits} ({key}, edited_at, version, must_send) SELECT {key}, 0, randomblob(16), 1 "
        f"FROM {ours} AS r WHERE is_stale AND digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {edits} e WHERE {here})"
    )
    connection.execute(f"UPDATE {ours} SET is_stale = 0, is_unread = 0 WHERE is_stale")


def _keep_unread(connection: sqlite3.Connection, table: Table) -> None:
    """Leave the rows as they are of which the log has a change that cannot be read here."""
    ours, edits = rows_name(table), edits_name(table)
    here = " AND ".join(f"r.{name} = {edits}.{name}" for name in keys(table))
    connection.execute(
        f"DELETE FROM {edits} WHERE of_restart "
        f"AND EXISTS (SELECT 1 FROM {ours} r WHERE {here} AND is_stale AND is_unread)"
    )
    connection.execute(f"UPDATE {ours} SET is_stale = 0 WHERE is_unread")
    connection.execute(f"UPDATE {ours} SET is_unread = 0 WHERE is_unread")


def _record_existing(connection: sqlite3.Connection, table: Table) -> int:
    """Record the rows that were there before the store, with the lowest time: what the account has wins."""
    key, edits = ", ".join(keys(table)), edits_name(table)
    columns = ", ".join(f"t.{quoted(name)}" for name in table.key)
    found = connection.execute(
        f"INSERT INTO {edits} ({key}, edited_at, version) SELECT {columns}, 0, randomblob(16) "
        f"FROM {quoted(table.name)} t WHERE NOT EXISTS (SELECT 1 FROM {edits} e WHERE {same_key(table, 't', 'e')}) "
        f"AND NOT EXISTS (SELECT 1 FROM {rows_name(table)} r WHERE {same_key(table, 't', 'r')})"
    ).rowcount
    connection.execute("UPDATE synckit_tables SET is_compared = 1 WHERE name = ?", (table.name,))
    return found


def _chunks(connection: sqlite3.Connection, table: Table) -> list[list[Key]]:
    """Return the keys that differ, in lists: changed and new rows, then those that are gone."""
    found, last, count = [], None, len(table.key)
    key = ", ".join(f"t.{quoted(name)}" for name in table.key)
    columns = ", ".join(f"t.{quoted(name)}" for name in table.columns) or "NULL"
    select = (
        f"SELECT {key}, r.digest, {columns} FROM {quoted(table.name)} t "
        f"LEFT JOIN {rows_name(table)} r ON {same_key(table, 't', 'r')} WHERE {{}} "
        f"AND NOT EXISTS (SELECT 1 FROM {edits_name(table)} e WHERE {same_key(table, 't', 'e')}) "
        f"ORDER BY {key} LIMIT {CHUNK_ROWS}"
    )
    after = f"({key}) > ({', '.join('?' * count)})"
    while True:
        chunk = connection.execute(select.format(after if last else "1"), last or ()).fetchall()
        rows = [row for row in chunk if _is_storable(row[:count])]
        end = count + 1 + len(table.columns)
        found.append([row[:count] for row in rows if digest(row[count + 1 : end]) != row[count]])
        if not rows or len(chunk) < CHUNK_ROWS:
            break
        last = rows[-1][:count]
    here = same_key(table, "t", "r")
    edited = " AND ".join(f"e.{name} = r.{name}" for name in keys(table))
    gone = connection.execute(
        f"SELECT {', '.join(keys(table))} FROM {rows_name(table)} r WHERE digest IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {quoted(table.name)} t WHERE {here}) "
        f"AND NOT EXISTS (SELECT 1 FROM {edits_name(table)} e WHERE {edited})"
    ).fetchall()
    return [*found, *(gone[at : at + CHUNK_ROWS] for at in range(0, len(gone), CHUNK_ROWS))]


def _is_storable(key: Key) -> bool:
    """Return whether a key is UTF-8 and so can be a row id; the others are not synced."""
    try:
        for value in key:
            str(value).encode()
    except UnicodeEncodeError:
        return False
    return True
