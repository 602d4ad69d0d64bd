"""Unsent edits as entries to push, and the versions that name them.

    synckit_edits_X + the app's row ──▶ PendingEntry(version, entry) ── sent, refused ──▶ named(version)

A version holds a random value, the digest of what is sent, the table and the row id. So the store knows what was sent
even after the row changed again, and needs no record of it.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from ..models import ChangeEntry
from . import PendingEntry
from .sqlite_rows import GONE, as_data
from .sqlite_schema import Table, quoted
from .sqlite_tables import edits_name, keys, rows_name, same_key
from .sqlite_values import Key, digest, key_of, row_id_of, to_moment


class BadKey(NamedTuple):
    """A row whose key cannot be a row id."""

    table: str
    key: str
    reason: str


class Named(NamedTuple):
    """What a version says."""

    table: Table
    key: Key
    random: bytes
    digest: bytes | None


class _Found(NamedTuple):
    key: Key
    edited_at: int
    version: bytes
    must_send: bool
    handed: bytes | None
    digest: bytes | None
    extras: str | None
    content: tuple[Any, ...] | None


def has_edits(connection: sqlite3.Connection, tables: Iterable[Table]) -> bool:
    """Return whether there is anything to send."""
    if not connection.execute("SELECT is_complete FROM synckit_store").fetchone()[0]:
        return False
    exist = " OR ".join(f"EXISTS (SELECT 1 FROM {edits_name(table)} WHERE refused IS NULL)" for table in tables)
    return bool(connection.execute(f"SELECT {exist}").fetchone()[0])


def entries(
    connection: sqlite3.Connection, tables: Iterable[Table], limit: int
) -> tuple[list[PendingEntry], list[BadKey], bool]:
    """Return the oldest edits, the rows that cannot be sent, and whether there may be more of them.

    Edits that changed nothing are dropped. The others are marked: they must be sent even if they are reverted now.
    """
    found = [(each.edited_at, table, each) for table in tables for each in _oldest(connection, table, limit)]
    found.sort(key=itemgetter(0))
    pending: list[PendingEntry] = []
    bad: list[BadKey] = []
    for _, table, each in found[:limit]:
        content = None if each.content is None else digest(each.content)
        if content == each.digest and not each.must_send:
            connection.execute(f"DELETE FROM {edits_name(table)} WHERE version = ?", (each.version,))
            continue
        try:
            pending.append(_entry(table, each, content))
        except ValueError as error:
            reason = str(error)
            bad.append(BadKey(table.name, repr(each.key), reason))
            connection.execute(f"UPDATE {edits_name(table)} SET refused = ? WHERE version = ?", (reason, each.version))
            continue
        if each.handed != (content or GONE):
            here = " AND ".join(f"{key} = ?" for key in keys(table))
            mark = f"UPDATE {edits_name(table)} SET must_send = 1, handed = ? WHERE {here}"
            connection.execute(mark, (content or GONE, *each.key))
    return pending, bad, bool(found)


def named(tables: Mapping[str, Table], version: str) -> Named | None:
    """Return what a version says, or None if this store did not make it or no longer has the table."""
    try:
        random, content, name, row_id = json.loads(version)
        table = tables[name]
        return Named(
            table,
            key_of(row_id, table.key_types),
            bytes.fromhex(random),
            None if content is None else bytes.fromhex(content),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _entry(table: Table, found: _Found, content: bytes | None) -> PendingEntry:
    row_id = row_id_of(found.key, table.key_types)
    operation = "DELETE" if content is None else "INSERT" if found.digest is None else "UPDATE"
    data = None if found.content is None else as_data(table, found.content, found.extras)
    entry = ChangeEntry(table.name, operation, row_id, to_moment(found.edited_at), data)
    parts = [found.version.hex(), content.hex() if content else None, table.name, row_id]
    return PendingEntry(json.dumps(parts, ensure_ascii=False), entry)


def _oldest(connection: sqlite3.Connection, table: Table, limit: int) -> list[_Found]:
    count = len(table.key)
    key = [f"e.{name}" for name in keys(table)]
    known = " AND ".join(f"r.{name} = e.{name}" for name in keys(table))
    columns = [
        "e.edited_at",
        "e.version",
        "e.must_send",
        "e.handed",
        "r.digest",
        "r.extras",
        f"t.{quoted(table.key[0])} IS NOT NULL",
    ]
    columns += [f"t.{quoted(name)}" for name in table.columns]
    found = connection.execute(
        f"SELECT {', '.join(key + columns)} FROM {edits_name(table)} e "
        f"LEFT JOIN {rows_name(table)} r ON {known} LEFT JOIN {quoted(table.name)} t ON {same_key(table, 't', 'e')} "
        "WHERE e.refused IS NULL ORDER BY e.edited_at LIMIT ?",
        (limit,),
    ).fetchall()
    return [
        _Found._make((row[:count], *row[count : count + 6], row[count + 7 :] if row[count + 6] else None))
        for row in found
    ]
