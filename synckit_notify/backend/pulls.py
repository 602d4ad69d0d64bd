"""Pulls: a page of the log for a device, and how far that device has read.

    in step      read the page in a snapshot ──▶ (the device's place is noted later, last_seen.py)
    otherwise    lock the head ── may this device read on? ── read the page ── store the device's place ── commit

The second way is for a first pull, for one that goes back, and for a device that reads the log again (retirement.py):
then a compaction beside it must know where the device is before it drops what the device needs.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row

from . import accounts, changelog, log_heads, retirement
from .accounts import KnownDevice
from .database.schema import ROWS, now
from .database.store import Store
from .errors import Conflict, InvalidField, MustReadAgain
from .log_heads import Head
from .log_pages import Query, read_page

COMMIT_MICROSECONDS = 2_000_000
"""A push must commit within this time after its `received_at`; the clocks of several servers must differ by less."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a pull.

    Once `has_more` is false, all changes that later pulls return were received at or after `complete_until`. `device`
    and `confirmed`, up to where it has applied the log, are for LastSeen; without a device they are stored already.
    """

    rows: list[Row[Any]]
    cursor: int
    has_more: bool
    epoch: str
    complete_until: int
    device: KnownDevice | None = None
    confirmed: int | None = None


def pull(store: Store, app: str, user: str, device_id: str, query: Query) -> Page:
    """Return changes after the cursor; raise NotFound for an unknown device, Conflict if the log was replaced.

    Raises MustReadAgain for a device that is retired or was restored from a copy, and InvalidField for `latest` where
    it is not served.
    """
    page = store.read(partial(_in_step, app=app, user=user, device_id=device_id, query=query), owner=user)
    if page is None:
        page = store.write(partial(_stored, app=app, user=user, device_id=device_id, query=query), owner=user)
    if page is None:
        raise MustReadAgain
    return page


def _in_step(connection: Connection, app: str, user: str, device_id: str, query: Query) -> Page | None:
    """Return a page for a device in step, None if its place must be stored in the same transaction."""
    started = now()  # before the first statement, which creates the snapshot of the transaction
    device = accounts.require_device(connection, app, user, device_id)
    head = log_heads.read(connection, app, user)
    epoch = _check(connection, app, device, head, query)
    if not retirement.is_in_step(device, query):
        return None
    page = read_page(connection, app, user, head.seq, head.winners_until, query)
    return Page(*page, epoch, _complete_until(head, started), device, retirement.applied(query))


def _stored(connection: Connection, app: str, user: str, device_id: str, query: Query) -> Page | None:
    """Return a page and store the device's place; None if the device must read the log again, which is stored too."""
    started = now()
    head = log_heads.lock_present(connection, app, user) or Head()
    device = accounts.require_device(connection, app, user, device_id)
    epoch = _check(connection, app, device, head, query)
    if retirement.went_back(device, head, query):
        retirement.store(connection, device_id, device.confirmed, reread=0)
        return None
    rows, cursor, has_more = read_page(connection, app, user, head.seq, head.winners_until, query)
    confirmed, reread = retirement.applied(query) or 0, None
    if device.reread is not None:
        confirmed = min(confirmed, query.cursor)
        reread = cursor if has_more else None
    retirement.store(connection, device_id, confirmed, reread)
    return Page(rows, cursor, has_more, epoch, _complete_until(head, started))


def _check(connection: Connection, app: str, device: KnownDevice, head: Head, query: Query) -> str:
    """Return the epoch; raise what a pull may be refused for."""
    epoch = changelog.current_epoch(connection)
    if query.epoch not in (None, epoch) or max(query.cursor, query.confirmed or 0) > head.seq:
        raise Conflict("the log was replaced after this cursor was issued: pull again from cursor 0, without an epoch")
    if query.latest and device.log != ROWS:
        raise InvalidField(
            f"latest: the log of this app keeps the history: an administrator can change that with: flask synckit app "
            f"set {app} --log rows"
        )
    if query.latest and (query.since is not None or query.until is not None):
        raise InvalidField("latest: must not be combined with since or until")
    retirement.require_place(device, query)
    return epoch


def _complete_until(head: Head, started: int) -> int:
    """Return the time before which no change is still missing from the log.

    A push may have its `received_at` but not be committed yet, so the clock alone is not enough.
    """
    return max(head.changed_at + 1, started - COMMIT_MICROSECONDS)
