"""Which devices must read the log again from its start, before they may push or pull from where they were.

    in step        `reread` is NULL. Deletion markers behind its `confirmed` are kept for it (compaction.py).
    must reread    `reread` is 0: a compaction has retired it, or it was restored from a copy. Nothing is kept for it.
    reading again  `reread` is n: it has read up to n. Markers behind its `confirmed` are kept for it again.

A device in step is served from p, the `seq` up to which it has applied the log, if p is not below its stored
`confirmed`, or if no marker behind p was ever dropped, which `dropped_until` of the head tells. Otherwise it went back.
If it went back to 0, it reads everything again anyway, and 0 is stored at once. Anywhere else it must reread. For a
device that is reading again, p is its cursor.

Why no device in step misses a marker. Say that the marker m was dropped, and then the device is served from a p with
0 < p < m. Then the stored `confirmed` is at most p now. It was at least m when m was dropped, so it became lower
meanwhile. Only a pull from 0 makes it lower than a marker that was dropped. So the device has begun again at 0 since,
in a log without m and without what m had beaten.

All of this is decided and stored under the lock of the log's head, as is what compaction drops. Only a `confirmed` that
rises may be stored later and without it (last_seen.py). All functions are parts of a transaction that a Store runs.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Subquery, and_, func, or_, select

from .accounts import KnownDevice, devices_of
from .database.schema import devices, now
from .errors import MustReadAgain
from .log_heads import Head
from .log_pages import Query


def require_in_step(device: KnownDevice) -> None:
    """Raise MustReadAgain for a push of a device that must read the log again first, or is about to."""
    if device.reread is not None:
        raise MustReadAgain


def require_place(device: KnownDevice, query: Query) -> None:
    """Raise MustReadAgain for a pull of a device that must read the log again, unless it continues or begins that."""
    if device.reread is not None and (query.is_filtered or query.cursor > device.reread):
        raise MustReadAgain


def applied(query: Query) -> int | None:
    """Return up to where the device says that it has applied the log; None if a pull with a filter does not tell."""
    if query.confirmed is not None:
        return query.confirmed
    return None if query.is_filtered else query.cursor


def is_in_step(device: KnownDevice, query: Query) -> bool:
    """Return whether a pull continues at or behind the stored `confirmed`, so that nothing must be stored at once."""
    if device.reread is not None or device.confirmed is None:
        return False
    place = applied(query)
    return place is None or place >= device.confirmed


def went_back(device: KnownDevice, head: Head, query: Query) -> bool:
    """Return whether a device may have missed a marker, since it is before its stored `confirmed`."""
    place = applied(query) if device.reread is None else query.cursor
    is_before = place is not None and (device.confirmed is None or place < device.confirmed)
    return is_before and 0 < (place or 0) < head.dropped_until


def store(connection: Connection, device_id: str, confirmed: int | None, reread: int | None) -> None:
    """Store the place of a device that uses the log now; needs the lock of the head."""
    place = {"last_seen_at": now(), "confirmed": confirmed, "reread": reread}
    connection.execute(devices.update().where(devices.c.id == device_id).values(place))


def silent(connection: Connection, app: str, user: str, before: int) -> Sequence[str]:
    """Return the devices to retire: those that have pulled, but neither pushed nor pulled since a time."""
    mine = devices_of(app, user)
    seen_at = func.coalesce(mine.c.last_seen_at, mine.c.created_at)
    ids = select(mine.c.id).where(_counted(mine), seen_at < before).order_by(mine.c.id)
    return connection.execute(ids).scalars().all()


def retire(connection: Connection, ids: Sequence[str]) -> None:
    """Let these devices read the log again; needs the lock of the head."""
    locked = select(devices.c.id).where(devices.c.id.in_(ids)).order_by(devices.c.id).with_for_update()
    connection.execute(devices.update().where(devices.c.id.in_(locked)).values(reread=0))


def kept_behind(connection: Connection, app: str, user: str, retired: Sequence[str]) -> int | None:
    """Return the lowest `confirmed` of the devices for which markers are kept; None if there are none."""
    mine = devices_of(app, user)
    lowest = select(func.min(mine.c.confirmed)).where(_counted(mine), mine.c.id.not_in(retired))
    found: int | None = connection.execute(lowest).scalar()
    return found


def start_again(connection: Connection) -> None:
    """Set all devices back to the start of the log, after a restore from a backup with a new epoch.

    A device in step is then one that has applied nothing: markers are kept for it until it has read the log, or is
    retired. A device that was retired stays so. For one that had not pulled before the backup nothing is known.
    """
    for column in (devices.c.confirmed, devices.c.reread):
        known = select(devices.c.id).where(column.is_not(None)).order_by(devices.c.id).with_for_update()
        connection.execute(devices.update().where(devices.c.id.in_(known)).values({column: 0}))


def _counted(mine: Subquery) -> ColumnElement[bool]:
    """Select the devices that have pulled and are not retired: those in step, and those reading again."""
    return and_(mine.c.confirmed.is_not(None), or_(mine.c.reread.is_(None), mine.c.reread > 0))
