"""The heads of the logs: one row for each log (app and user), which is locked by whatever changes that log.

All functions are parts of a transaction that a Store runs. In a transaction that locks both, the head is locked before
the user's devices.
"""

from typing import NamedTuple

from sqlalchemy import Connection, select

from .database.schema import heads, of_log
from .database.store import upsert


class Head(NamedTuple):
    """The head of a log.

    `seq` is the highest one that was ever assigned, `changed_at` when the log last changed. The winners are complete up
    to `winners_until`. `dropped_until` is the highest `seq` of a deletion marker that compaction has dropped.
    """

    seq: int = 0
    changed_at: int = 0
    winners_until: int = 0
    dropped_until: int = 0


_COLUMNS = tuple(heads.c[name] for name in Head._fields)


def lock(connection: Connection, app: str, user: str) -> Head:
    """Lock the head until the transaction ends and return it; create it for a new log."""
    new = upsert(connection, heads).values(app_id=app, user_id=user, seq=0, changed_at=0)
    either = new.on_conflict_do_update(index_elements=[heads.c.app_id, heads.c.user_id], set_={"seq": heads.c.seq})
    return Head(*connection.execute(either.returning(*_COLUMNS)).one())


def lock_present(connection: Connection, app: str, user: str) -> Head | None:
    """Lock the head until the transaction ends and return it; None if nothing was ever pushed to this log."""
    found = connection.execute(select(*_COLUMNS).where(of_log(heads, app, user)).with_for_update()).first()
    return None if found is None else Head(*found)


def read(connection: Connection, app: str, user: str) -> Head:
    """Return the head, zeros for a log to which nothing was ever pushed."""
    found = connection.execute(select(*_COLUMNS).where(of_log(heads, app, user))).first()
    return Head() if found is None else Head(*found)


def move(connection: Connection, app: str, user: str, head: Head) -> None:
    """Store a head that this transaction has locked."""
    connection.execute(heads.update().where(of_log(heads, app, user)).values(head._asdict()))
