"""The change log: for each (app, user), which is a channel, a sequence of numbered changes that push appends to.

    push:  lock the head row ── seen this push_id? ── number the rows ── move the head ── commit ── (then announce)
    With the log mode ROWS a push keeps the winners too (winners.py), and compaction drops the others (compaction.py).
    Pulls are in pulls.py.

The head is one row for each channel with its highest `seq` (log_heads.py). A push keeps it locked until the commit, so
`seq` follows the order of the commits, and a reader at cursor n never sees a row at or below n appear later. While it
has this lock a push waits for no other lock, so pushes cannot deadlock. All functions are parts of a transaction that a
Store runs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select, tuple_

from . import accounts, log_heads, retirement, winners
from .accounts import KnownDevice
from .database.schema import ROWS, as_datetime, changes, from_datetime, heads, meta, new_epoch, now, of_log, pushes
from .errors import Conflict, NotFound
from .log_pages import MAX_CHANGES, Query
from .request_fields import rfc3339

__all__ = ["MAX_CHANGES", "Query"]

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
PUSH_ID_MICROSECONDS = 7 * 24 * 3600 * 1_000_000
MAX_FORGOTTEN = 100  # expired push ids that one push deletes: more than it adds


@dataclass(frozen=True, slots=True)
class Change:
    """One change as the device sent it; `data` is ciphertext that the server never reads.

    `instant` is the timestamp in microseconds since 1970, rounded up. Without it `order_at` is computed at each pull.
    """

    table: str
    op: str
    row_id: str
    timestamp: str
    data: str | None
    instant: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """The head after a push or a `touch`; without times the push was a repeat that changed nothing.

    `received_at` is that of the push, or of the first one of a repeat, in microseconds since 1970.
    """

    cursor: int
    received_at: int
    changed_at: datetime | None = None
    previous_at: datetime | None = None
    device: KnownDevice | None = None


def push(
    connection: Connection, app: str, user: str, device_id: str, pushed: Sequence[Change], push_id: str | None
) -> Move:
    """Append changes; repeating a `push_id` stores nothing and returns the cursor and the time of the first push.

    Raises InvalidToken if the user is disabled, NotFound if the device is not registered, MustReadAgain if it is
    retired, and Conflict if the `push_id` was used with other changes.
    """
    accounts.require_enabled(connection, user)
    head = log_heads.lock(connection, app, user)
    # Read under the head's lock, so that a compaction which retires the device meanwhile is seen.
    device = accounts.require_device(connection, app, user, device_id)
    retirement.require_in_step(device)
    if push_id is not None:
        digest = _digest(pushed)
        first = _first_push(connection, device_id, push_id, digest)
        if first is not None:
            return Move(first.cursor, first.received_at, device=device)
    received_at = max(now(), head.changed_at + 1)
    cursor = head.seq + len(pushed)
    owner = {"app_id": app, "user_id": user, "device_id": device_id}
    rows = [_row(change, received_at) | owner | {"seq": number} for number, change in enumerate(pushed, head.seq + 1)]
    connection.execute(changes.insert(), rows)
    until = head.winners_until
    if device.log == ROWS:
        until = winners.advance(connection, app, user, until, cursor)
    log_heads.move(connection, app, user, head._replace(seq=cursor, changed_at=received_at, winners_until=until))
    if push_id is not None:
        _remember_push(connection, device_id, push_id, digest, cursor, received_at)
    return _move(cursor, received_at, head.changed_at, device)


def catch_up(connection: Connection, app: str, user: str) -> int:
    """Examine some more changes for the winners; return how many are left. For an app whose log mode became ROWS."""
    head = log_heads.lock_present(connection, app, user)
    if head is None:
        return 0
    until = winners.advance(connection, app, user, head.winners_until, head.seq)
    log_heads.move(connection, app, user, head._replace(winners_until=until))
    return head.seq - until


def touch(connection: Connection, app: str, user: str) -> Move:
    """Mark a channel as changed without adding a change, so that the next sweep of every process announces it."""
    head = log_heads.lock(connection, app, user)
    changed_at = max(now(), head.changed_at + 1)
    log_heads.move(connection, app, user, head._replace(changed_at=changed_at))
    return _move(head.seq, changed_at, head.changed_at)


def blank(connection: Connection, app: str, user: str, seq: int) -> Move:
    """Remove the content of a change but keep its place in the log, so that cursors stay valid; raise NotFound.

    The change becomes an UPDATE without data. No device can push one, so readers skip it; a DELETE would delete the row
    on devices. Its timestamp is replaced too, since that may be what they cannot read. In the one order it is the first
    change of its row, so that an earlier version of the row may win again. The channel counts as changed.
    """
    move = touch(connection, app, user)
    row = find(connection, app, user, seq)
    mine = and_(of_log(changes, app, user), changes.c.seq == seq)
    nothing = {"op": "UPDATE", "data": None, "timestamp": rfc3339(row.received_at), "order_at": winners.LOWEST}
    connection.execute(changes.update().where(mine).values(nothing))
    until = log_heads.read(connection, app, user).winners_until
    winners.reconsider(connection, app, user, row.table_name, row.row_id, until)
    return move


def find(connection: Connection, app: str, user: str, seq: int) -> Row[Any]:
    """Return one change; raise NotFound."""
    mine = and_(of_log(changes, app, user), changes.c.seq == seq)
    row = connection.execute(select(changes).where(mine)).first()
    if row is None:
        raise NotFound(f"there is no change {seq} of this user in this app")
    return row


def status(connection: Connection, app: str, user: str) -> tuple[int, str, str]:
    """Return the head, which is also the number of changes that were ever pushed, the epoch, and the log mode."""
    return log_heads.read(connection, app, user).seq, current_epoch(connection), accounts.log_of(connection, app)


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
    retirement.start_again(connection)
    return epoch


def _move(cursor: int, changed_at: int, previous_at: int, device: KnownDevice | None = None) -> Move:
    before = as_datetime(previous_at) if previous_at else None
    return Move(cursor, changed_at, as_datetime(changed_at), before, device)


def _first_push(connection: Connection, device_id: str, push_id: str, digest: str) -> Row[Any] | None:
    """Return the first push with this id, or None; raise Conflict if its changes were different."""
    mine = and_(pushes.c.device_id == device_id, pushes.c.push_id == push_id)
    first = connection.execute(select(pushes).where(mine)).first()
    if first is not None and first.digest != digest:
        raise Conflict("push_id: was already used for other changes")
    return first


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
    """Return a digest of what was sent; every release must return the same one."""
    sent = [{name: value for name, value in asdict(change).items() if name != "instant"} for change in pushed]
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _row(change: Change, received_at: int) -> dict[str, str | int | None]:
    return {
        "table_name": change.table,
        "op": change.op,
        "row_id": change.row_id,
        "timestamp": change.timestamp,
        "data": change.data,
        "received_at": received_at,
        "order_at": None if change.instant is None else min(change.instant, received_at),
    }
