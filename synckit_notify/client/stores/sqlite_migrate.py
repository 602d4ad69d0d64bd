"""Our tables follow the app's: made at first, changed when the app's schema or the list of columns changes.

A column that came is filled from the members that were kept for it. Where a migration gave it another value than that
and than its default, the row becomes an edit, one microsecond after the row's order: all devices that migrate make the
same one. A column that went is fetched from the log, which is read again, so that edits made here do not lose it.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .sqlite_merge import Merge
from .sqlite_rows import Rows
from .sqlite_schema import Table, quoted
from .sqlite_tables import (
    drop_rows,
    drop_triggers,
    edits_name,
    keys,
    layout,
    make_rows,
    make_triggers,
    rows_name,
    save_columns,
)
from .sqlite_values import Key, digest, dump, from_json, load, to_json

NEVER = b""
"""A digest that no row has."""

_READ_AGAIN = "UPDATE synckit_store SET cursor = 0, is_complete = 0"


def prepare(connection: sqlite3.Connection, tables: Mapping[str, Table]) -> None:
    """Make our tables fit the app's, in the transaction of the caller."""
    saved = {
        name: (json.loads(columns), json.loads(types))
        for name, columns, types in connection.execute("SELECT name, columns, key_types FROM synckit_tables")
    }
    for name in saved.keys() - tables.keys():
        drop_rows(connection, name)
    for table in tables.values():
        columns, types = saved.get(table.name, (None, ()))
        if len(types) != len(table.key):
            drop_rows(connection, table.name)
            make_rows(connection, table)
            connection.execute(_READ_AGAIN)
        elif tuple(types) != table.key_types:
            _change_key(connection, table)
        make_triggers(connection, table)
        save_columns(connection, table)
    merge = Merge(connection, tables)
    for name, (columns, types) in saved.items():
        table_now = tables.get(name)
        if table_now is not None and len(types) == len(table_now.key) and tuple(columns) != table_now.columns:
            _change_columns(connection, merge.rows[name], tuple(columns))
    connection.execute("UPDATE synckit_store SET layout = ?", (layout(tables),))


def _change_key(connection: sqlite3.Connection, table: Table) -> None:
    """Give the key columns of our tables the types that the app's have now, which converts the keys."""
    drop_triggers(connection, table.name)
    copies: list[tuple[str, str]] = []
    for name in rows_name(table), edits_name(table):
        copy = quoted(f"synckit_copy_{len(copies)}")
        connection.execute(f"CREATE TEMP TABLE {copy} AS SELECT * FROM {name}")
        connection.execute(f"DROP TABLE {name}")
        copies.append((copy, name))
    make_rows(connection, table)
    for copy, name in copies:
        connection.execute(f"INSERT INTO {name} SELECT * FROM {copy}")
        connection.execute(f"DROP TABLE {copy}")


def _change_columns(connection: sqlite3.Connection, rows: Rows, old: Sequence[str]) -> None:
    table = rows.table
    present = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table.name,))}
    before = None
    if present.issuperset(old):  # else the digests tell nothing any more
        before = Rows(connection, replace(table, columns=tuple(old)), rows.devices)
    added = [name for name in table.columns if name not in old]
    if not set(old) <= set(table.columns):
        connection.execute(_READ_AGAIN)
    every = connection.execute(f"SELECT {', '.join(keys(table))} FROM {rows_name(table)}").fetchall()
    for key in every:
        _change_row(rows, before, key, added)


def _change_row(rows: Rows, before: Rows | None, key: Key, added: Sequence[str]) -> None:
    table, known = rows.table, rows.known(key)
    content, edit = rows.content(key), rows.edit(key)
    if content is None:
        known.digest = None if known.digest is None else NEVER
        rows.save(key, known)
        return
    is_changed = before is not None and before.digest(key) != known.digest
    extras, values = load(known.extras), dict(zip(table.columns, content, strict=True))
    is_migrated = False
    for name in added:
        if values[name] == table.defaults[name] and name in extras:
            values[name] = from_json(extras[name])
        elif values[name] != table.defaults[name] and to_json(values[name]) != extras.get(name):
            is_migrated = True
        extras.pop(name, None)
    known.extras = dump(extras) if extras else None
    if tuple(values.values()) != content:
        rows.write(key, values)
    known.digest = NEVER if edit or is_changed else digest(rows.content(key) or ())
    rows.save(key, known)
    if edit is None and is_changed:
        rows.record_now(key, known)
    elif edit is None and is_migrated and known.order is not None:
        rows.record(key, known.order[0] + 1, must_send=True)
    elif edit is not None and before is not None and not is_changed and not edit.must_send:
        rows.drop_edit(key)
        known.digest = digest(rows.content(key) or ())
        rows.save(key, known)
