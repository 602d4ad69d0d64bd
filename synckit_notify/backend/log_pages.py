"""The pages of a pull: which part of the log one page reads, and what it returns of it.

    query ──▶ window (found by index: where the filter begins to match) ──▶ rows, up to the limits of count and size

A page reads a bounded number of rows, all by an index, so that a pull takes some milliseconds whatever it asks for, and
a pull by table passes over the changes of other tables without reading them. All functions are parts of a transaction
that a Store runs.
"""

import sys
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, bindparam, select, tuple_

from . import winners
from .database.schema import changes, of_log

MAX_CHANGES = 500
PAGE_BYTES = 2**20
"""Approximate size of the `data` in one page: 500 changes of the largest size would be 125 MiB of memory."""
MAX_EXAMINED = 5_000
"""How many winners one page of a pull by table with `latest` reads, which takes some milliseconds."""

ROWS_AT_ONCE = 64
"""How many changes are fetched from the database at a time, so that few are fetched in vain when the page is full."""

_MINE = of_log(changes, bindparam("app"), bindparam("user"))
_RECEIVED_AT = (
    select(changes.c.received_at).where(_MINE, changes.c.seq >= bindparam("seq")).order_by(changes.c.seq).limit(1)
)
_PLACE = tuple_(changes.c.table_name, changes.c.seq)
_OF_TABLE = (
    # Compare (table, seq) as a pair: otherwise PostgreSQL may scan the whole log for a table it expects to be frequent.
    select(changes.c.seq)
    .where(_MINE, tuple_(bindparam("table"), bindparam("after")) < _PLACE)
    .where(tuple_(bindparam("table"), bindparam("last")) >= _PLACE)
    .order_by(changes.c.table_name, changes.c.seq)
    .limit(bindparam("most"))
)
_OF_SEQS = select(changes).where(_MINE, changes.c.seq.in_(bindparam("seqs", expanding=True))).order_by(changes.c.seq)
"""All are built once: to build one takes as long as to execute it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The parameters of a pull; `since` is inclusive and `until` exclusive, both in microseconds since 1970.

    With `latest` only the winner of each row is answered. `confirmed` is the `seq` up to which the device has applied
    the log; without it that is the cursor of a pull without a filter.
    """

    cursor: int
    limit: int = MAX_CHANGES
    tables: Sequence[str] | None = None
    since: int | None = None
    until: int | None = None
    epoch: str | None = None
    latest: bool = False
    confirmed: int | None = None

    @property
    def is_filtered(self) -> bool:
        """Return whether the reader passes over changes that it does not want."""
        return (self.tables, self.since, self.until) != (None, None, None)


class Window(NamedTuple):
    """The part of the log that one page reads: after `after`, up to and including `last`.

    `cursor` and `has_more` are the values of the page if all matching rows fit in it. With `winners_only` it reads the
    winners alone.
    """

    after: int
    last: int
    cursor: int
    has_more: bool
    winners_only: bool = False


def read_page(
    connection: Connection, app: str, user: str, head: int, winners_until: int, query: Query
) -> tuple[list[Row[Any]], int, bool]:
    """Return the rows of the next page, its cursor, and whether there are more."""
    window = _window(connection, app, user, head, winners_until, query)
    with closing(_found(connection, app, user, window, query)) as found:
        rows, is_full = _page(found, query.limit)
    return (rows, rows[-1].seq, True) if is_full else (rows, window.cursor, window.has_more)


def _window(connection: Connection, app: str, user: str, head: int, winners_until: int, query: Query) -> Window:
    """Find by index which part of the log a page must read; none if the filter matches nothing."""
    if query.latest and query.cursor < winners_until:
        last = winners_until
        if query.tables is not None:
            last = winners.last_examined(connection, app, user, query.cursor, last, MAX_EXAMINED)
        return Window(query.cursor, last, last, has_more=last < head, winners_only=True)
    return _window_of_all(connection, app, user, head, query)


def _window_of_all(connection: Connection, app: str, user: str, head: int, query: Query) -> Window:
    after, last = query.cursor, head
    if query.since is not None:
        after = _first_at(connection, app, user, query.since, after, head) - 1
    if query.until is not None:
        last = _first_at(connection, app, user, query.until, after, head) - 1
    return Window(after, last, head, has_more=False)


def _first_at(connection: Connection, app: str, user: str, moment: int, after: int, head: int) -> int:
    """Return the first `seq` received at or after a time; by bisection, since times increase with `seq`."""

    def received_at(seq: int) -> int:
        found = connection.execute(_RECEIVED_AT, {"app": app, "user": user, "seq": seq}).scalar()
        return sys.maxsize if found is None else int(found)

    behind = range(after + 1, head + 1)
    return after + 1 + bisect_left(behind, moment, key=received_at)


def _found(
    connection: Connection, app: str, user: str, window: Window, query: Query
) -> Generator[Row[Any], None, None]:
    """Yield the rows of a window that match, one more than the limit if there are so many."""
    part, most = (window.after, window.last), query.limit + 1
    if window.winners_only:
        yield from _rows(connection, app, user, winners.seqs(connection, app, user, part, query.tables, most))
    elif query.tables is not None:
        yield from _rows(connection, app, user, _seqs_of(connection, app, user, part, set(query.tables), most))
    else:
        with connection.execute(_range(app, user, window).limit(most)) as found:
            yield from found


def _seqs_of(
    connection: Connection, app: str, user: str, part: tuple[int, int], tables: Iterable[str], most: int
) -> Sequence[int]:
    """Return the first `most` numbers of changes of these tables in a part of the log."""
    limits = dict(zip(("after", "last"), part, strict=True)) | {"app": app, "user": user, "most": most}
    found = (connection.execute(_OF_TABLE, limits | {"table": table}).scalars() for table in tables)
    return sorted(chain.from_iterable(found))[:most]


def _rows(connection: Connection, app: str, user: str, seqs: Sequence[int]) -> Iterator[Row[Any]]:
    """Yield changes by their numbers.

    A few at a time, and by their keys instead of a join: a database might read the whole log for that, or sort rows
    with all their data.
    """
    for first in range(0, len(seqs), ROWS_AT_ONCE):
        some = seqs[first : first + ROWS_AT_ONCE]
        yield from connection.execute(_OF_SEQS, {"app": app, "user": user, "seqs": some})


def _range(app: str, user: str, window: Window) -> Select[Any]:
    rows = select(changes).where(of_log(changes, app, user), changes.c.seq > window.after, changes.c.seq <= window.last)
    rows = rows.order_by(changes.c.seq)
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
