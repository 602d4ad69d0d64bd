"""The winners: for each row of an app's tables, the change of it that is last in the one order.

    push ──▶ advance, from the head's `winners_until` ──▶ winners: (table, row) → (order_at, device_id, seq)
    pull with `latest` ──▶ the winners behind the cursor, by `seq`; behind `winners_until` every change

The one order is (order_at, device_id, seq), where `order_at` is the earlier of the change's timestamp and the moment at
which the server received it. Only apps with the log mode ROWS have winners. All functions are parts of a transaction
that a Store runs; those that write need the lock of the head.

Why a reader that pages with `latest` gets the winner of every row. "v beats c" means that both are of one row and v is
later in the one order. Say that a reader at cursor n is complete if for every change c at or below n one of these is
true: it was given c; it was given a change that beats c; a change that beats c lies behind n. A reader at 0 is
complete, and so is one that got all changes up to n by pulls without `latest`. A complete reader that gets a page from
n to m is complete at m:

- A change c of the page is left out only if another change w won its row among all changes up to `winners_until`.
- If w lies behind m, a change that beats c lies behind m. If w is on the page, the reader is given w.
- If w is at or below n, it is complete for w: it was given w or what beats w, or a change v that beats w lies behind n.
  Since w won among the changes up to `winners_until`, v lies behind `winners_until`, and so behind m.
- A change at or below n that only had a change behind n to beat it has that one on the page, or still behind m.

At the head nothing lies behind the reader, so it was given every winner, whatever others pushed between its pages, and
also if it goes on without `latest`. The same is true within a filter by tables.

`winners_until` does not depend on who pushes. A server of an older release, or one while the app had the mode HISTORY,
moves the head and leaves `winners_until` behind. The changes in between are answered one by one, until the next pushes
or `flask synckit app set` have examined them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, Row, bindparam, case, select, tuple_

from .database.schema import changes, from_datetime, heads, of_log, winners
from .database.store import upsert_of
from .timestamps import microseconds

LOWEST = from_datetime(datetime.min.replace(tzinfo=UTC))
"""The `order_at` of a change that an administrator has blanked: every other change of its row beats it."""

MAX_AT_ONCE = 1_000
"""How many changes one transaction examines: twice what a push adds, so that pushes catch up. It takes about 40 ms."""

_HAS_DATA: ColumnElement[Any] = case((changes.c.data.is_not(None), "")).label("data")
"""The data may have 256 KiB, and is not read here."""

_EXAMINED = select(
    changes.c.table_name,
    changes.c.row_id,
    changes.c.seq,
    changes.c.device_id,
    changes.c.op,
    _HAS_DATA,
    changes.c.timestamp,
    changes.c.received_at,
    changes.c.order_at,
)
_NEXT = _EXAMINED.where(
    of_log(changes, bindparam("app"), bindparam("user")),
    changes.c.seq > bindparam("until"),
    changes.c.seq <= bindparam("last"),
)
"""Built once, since each push executes it."""


def order_at(change: Row[Any]) -> int:
    """Return a change's `order_at` in microseconds since 1970; computed for a change that an older release stored.

    Some older releases accepted timestamps that this one does not, such as leap seconds: then it is `received_at`.
    """
    if change.order_at is not None:
        return int(change.order_at)
    if change.data is None and change.op != "DELETE":
        return LOWEST
    instant = microseconds(change.timestamp)
    return int(change.received_at if instant is None else min(instant, change.received_at))


def advance(connection: Connection, app: str, user: str, until: int, head: int) -> int:
    """Examine the next changes after `until`, and return up to where the winners are complete now.

    The caller stores that in the head.
    """
    last = min(head, until + MAX_AT_ONCE)
    _keep(connection, app, user, connection.execute(_NEXT, {"app": app, "user": user, "until": until, "last": last}))
    return last


def reconsider(connection: Connection, app: str, user: str, table: str, row_id: str, until: int) -> None:
    """Find the winner of one row again, up to `until`, after one of its changes was altered."""
    connection.execute(winners.delete().where(of_log(winners, app, user), *_of_row(winners, table, row_id)))
    mine = _EXAMINED.where(of_log(changes, app, user), *_of_row(changes, table, row_id), changes.c.seq <= until)
    _keep(connection, app, user, connection.execute(mine))


def unfinished(connection: Connection, app: str) -> Sequence[str]:
    """Return the users of an app whose winners are not complete."""
    behind = select(heads.c.user_id).where(heads.c.app_id == app, heads.c.winners_until < heads.c.seq)
    return connection.execute(behind.order_by(heads.c.user_id)).scalars().all()


def last_examined(connection: Connection, app: str, user: str, after: int, until: int, most: int) -> int:
    """Return the `seq` up to which a page may read: at most `most` winners after `after`, none behind `until`."""
    mine = select(winners.c.seq).where(of_log(winners, app, user), winners.c.seq > after, winners.c.seq <= until)
    nth: int | None = connection.execute(mine.order_by(winners.c.seq).offset(most - 1).limit(1)).scalar()
    return until if nth is None else nth


def seqs(
    connection: Connection, app: str, user: str, window: tuple[int, int], tables: Sequence[str] | None, most: int
) -> Sequence[int]:
    """Return the first `most` numbers of winners in a window: those after its first `seq`, up to its second."""
    after, last = window
    mine = select(winners.c.seq).where(of_log(winners, app, user), winners.c.seq > after, winners.c.seq <= last)
    if tables is not None:
        mine = mine.where(winners.c.table_name.in_(tables))
    return connection.execute(mine.order_by(winners.c.seq).limit(most)).scalars().all()


def _keep(connection: Connection, app: str, user: str, examined: Iterable[Row[Any]]) -> None:
    """Store each change that beats the stored winner of its row."""
    best: dict[tuple[str, str], tuple[int, str, int]] = {}
    for row in examined:
        key, order = (row.table_name, row.row_id), (order_at(row), row.device_id, row.seq)
        best[key] = max(order, best.get(key, order))
    if not best:
        return
    names = ("app_id", "user_id", "table_name", "row_id", "order_at", "device_id", "seq")
    rows = [dict(zip(names, (app, user, *key, *order), strict=True)) for key, order in sorted(best.items())]
    connection.execute(_keeping(connection.dialect.name), rows)


@cache
def _keeping(dialect: str) -> Executable:
    """Return the statement that stores a winner unless the stored one beats it."""
    new = upsert_of(dialect, winners)
    stored = (winners.c.order_at, winners.c.device_id, winners.c.seq)
    sent = (new.excluded.order_at, new.excluded.device_id, new.excluded.seq)
    return new.on_conflict_do_update(
        index_elements=list(winners.primary_key.columns),
        set_={column.name: value for column, value in zip(stored, sent, strict=True)},
        where=tuple_(*sent) > tuple_(*stored),
    )


def _of_row(table: Any, name: str, row_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.table_name == name, table.c.row_id == row_id
