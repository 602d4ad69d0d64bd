"""The app's tables, as they are: what is synced of each, and what cannot be.

In: a connection and the names that the app gave. Out: a `Table` with its key, columns and references. A table that
cannot be synced is a StoreError that says what to change. Reads only.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import StoreError
from ..models import MAX_TABLE_CHARACTERS
from .sqlite_values import Value

OUR_PREFIX = "synckit_"


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key that names the whole primary key of a synced table: its columns, in the order of that key."""

    columns: tuple[str, ...]
    parent: str


@dataclass(frozen=True, slots=True)
class Table:
    """A synced table.

    `key` are the columns of the primary key and `key_types` their declared types. `columns` are the other synced
    columns, sorted, because a migration may change their order; `local` are those that stay on this device. `defaults`
    are the values for members that a change lacks.
    """

    name: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    columns: tuple[str, ...]
    local: tuple[str, ...]
    defaults: Mapping[str, Value] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def inspect(
    connection: sqlite3.Connection, wanted: Mapping[str, Sequence[str]], *, device_made_keys: bool
) -> dict[str, Table]:
    """Return the tables by name; raises StoreError for one that cannot be synced."""
    tables = {name: _table(connection, name, columns, device_made_keys) for name, columns in wanted.items()}
    return {name: _with_references(connection, table, tables) for name, table in tables.items()}


def _table(connection: sqlite3.Connection, name: str, wanted: Sequence[str], device_made_keys: bool) -> Table:
    _require_table(connection, name)
    found = connection.execute(
        'SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)', (name,)
    ).fetchall()
    key = sorted((row for row in found if row[4]), key=lambda row: int(row[4]))
    if not key:
        raise StoreError(f"the table {name} must have a primary key: create it again with one, such as a UUID as TEXT")
    has_index = connection.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (name,)).fetchone()
    if len(key) == 1 and not has_index and not device_made_keys:
        raise StoreError(
            f"two devices would give the same {key[0][0]} to different rows of {name}, because SQLite counts an "
            "INTEGER PRIMARY KEY on each device alone: use a UUID as TEXT, or pass device_made_keys=True if your app "
            "makes keys that no other device makes"
        )
    for column, _, not_null, *_ in key:
        if not not_null and has_index:
            raise StoreError(
                f"the key column {column} of {name} may be NULL: declare it NOT NULL, or the table WITHOUT ROWID"
            )
    names = {row[0].lower(): row for row in found}
    for column in wanted:
        if column.lower() not in names:
            raise StoreError(f"the table {name} has no column {column}: name the columns that it has")
        if names[column.lower()][5]:
            raise StoreError(f"the column {column} of {name} is generated: do not name it, each device computes it")
    synced = {column.lower() for column in wanted}
    columns = tuple(sorted(row[0] for row in found if row[0].lower() in synced and not row[4]))
    local = [row for row in found if row[0].lower() not in synced and not row[4] and not row[5]]
    for column, _, not_null, default, *_ in local:
        if not_null and default is None:
            raise StoreError(
                f"the column {column} of {name} is NOT NULL without a default, so that rows of other devices cannot be "
                "stored: name it among the columns, or give it a default"
            )
    return Table(
        name,
        tuple(row[0] for row in key),
        tuple(row[1] for row in key),
        columns,
        tuple(row[0] for row in local),
        {row[0]: _default(connection, row[3]) for row in found if row[0] in columns},
    )


def _require_table(connection: sqlite3.Connection, name: str) -> None:
    if not 1 <= len(name) <= MAX_TABLE_CHARACTERS or name.lower().startswith(("sqlite_", OUR_PREFIX)):
        raise StoreError(f"{name!r} cannot be synced: name a table of the app, at most 128 characters long")
    found = connection.execute(
        "SELECT type, sql FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = lower(?)", (name,)
    ).fetchone()
    if found is None:
        raise StoreError(f"the database has no table {name}: let the app create its tables first")
    kind, sql = found
    if kind == "view":
        raise StoreError(f"{name} is a view: name the tables that it reads")
    if re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE):
        raise StoreError(f"{name} is a virtual table: name the table that it is made from, and fill it on each device")


def _default(connection: sqlite3.Connection, expression: str | None) -> Value:
    """Return the value of a column's default, or NULL."""
    if expression is None:
        return None
    try:
        value: Value = connection.execute(f"SELECT {expression}").fetchone()[0]
    except sqlite3.Error:  # a bare word in double quotes, which only CREATE TABLE reads as a string
        return expression.strip('"')
    return value


def _with_references(connection: sqlite3.Connection, table: Table, tables: Mapping[str, Table]) -> Table:
    parts: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, parent, column, target in connection.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', (table.name,)
    ):
        parts.setdefault(number, []).append((parent, column, target))
    by_name = {name.lower(): parent for name, parent in tables.items()}
    references = []
    for part in parts.values():
        parent_table = by_name.get(part[0][0].lower())
        if parent_table is None or len(part) != len(parent_table.key):
            continue
        key = [name.lower() for name in parent_table.key]
        columns = {(target or key[index]).lower(): column for index, (_, column, target) in enumerate(part)}
        if columns.keys() == set(key):
            references.append(Reference(tuple(columns[name] for name in key), parent_table.name))
    return Table(table.name, table.key, table.key_types, table.columns, table.local, table.defaults, tuple(references))
