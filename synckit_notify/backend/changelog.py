"""The change log: for each (app, user), which is a channel, a sequence of numbered changes that push appends to.

    push:  lock the head row ── seen this push_id? ── number the rows ── move the head ── commit ── (then announce)
    pull:  read the head ── find by index where the filter begins to match ── read a bounded number of rows from there

The head is one row for each channel with its highest `seq`. A push keeps it locked until the commit, so `seq` follows
the order of the commits, and a reader at cursor n never sees a row at or below n appear later. While it has this lock a
push waits for no other lock, so pushes cannot deadlock. All functions are parts of a transaction that a Store runs.
"""

import hashlib
import json
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, bindparam, select, tuple_

from . import accounts
from .database.schema import as_datetime, changes, from_datetime, heads, meta, new_epoch, now, pushes
from .database.store import upsert
from .errors import Conflict, NotFound
from .request_fields import rfc3339

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
MAX_CHANGES = 500
PAGE_BYTES = 2**20
"""Approximate size of the `data` in one page: 500 changes of the largest size would be 125 MiB of memory."""
MAX_EXAMINED = 5_000
"""How many rows one page of a pull by table reads, which takes some milliseconds. It starts at the first match."""
ROWS_AT_ONCE = 32  # fetched at a time, so that few are fetched in vain when the page is full
PUSH_ID_MICROSECONDS = 7 * 24 * 3600 * 1_000_000
MAX_FORGOTTEN = 100  # expired push ids that one push deletes: more than it adds
COMMIT_MICROSECONDS = 2_000_000
"""A push must commit within this time after its `received_at`; the clocks of several servers must differ by less."""

_MINE = and_(changes.c.app_id == bindparam("app"), changes.c.user_id == bindparam("user"))
_RECEIVED_AT = (
    select(changes.c.received_at).where(_MINE, changes.c.seq >= bindparam("seq")).order_by(changes.c.seq).limit(1)
)
_NEXT_OF_TABLE = (
    # Compare (table, seq) as a pair: otherwise PostgreSQL may scan the whole log for a table it expects to be frequent.
    select(changes.c.table_name, changes.c.seq)
    .where(_MINE, tuple_(changes.c.table_name, changes.c.seq) > tuple_(bindparam("table"), bindparam("after")))
    .order_by(changes.c.table_name, changes.c.seq)
    .limit(1)
)
"""Both are built once, since a pull may execute them about twenty times."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change as the device sent it; `data` is ciphertext that the server never reads."""

    table: str
    op: str
    row_id: str
    timestamp: str
    data: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """The head after a push or a `touch`; without times the push was a repeat that changed nothing.

    `seen_at` is when the pushing device was last seen, if known.
    """

    cursor: int
    changed_at: datetime | None = None
    previous_at: datetime | None = None
    seen_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The parameters of a pull; `since` is inclusive and `until` exclusive, both in microseconds since 1970."""

    cursor: int
    limit: int = MAX_CHANGES
    tables: Sequence[str] | None = None
    since: int | None = None
    until: int | None = None
    epoch: str | None = None


class Window(NamedTuple):
    """The part of the log that one page reads: after `after`, up to and including `last`.

    `cursor` and `has_more` are the values of the page if all matching rows fit in it.
    """

    after: int
    last: int
    cursor: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a pull.

    Once `has_more` is false, all changes that later pulls return were received at or after `complete_until`. `seen_at`
    is when the pulling device was last seen, if known.
    """

    rows: list[Row[Any]]
    cursor: int
    has_more: bool
    epoch: str
    complete_until: int
    seen_at: int | None


def push(
    connection: Connection, app: str, user: str, device_id: str, pushed: Sequence[Change], push_id: str | None
) -> Move:
    """Append changes; repeating a `push_id` stores nothing and returns the cursor of the first push.

    Raises InvalidToken if the user is disabled, NotFound if the device is not registered, and Conflict if the `push_id`
    was used with other changes.
    """
    accounts.require_enabled(connection, user)
    seen_at = accounts.require_device(connection, app, user, device_id)
    seq, previous_at = _lock_head(connection, app, user)
    if push_id is not None:
        digest = _digest(pushed)
        first = _first_push(connection, device_id, push_id, digest)
        if first is not None:
            return Move(first, seen_at=seen_at)
    received_at = max(now(), previous_at + 1)
    cursor = seq + len(pushed)
    owner = {"app_id": app, "user_id": user, "device_id": device_id, "received_at": received_at}
    rows = [_row(change) | owner | {"seq": number} for number, change in enumerate(pushed, seq + 1)]
    connection.execute(changes.insert(), rows)
    _move_head(connection, app, user, cursor, received_at)
    if push_id is not None:
        _remember_push(connection, device_id, push_id, digest, cursor, received_at)
    return _move(cursor, received_at, previous_at, seen_at)


def pull(connection: Connection, app: str, user: str, device_id: str, query: Query) -> Page:
    """Return changes after the cursor; raise NotFound for an unknown device, Conflict if the log was replaced."""
    started = now()  # before the first statement, which creates the snapshot of the transaction
    seen_at = accounts.require_device(connection, app, user, device_id)
    head, changed_at = _read_head(connection, app, user)
    epoch = current_epoch(connection)
    if query.epoch not in (None, epoch) or query.cursor > head:
        raise Conflict("the log was replaced after this cursor was issued: pull again from cursor 0, without an epoch")
    window = _window(connection, app, user, head, query)
    with connection.execute(_selection(app, user, window, query)) as found:
        rows, is_full = _page(found, query.limit)
    cursor, has_more = (rows[-1].seq, True) if is_full else (window.cursor, window.has_more)
    # A push may have its `received_at` but not be committed yet, so the clock alone is not enough.
    complete_until = max(changed_at + 1, started - COMMIT_MICROSECONDS)
    return Page(rows, cursor, has_more, epoch, complete_until, seen_at)


def touch(connection: Connection, app: str, user: str) -> Move:
    """Mark a channel as changed without adding a change, so that the next sweep of every process announces it."""
    seq, previous_at = _lock_head(connection, app, user)
    changed_at = max(now(), previous_at + 1)
    _move_head(connection, app, user, seq, changed_at)
    return _move(seq, changed_at, previous_at)


def blank(connection: Connection, app: str, user: str, seq: int) -> Move:
    """Remove the content of a change but keep its place in the log, so that cursors stay valid; raise NotFound.

    The change becomes an UPDATE without data. No device can push one, so readers skip it; a DELETE would delete the row
    on devices. Its timestamp is replaced too, since that may be what they cannot read. The channel counts as changed.
    """
    move = touch(connection, app, user)
    row = find(connection, app, user, seq)
    mine = and_(changes.c.app_id == app, changes.c.user_id == user, changes.c.seq == seq)
    nothing = {"op": "UPDATE", "data": None, "timestamp": rfc3339(row.received_at)}
    connection.execute(changes.update().where(mine).values(nothing))
    return move


def find(connection: Connection, app: str, user: str, seq: int) -> Row[Any]:
    """Return one change; raise NotFound."""
    mine = and_(changes.c.app_id == app, changes.c.user_id == user, changes.c.seq == seq)
    row = connection.execute(select(changes).where(mine)).first()
    if row is None:
        raise NotFound(f"there is no change {seq} of this user in this app")
    return row


def status(connection: Connection, app: str, user: str) -> tuple[int, str]:
    """Return the head, which is also the number of changes since none is missing, and the epoch."""
    return _read_head(connection, app, user)[0], current_epoch(connection)


def changed_channels(connection: Connection, since: datetime) -> list[tuple[str, str, datetime]]:
    """Return (app, user, changed_at) of the channels that changed at or after a time."""
    late = select(heads.c.app_id, heads.c.user_id, heads.c.changed_at).where(heads.c.changed_at >= from_datetime(since))
    return [(app, user, as_datetime(changed_at)) for app, user, changed_at in connection.execute(late)]


def current_epoch(connection: Connection) -> str:
    """Return the epoch: a random name that is replaced when the log is restored from a backup."""
    return str(connection.execute(select(meta.c.epoch)).scalar_one())


def renew_epoch(connection: Connection) -> str:
    """Replace the epoch after a restore from a backup: every client then pulls again from cursor 0."""
    epoch = new_epoch()
    connection.execute(meta.update().values(epoch=epoch))
    return epoch


def _lock_head(connection: Connection, app: str, user: str) -> tuple[int, int]:
    """Lock the head until the commit and return its `seq` and `changed_at`, zeros for a new channel."""
    new = upsert(connection, heads).values(app_id=app, user_id=user, seq=0, changed_at=0)
    either = new.on_conflict_do_update(index_elements=[heads.c.app_id, heads.c.user_id], set_={"seq": heads.c.seq})
    found = connection.execute(either.returning(heads.c.seq, heads.c.changed_at)).one()
    return found.seq, found.changed_at


def _move_head(connection: Connection, app: str, user: str, seq: int, changed_at: int) -> None:
    mine = and_(heads.c.app_id == app, heads.c.user_id == user)
    connection.execute(heads.update().where(mine).values(seq=seq, changed_at=changed_at))


def _read_head(connection: Connection, app: str, user: str) -> tuple[int, int]:
    mine = and_(heads.c.app_id == app, heads.c.user_id == user)
    found = connection.execute(select(heads.c.seq, heads.c.changed_at).where(mine)).first()
    return (found.seq, found.changed_at) if found is not None else (0, 0)


def _move(cursor: int, changed_at: int, previous_at: int, seen_at: int | None = None) -> Move:
    return Move(cursor, as_datetime(changed_at), as_datetime(previous_at) if previous_at else None, seen_at)


def _first_push(connection: Connection, device_id: str, push_id: str, digest: str) -> int | None:
    """Return the cursor of the first push with this id, or None; raise Conflict if its changes were different."""
    mine = and_(pushes.c.device_id == device_id, pushes.c.push_id == push_id)
    first = connection.execute(select(pushes.c.cursor, pushes.c.digest).where(mine)).first()
    if first is None:
        return None
    if first.digest != digest:
        raise Conflict("push_id: was already used for other changes")
    return int(first.cursor)


def _remember_push(
    connection: Connection, device_id: str, push_id: str, digest: str, cursor: int, received_at: int
) -> None:
    _forget_old_pushes(connection)
    row = {"device_id": device_id, "push_id": push_id, "digest": digest, "cursor": cursor, "received_at": received_at}
    connection.execute(pushes.insert().values(row))


def _forget_old_pushes(connection: Connection) -> None:
    """Delete expired push ids; skip those that another push has locked."""
    ids = (pushes.c.device_id, pushes.c.push_id)
    old = select(*ids).where(pushes.c.received_at < now() - PUSH_ID_MICROSECONDS)
    # The order makes PostgreSQL use the index; without it, it reads the whole table when none has expired.
    some = old.order_by(pushes.c.received_at).limit(MAX_FORGOTTEN).with_for_update(skip_locked=True)
    if found := connection.execute(some).all():
        connection.execute(pushes.delete().where(tuple_(*ids).in_(found)))


def _digest(pushed: Sequence[Change]) -> str:
    canonical = json.dumps([asdict(change) for change in pushed], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _row(change: Change) -> dict[str, str | int | None]:
    return {
        "table_name": change.table,
        "op": change.op,
        "row_id": change.row_id,
        "timestamp": change.timestamp,
        "data": change.data,
    }


def _window(connection: Connection, app: str, user: str, head: int, query: Query) -> Window:
    """Find by index which part of the log a page must read; none if the filter matches nothing."""
    after, last = query.cursor, head
    if query.since is not None:
        after = _first_at(connection, app, user, query.since, after, head) - 1
    if query.until is not None:
        last = _first_at(connection, app, user, query.until, after, head) - 1
    if query.tables is None:
        return Window(after, last, head, has_more=False)
    first = _first_of(connection, app, user, set(query.tables), after, last)
    if first is None:
        return Window(last, last, head, has_more=False)
    end = first + MAX_EXAMINED - 1
    return Window(first - 1, end, end, has_more=True) if end < last else Window(first - 1, last, head, has_more=False)


def _first_at(connection: Connection, app: str, user: str, moment: int, after: int, head: int) -> int:
    """Return the first `seq` received at or after a time; by bisection, since times increase with `seq`."""

    def received_at(seq: int) -> int:
        found = connection.execute(_RECEIVED_AT, {"app": app, "user": user, "seq": seq}).scalar()
        return sys.maxsize if found is None else int(found)

    behind = range(after + 1, head + 1)
    return after + 1 + bisect_left(behind, moment, key=received_at)


def _first_of(connection: Connection, app: str, user: str, tables: Iterable[str], after: int, last: int) -> int | None:
    """Return the first `seq` of any of these tables, or None."""
    places = ({"app": app, "user": user, "table": table, "after": after} for table in tables)
    found = ((place["table"], connection.execute(_NEXT_OF_TABLE, place).first()) for place in places)
    return min((row.seq for table, row in found if row and row.table_name == table and row.seq <= last), default=None)


def _selection(app: str, user: str, window: Window, query: Query) -> Select[Any]:
    mine = and_(changes.c.app_id == app, changes.c.user_id == user)
    rows = select(changes).where(mine, changes.c.seq > window.after, changes.c.seq <= window.last)
    if query.tables is not None:
        rows = rows.where(changes.c.table_name.in_(query.tables))
    rows = rows.order_by(changes.c.seq).limit(query.limit + 1)
    return rows.execution_options(yield_per=ROWS_AT_ONCE) if window.last - window.after > ROWS_AT_ONCE else rows


def _page(found: Iterable[Row[Any]], limit: int) -> tuple[list[Row[Any]], bool]:
    """Return rows up to the limits of count and data size, at least one, and whether there are more."""
    rows: list[Row[Any]] = []
    size = 0
    for row in found:
        size += len((row.data or "").encode())
        if rows and (len(rows) == limit or size > PAGE_BYTES):
            return rows, True
        rows.append(row)
    return rows, False
