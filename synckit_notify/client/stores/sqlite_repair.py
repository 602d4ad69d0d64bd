"""Rows that cannot stay as the log has them: held rows, two rows that clash on a UNIQUE index, children without parent.

A held row is tried again after each page. What still clashes when the log was read to its end is decided by the one
order: the later row stays, the other one is deleted. A child whose parent was deleted elsewhere is deleted too. These
deletions are local edits with the lowest timestamp that beats the row: one microsecond after it. So all devices that
decide the same make the same edit, which settles theirs; and any edit that someone made of that row meanwhile wins.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .sqlite_merge import CLASHES, Merge, latest, values_of
from .sqlite_rows import Known, Rows, as_data
from .sqlite_schema import Reference, Table, quoted
from .sqlite_tables import edits_name, keys, rows_name
from .sqlite_values import Key, Value, load, row_id_of

log = logging.getLogger("synckit_notify.client")


@dataclass(frozen=True, slots=True)
class Orphan:
    """A row that refers to a row that was deleted on another device; `data` is the row as it is sent."""

    table: str
    row_id: str
    data: Mapping[str, Any]
    parent_table: str
    parent_row_id: str


OnOrphan = Callable[[Orphan], Mapping[str, Any] | None]
"""Returns None to delete the orphan, or the columns to change: `{}` keeps it. It must decide the same on all devices,
and must not use the database."""


def retry_held(connection: sqlite3.Connection, merge: Merge) -> None:
    """Write the held rows for which there is room now, until no more can be written."""
    is_moving = True
    while is_moving:
        is_moving = False
        for rows in merge.rows.values():
            for key in _held(connection, rows.table):
                is_moving |= merge.show_theirs(rows, key, rows.known(key)) is None


def resolve_clashes(connection: sqlite3.Connection, merge: Merge) -> None:
    """Decide between the rows that clash on a UNIQUE index."""
    for rows in merge.rows.values():
        clashing: list[tuple[Key, Known, dict[str, Value]]] = []
        for key in _held(connection, rows.table):
            known = rows.known(key)
            if merge.show_theirs(rows, key, known) in CLASHES:
                clashing.append((key, known, rows.local(key)))
        for key, known, _ in clashing:  # two rows may stand in each other's way only as they were
            rows.delete(key)
            known.digest = None
            rows.save(key, known)
        clashing.sort(key=lambda each: each[1].order or (), reverse=True)
        for key, known, local in clashing:
            _resolve(connection, merge, rows, key, known, local)


def delete_orphans(connection: sqlite3.Connection, merge: Merge, on_orphan: OnOrphan | None) -> None:
    """Delete the children whose parent was deleted elsewhere, their children, and so on."""
    seen: set[tuple[str, Key]] = set()
    is_moving = True
    while is_moving:
        is_moving = False
        for rows in merge.rows.values():
            for reference in rows.table.references:
                for child, parent in _orphans(connection, rows.table, reference, merge.rows[reference.parent].table):
                    if (rows.table.name, child) in seen:
                        continue
                    seen.add((rows.table.name, child))
                    is_moving = True
                    _decide(merge, rows, child, reference, parent, on_orphan)


def _held(connection: sqlite3.Connection, table: Table) -> list[Key]:
    here = " AND ".join(f"e.{name} = r.{name}" for name in keys(table))
    return connection.execute(
        f"SELECT {', '.join(keys(table))} FROM {rows_name(table)} r WHERE theirs IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {edits_name(table)} e WHERE {here})"
    ).fetchall()


def _resolve(
    connection: sqlite3.Connection, merge: Merge, rows: Rows, key: Key, known: Known, local: Mapping[str, Value]
) -> None:
    """Write a row, and delete those that clash with it; or delete it, if one of them is later."""
    if merge.show_theirs(rows, key, known, local) not in CLASHES:
        return
    assert known.order is not None
    others = [(other, rows.known(other)) for other in _in_the_way(connection, rows, key, known, local)]
    edits = [merge.examine(rows, other, about) for other, about in others]
    is_beaten = any(
        edit.edited_at > known.order[0] if edit else about.order is not None and about.order > known.order
        for edit, (_, about) in zip(edits, others, strict=True)
    )
    losers = [(key, known, None)] if is_beaten else [(*other, edit) for other, edit in zip(others, edits, strict=True)]
    for loser, about, edit in losers:
        log.warning(
            "two rows of %.130r have the same value in a UNIQUE index: the earlier one, %.260r, is deleted",
            *(rows.table.name, row_id_of(loser, rows.table.key_types)),
        )
        rows.delete(loser)
        rows.record(loser, latest(edit, about) + 1, must_send=True)
    merge.written.add(rows.table.name)
    if not is_beaten:
        merge.show_theirs(rows, key, known, local)


def _in_the_way(
    connection: sqlite3.Connection, rows: Rows, key: Key, known: Known, local: Mapping[str, Value]
) -> list[Key]:
    """Return the rows that a REPLACE would delete; it is rolled back. So SQLite itself says what clashes."""
    table = rows.table
    columns = ", ".join(keys(table))
    old = ", ".join(f"OLD.{quoted(name)}" for name in table.key)
    before = connection.execute("PRAGMA recursive_triggers").fetchone()[0]
    connection.execute("PRAGMA recursive_triggers = ON")  # else a REPLACE runs no trigger
    connection.execute("SAVEPOINT synckit_clash")
    try:
        connection.execute(f"CREATE TEMP TABLE synckit_replaced ({columns})")
        connection.execute(
            f"CREATE TEMP TRIGGER synckit_replaced AFTER DELETE ON main.{quoted(table.name)} "
            f"BEGIN INSERT INTO synckit_replaced VALUES ({old}); END"
        )
        rows.write(key, values_of(table, load(known.theirs)), local, clash="REPLACE")
        return connection.execute("SELECT * FROM synckit_replaced").fetchall()
    finally:
        connection.execute("ROLLBACK TO synckit_clash")
        connection.execute("RELEASE synckit_clash")
        connection.execute(f"PRAGMA recursive_triggers = {before}")


def _orphans(
    connection: sqlite3.Connection, table: Table, reference: Reference, parent: Table
) -> list[tuple[Key, Key]]:
    """Return the children whose parent is known as deleted, with the key of that parent."""
    columns = [f"c.{quoted(name)}" for name in reference.columns]
    child = ", ".join(f"c.{quoted(name)}" for name in table.key)
    there = " AND ".join(f"p.{quoted(name)} = {value}" for name, value in zip(parent.key, columns, strict=True))
    gone = " AND ".join(f"r.{name} = {value}" for name, value in zip(keys(parent), columns, strict=True))
    found = connection.execute(
        f"SELECT {child}, {', '.join(columns)} FROM {quoted(table.name)} c "
        f"WHERE NOT EXISTS (SELECT 1 FROM {quoted(parent.name)} p WHERE {there}) AND EXISTS "
        f"(SELECT 1 FROM {rows_name(parent)} r WHERE {gone} AND digest IS NULL AND theirs IS NULL "
        "AND order_at IS NOT NULL)"
    ).fetchall()
    return [(row[: len(table.key)], row[len(table.key) :]) for row in found]


def _decide(merge: Merge, rows: Rows, key: Key, reference: Reference, parent: Key, on_orphan: OnOrphan | None) -> None:
    table, known = rows.table, rows.known(key)
    edit = merge.examine(rows, key, known)
    content = rows.content(key)
    if content is None:
        return
    row_id = row_id_of(key, table.key_types)
    parent_id = row_id_of(parent, merge.rows[reference.parent].table.key_types)
    orphan = Orphan(table.name, row_id, as_data(table, content, known.extras), reference.parent, parent_id)
    changed = None if on_orphan is None else on_orphan(orphan)
    if changed is None:
        log.info("row %.260r of %.130r is deleted, since its parent was deleted elsewhere", row_id, table.name)
        rows.delete(key)
    elif changed:
        rows.write(key, values_of(table, {**orphan.data, **changed}))
    else:
        return
    merge.written.add(table.name)
    rows.record(key, latest(edit, known) + 1, must_send=True)
