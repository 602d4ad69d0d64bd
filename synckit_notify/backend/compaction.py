"""Compaction: drop from the log of an app with the mode ROWS what no device needs any more.

    catch up with the winners ──▶ drop every change that another one of its row beats ──▶ retire silent devices
    and drop the deletion markers that every other device has applied

A deletion marker is a DELETE that is the winner and the only change of its row. The log is read in transactions that
lock nothing. Each transaction that drops something locks the log's head, checks again what it drops, and takes some
milliseconds. So pushes, pulls and a second compaction may run beside it, and it may be killed at any moment: what is
left is dropped by the next one.

Why no reader misses the winner of a row. A change c is dropped only while another change w wins its row among all
changes up to `winners_until`. That is the reason for which a page of a pull with `latest` leaves c out, so the argument
in winners.py holds for every pull: at the head a reader was given every winner that is in the log.

Why no reader misses a deletion whose marker m was dropped. Readers with rows of before m are of three kinds.

- A device in step with a `confirmed` at or behind m has applied m, and every edit that it makes later beats m.
- A device in step before m is one for which m is kept; retirement.py has the argument for one that goes back.
- A retired device may neither push nor read on from its cursor. When it has read from 0 to the head, its rows without a
  change in the log were deleted. While it reads, markers behind its `confirmed` are kept again.

And no change that m had beaten remains to revive the row: the changes up to where the log was examined are dropped
already, and m stays if the log has one of its row behind that. An administrator who blanks a winner (changelog.py)
makes an exception: the changes that it had beaten may be gone.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, delete, func, select

from . import changelog, log_heads, retirement
from .database.schema import ROWS, apps, changes, heads, of_log, winners
from .database.store import Store

EXAMINED_AT_ONCE = 5_000
"""The number of changes that one transaction reads. It takes some milliseconds and locks nothing."""

DROPPED_AT_ONCE = 100
"""The number of changes that one transaction drops. Pushes of the account wait meanwhile; on SQLite all pushes do."""

BYTES_AT_ONCE = 2**20
"""The number of bytes of `data` that one transaction drops."""

MAX_LATE = 1_000
"""How many changes that were not examined a transaction looks through; if there are more, they are examined first."""

PAUSE_SECONDS = 0.02
"""After a transaction, so that pushes take their turn: on SQLite one waits for the other's lock in sleeps."""

PAUSES = 3
"""The pause after a transaction is at least so many times as long as that took, on a machine that is busy."""


class Found(NamedTuple):
    """A change that may be dropped, and the bytes of its `data`."""

    seq: int
    bytes: int


class Part(NamedTuple):
    """What was found in a part of a log, which ends with `last`."""

    last: int
    beaten: list[Found]
    markers: list[Found]


@dataclass(frozen=True, slots=True)
class Saved:
    """What a compaction has dropped, or would drop; `bytes` are those of `data`."""

    changes: int = 0
    markers: int = 0
    bytes: int = 0
    devices: int = 0

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(
            self.changes + other.changes,
            self.markers + other.markers,
            self.bytes + other.bytes,
            self.devices + other.devices,
        )


def logs_of(connection: Connection, app: str) -> Sequence[tuple[str, int]]:
    """Return the users with a log in an app, each with the highest `seq`."""
    mine = select(heads.c.user_id, heads.c.seq).where(heads.c.app_id == app).order_by(heads.c.user_id)
    return [(user, seq) for user, seq in connection.execute(mine)]


def apps_with_rows(connection: Connection) -> Sequence[tuple[str, str]]:
    """Return the id and the name of each app whose log may be compacted."""
    mine = select(apps.c.id, apps.c.name).where(apps.c.log == ROWS).order_by(apps.c.name, apps.c.id)
    return [(app, name) for app, name in connection.execute(mine)]


@dataclass
class Compaction:
    """The compaction of one log: what was received before `before` is old.

    With `is_trial` nothing is written. `on_examined` is called with the `seq` up to which the log was examined.
    """

    store: Store
    app: str
    user: str
    before: int
    is_trial: bool = False
    on_examined: Callable[[int], object] = lambda last: None
    saved: Saved = field(default_factory=Saved)
    _examined: int = 0
    _markers: list[Found] = field(default_factory=list)

    def run(self) -> Saved:
        """Compact the log and return what was saved."""
        self._drop_beaten()
        while not self._drop_markers():
            self._drop_beaten()  # many pushes came meanwhile
        return self.saved

    def _drop_beaten(self) -> None:
        while not self.is_trial and self._write(partial(changelog.catch_up, app=self.app, user=self.user)):
            pass
        while (part := self.store.read(self._examine)) is not None:
            for some in _batches(part.beaten):
                dropped = some if self.is_trial else self._write(partial(self._drop, some=some))
                self._add(changes=len(dropped), bytes=sum(each.bytes for each in dropped))
            self._markers += part.markers
            self._examined = part.last
            self.on_examined(part.last)

    def _drop_markers(self) -> bool:
        """Retire silent devices and drop the markers; return False if there are too many new changes for that."""
        retired, old = self.store.read(self._plan)
        if self.is_trial:
            self._add(devices=len(retired), markers=len(old), bytes=sum(each.bytes for each in old))
            return True
        for some in _batches(old) or ([[]] if retired else []):
            done = self._write(partial(self._retire_and_drop, some=some))
            if done is None:
                return False
            devices, dropped = done
            self._add(devices=devices, markers=len(dropped), bytes=sum(each.bytes for each in dropped))
        return True

    # Transactions

    def _examine(self, connection: Connection) -> Part | None:
        """Find what may be dropped in the next part of the log; None at its end."""
        until = log_heads.read(connection, self.app, self.user).winners_until
        if self._examined >= until:
            return None
        behind = select(changes.c.seq).where(self._of(changes), changes.c.seq > self._examined, changes.c.seq <= until)
        nth = connection.execute(behind.order_by(changes.c.seq).offset(EXAMINED_AT_ONCE - 1).limit(1)).scalar()
        last = until if nth is None else int(nth)
        found = select(changes.c.seq, _size(connection)).where(
            self._of(changes), changes.c.seq > self._examined, changes.c.seq <= last
        )
        won = select(winners.c.seq).where(self._of(winners), winners.c.seq > self._examined, winners.c.seq <= last)
        beaten = found.where(changes.c.seq.not_in(won)).order_by(changes.c.seq)
        old = found.where(changes.c.op == "DELETE", changes.c.received_at < self.before, changes.c.seq.in_(won))
        return Part(last, _found(connection.execute(beaten)), _found(connection.execute(old.order_by(changes.c.seq))))

    def _drop(self, connection: Connection, some: Sequence[Found]) -> Sequence[Found]:
        """Drop changes, but not those that are winners now."""
        if log_heads.lock_present(connection, self.app, self.user) is None:
            return []
        seqs = [each.seq for each in some]
        won = select(winners.c.seq).where(self._of(winners), winners.c.seq.in_(seqs))
        gone = delete(changes).where(self._of(changes), changes.c.seq.in_(seqs), changes.c.seq.not_in(won))
        dropped = set(connection.execute(gone.returning(changes.c.seq)).scalars())
        return [each for each in some if each.seq in dropped]

    def _plan(self, connection: Connection) -> tuple[Sequence[str], list[Found]]:
        """Return which devices are silent, and the old markers that no other device needs."""
        silent = retirement.silent(connection, self.app, self.user, self.before)
        kept = retirement.kept_behind(connection, self.app, self.user, silent)
        return silent, [each for each in self._markers if kept is None or each.seq <= kept]

    def _retire_and_drop(self, connection: Connection, some: Sequence[Found]) -> tuple[int, Sequence[Found]] | None:
        """Retire silent devices, and drop those of some markers that no other device needs.

        Return their number and what was dropped; None if there are too many new changes.
        """
        head = log_heads.lock_present(connection, self.app, self.user)
        if head is None:
            return 0, []
        late = select(changes.c.table_name, changes.c.row_id).where(self._of(changes), changes.c.seq > self._examined)
        if head.seq - self._examined > MAX_LATE:
            return None
        rows = {(each.table_name, each.row_id) for each in connection.execute(late)}
        silent = retirement.silent(connection, self.app, self.user, self.before)
        retirement.retire(connection, silent)
        kept = retirement.kept_behind(connection, self.app, self.user, silent)
        seqs = [each.seq for each in some if kept is None or each.seq <= kept]
        won = select(winners.c.seq).where(self._of(winners), winners.c.seq.in_(seqs))
        columns = (changes.c.seq, changes.c.table_name, changes.c.row_id)
        chosen = (self._of(changes), changes.c.seq.in_(seqs), changes.c.op == "DELETE", changes.c.seq.in_(won))
        markers = connection.execute(select(*columns).where(*chosen)).all()
        gone = {each.seq for each in markers if (each.table_name, each.row_id) not in rows}
        if gone:
            for table in (changes, winners):
                connection.execute(delete(table).where(self._of(table), table.c.seq.in_(gone)))
            dropped_until = max(head.dropped_until, max(gone))
            log_heads.move(connection, self.app, self.user, head._replace(dropped_until=dropped_until))
        return len(silent), [each for each in some if each.seq in gone]

    # Parts of these

    def _write(self, work: Callable[[Connection], Any]) -> Any:
        began = time.monotonic()
        result = self.store.write(work)
        time.sleep(max(PAUSE_SECONDS, PAUSES * (time.monotonic() - began)))
        return result

    def _add(self, **more: int) -> None:
        self.saved += Saved(**more)

    def _of(self, table: Any) -> ColumnElement[bool]:
        return of_log(table, self.app, self.user)


def _size(connection: Connection) -> ColumnElement[Any]:
    """Return the bytes of `data`, which PostgreSQL knows without reading it."""
    if connection.dialect.name == "postgresql":
        return func.coalesce(func.octet_length(changes.c.data), 0)
    return func.coalesce(func.length(cast(changes.c.data, LargeBinary)), 0)


def _found(rows: Iterable[Any]) -> list[Found]:
    return [Found(*row) for row in rows]


def _batches(found: Sequence[Found]) -> list[list[Found]]:
    """Split into parts that one transaction drops: at most so many changes, and about so many bytes."""
    batches: list[list[Found]] = []
    size = 0
    for each in found:
        if not batches or len(batches[-1]) == DROPPED_AT_ONCE or size + each.bytes > BYTES_AT_ONCE:
            batches.append([])
            size = 0
        batches[-1].append(each)
        size += each.bytes
    return batches
