"""Our own tables in the app's file, and the triggers that record its edits.

    synckit_store    one row: the position, the clock's offset, whether we are writing
    synckit_tables   the synced tables, with the columns that the digests are made of
    synckit_devices  a number for each device id, so that a row need not repeat 36 characters
    synckit_rows_X   for each row of X that the log has: its order in the log, and the digest of its content
    synckit_edits_X  for each row of X with an edit that was not sent: its timestamp and version

The triggers run inside the app's transactions, with whatever SQLite library the app uses, so they use only SQL of
SQLite 3.8.3. They name key columns alone, so other columns may be altered. They contain no ON CONFLICT clause, because
that of the app's statement would replace it (sqlite.org/lang_createtrigger.html), and a REPLACE would delete what we
know of the row.
"""

import json
import sqlite3
from collections.abc import Mapping

from ..errors import StoreError
from .sqlite_schema import Table, quoted

FORMAT = 1
"""The version of these tables."""

NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000"
"""This device's clock in microseconds since the Unix epoch; SQLite has milliseconds."""

CLOCK = f"({NOW} + (SELECT clock_offset FROM synckit_store))"
"""The server's clock, as far as this device knows it."""

_BASE = (
    f"""CREATE TABLE IF NOT EXISTS synckit_store (
        one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL DEFAULT {FORMAT},
        epoch TEXT, former_epoch TEXT, cursor INTEGER NOT NULL DEFAULT 0, is_complete INTEGER NOT NULL DEFAULT 0,
        is_restarting INTEGER NOT NULL DEFAULT 0, check_references INTEGER NOT NULL DEFAULT 0,
        clock_offset INTEGER NOT NULL DEFAULT 0, is_applying INTEGER NOT NULL DEFAULT 0, layout TEXT)""",
    """CREATE TABLE IF NOT EXISTS synckit_tables (
        name TEXT PRIMARY KEY, columns TEXT NOT NULL, key_types TEXT NOT NULL, is_compared INTEGER NOT NULL DEFAULT 0)
        WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS synckit_devices (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)",
)


_EVENTS = {
    "insert": ("INSERT", "NEW"),
    "update": ("UPDATE", "NEW"),
    "moved": ("UPDATE", "OLD"),
    "delete": ("DELETE", "OLD"),
}
"""The triggers of a table: after which event they record which row. A row whose key changes is two rows."""


def keys(table: Table) -> list[str]:
    """Return the names of the key columns in our tables; they have the types of the app's, but compare bytes."""
    return [f"k{number}" for number in range(1, len(table.key) + 1)]


def rows_name(table: Table) -> str:
    """Return the name of the table of known rows, as SQL has it."""
    return quoted(f"synckit_rows_{table.name}")


def edits_name(table: Table) -> str:
    """Return the name of the table of unsent edits, as SQL has it."""
    return quoted(f"synckit_edits_{table.name}")


def same_key(table: Table, app: str, ours: str) -> str:
    """Return SQL that joins a row of the app's table with one of ours; the first term can use the app's index."""
    pairs = [(f"{app}.{quoted(name)}", f"{ours}.{key}") for name, key in zip(table.key, keys(table), strict=True)]
    return " AND ".join(f"{left} = {right} AND {left} = {right} COLLATE BINARY" for left, right in pairs)


def make_base(connection: sqlite3.Connection) -> None:
    """Create the tables that every store has; raises StoreError for those of a later version."""
    for statement in _BASE:
        connection.execute(statement)
    connection.execute("INSERT INTO synckit_store (one) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM synckit_store)")
    if connection.execute("SELECT format FROM synckit_store").fetchone()[0] > FORMAT:
        raise StoreError("this database was synced by a later version of this SDK: update the SDK")


def make_rows(connection: sqlite3.Connection, table: Table) -> None:
    """Create the two tables of one synced table."""
    pairs = zip(keys(table), table.key_types, strict=True)
    columns = ", ".join(f"{key} {quoted(kind) if kind else ''}" for key, kind in pairs)
    key = ", ".join(keys(table))
    rows, edits = rows_name(table), edits_name(table)
    connection.execute(
        f"CREATE TABLE {rows} ({columns}, order_at INTEGER, device INTEGER, seq INTEGER, digest BLOB, extras TEXT, "
        "theirs TEXT, is_stale INTEGER NOT NULL DEFAULT 0, is_unread INTEGER NOT NULL DEFAULT 0, "
        f"PRIMARY KEY ({key})) WITHOUT ROWID"
    )
    connection.execute(
        f"CREATE TABLE {edits} ({columns}, edited_at INTEGER NOT NULL DEFAULT -1, version BLOB, "
        "must_send INTEGER NOT NULL DEFAULT 0, of_restart INTEGER NOT NULL DEFAULT 0, handed BLOB, refused TEXT, "
        f"PRIMARY KEY ({key})) WITHOUT ROWID"
    )
    held, oldest = (quoted(f"synckit_{name}_{table.name}") for name in ("theirs", "oldest"))
    connection.execute(f"CREATE INDEX {held} ON {rows} ({key}) WHERE theirs IS NOT NULL")
    connection.execute(f"CREATE INDEX {oldest} ON {edits} (edited_at)")


def drop_rows(connection: sqlite3.Connection, name: str) -> None:
    """Forget everything about one table."""
    drop_triggers(connection, name)
    for kind in "rows", "edits":
        connection.execute(f"DROP TABLE IF EXISTS {quoted(f'synckit_{kind}_{name}')}")
    connection.execute("DELETE FROM synckit_tables WHERE name = ?", (name,))


def make_triggers(connection: sqlite3.Connection, table: Table) -> None:
    """Create the triggers that are missing or differ; a table that was created again has none."""
    found = connection.execute("SELECT name, lower(tbl_name), sql FROM sqlite_master WHERE type = 'trigger'")
    existing = {name: (on, sql) for name, on, sql in found}
    for name, sql in _triggers(table).items():
        if existing.get(name) == (table.name.lower(), sql):
            continue
        connection.execute(f"DROP TRIGGER IF EXISTS {quoted(name)}")
        connection.execute(sql)


def drop_triggers(connection: sqlite3.Connection, name: str) -> None:
    """Stop recording edits of one table."""
    for kind in _EVENTS:
        connection.execute(f"DROP TRIGGER IF EXISTS {quoted(f'synckit_{kind}_{name}')}")


def layout(tables: Mapping[str, Table]) -> str:
    """Return what all processes that use a file must agree on."""
    return json.dumps({name: table.columns for name, table in sorted(tables.items())})


def save_columns(connection: sqlite3.Connection, table: Table) -> None:
    """Note what the digests are made of."""
    connection.execute(
        "INSERT OR IGNORE INTO synckit_tables (name, columns, key_types) VALUES (?, '', '')", [table.name]
    )
    connection.execute(
        "UPDATE synckit_tables SET columns = ?, key_types = ? WHERE name = ?",
        (json.dumps(table.columns), json.dumps(table.key_types), table.name),
    )


def _triggers(table: Table) -> dict[str, str]:
    moved = " OR ".join(f"OLD.{quoted(name)} IS NOT NEW.{quoted(name)} COLLATE BINARY" for name in table.key)
    conditions = {"moved": f" AND ({moved})"}
    return {
        (name := f"synckit_{kind}_{table.name}"): (
            f"CREATE TRIGGER {quoted(name)} AFTER {event} ON {quoted(table.name)} "
            f"WHEN (SELECT is_applying FROM synckit_store) = 0{conditions.get(kind, '')} "
            f"BEGIN {_record(table, row)} END"
        )
        for kind, (event, row) in _EVENTS.items()
    }


def _record(table: Table, row: str) -> str:
    """Return the statements that record an edit; its timestamp is later than whatever this device knows of the row."""
    rows, edits = rows_name(table), edits_name(table)
    values = [f"{row}.{quoted(name)}" for name in table.key]
    here = " AND ".join(f"{key} = {value}" for key, value in zip(keys(table), values, strict=True))
    return (
        f"INSERT INTO {edits} ({', '.join(keys(table))}) SELECT {', '.join(values)} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {edits} WHERE {here}); "
        f"UPDATE {edits} SET edited_at = max(edited_at + 1, {CLOCK}, "
        f"coalesce((SELECT order_at + 1 FROM {rows} WHERE {here}), 0)), "
        f"version = randomblob(16), refused = NULL, of_restart = 0 WHERE {here};"
    )
