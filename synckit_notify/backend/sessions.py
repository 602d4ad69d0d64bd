"""Sessions: a device stays logged in by exchanging its refresh token for the next one, until it is logged out.

    begin ──▶ token 1 ── renew ──▶ token 2 ── renew ──▶ token 3 ...        a family of tokens, stored as one row

A token consists of the id of its family and a secret. What `renew` does depends on the token:

    the newest one     is exchanged for its successor;
    the one before it  gets the same successor again, since the response that held it may have been lost;
    any other          was stolen or is made up: the session ends, for the thief and for the owner.

A successor is computed from its token and a stored salt, so it can be computed again: the database holds hashes and
salts only. Older tokens are not stored: nobody else knows the id of the family. One theft is not detected: a thief who
always renews before the owner does, and whose tokens the owner never presents again.

Every access token names its session, so ending a session refuses all of its tokens at their next request. Its open
streams end when the caller passes the Holder to `Notifier.disconnect` after the commit. All functions are parts of a
transaction that a Store runs. They lock the user first, then codes and devices, then sessions, so that there is no
deadlock.
"""

import enum
import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, exists, select

from . import accounts
from .database.schema import codes, devices, now, sessions, users
from .errors import NotFound

IDLE_MICROSECONDS = 90 * 24 * 3600 * 1_000_000
"""90 days: a device that was off for a season stays logged in, a lost device does not stay so for ever."""

MAX_SESSIONS = 50
"""For each app and user: a script that logs in again and again must not fill the disk."""

MAX_FORGOTTEN = 100
"""How many expired sessions each log-in deletes: more than it adds."""


_VALID_SINCE = select(
    select(users.c.valid_since).where(users.c.id == bindparam("user")).scalar_subquery(),
    exists().where(sessions.c.family_hash == bindparam("session")),
)
"""Built once, since every request executes it."""

_HOLDER = (sessions.c.app_id, sessions.c.user_id, sessions.c.device_id)


@dataclass(frozen=True, slots=True)
class Session:
    """A session after a log-in or a renewal: the refresh token, and the values for the next access token."""

    id: str
    app: str
    user: str
    refresh_token: str
    valid_since: int | None


class Holder(NamedTuple):
    """The owner of a session, as arguments for `Notifier.disconnect`; without a device, all of the user's devices."""

    app: str
    user: str
    device: str | None


class Refusal(enum.Enum):
    """Why a refresh token is not renewed. A value, since an exception would roll back the end of the session."""

    UNKNOWN = "the refresh token is unknown or has expired"
    FOREIGN = "the refresh token belongs to another client"
    REUSED = "the refresh token was already used: its session has ended, log in again"


def begin(
    connection: Connection, app: str, user: str, *, device: str | None = None, code_hash: str | None = None
) -> Session:
    """Begin a session after a log-in; a device that is not registered is ignored."""
    moment, owner = now(), accounts.hold(connection, user)
    _forget_expired(connection, moment)
    known = None if device is None else accounts.hold_device(connection, app, user, device)
    _make_room(connection, app, user)
    family = secrets.token_urlsafe(16)
    token = f"{family}.{secrets.token_urlsafe(32)}"
    row = {"family_hash": _hash(family), "app_id": app, "user_id": user, "device_id": known, "code_hash": code_hash}
    times = {"created_at": moment, "expires_at": moment + IDLE_MICROSECONDS}
    connection.execute(sessions.insert().values(row | times | {"current_hash": _hash(token)}))
    return Session(_hash(family), app, user, token, None if owner is None else owner.valid_since)


def renew(connection: Connection, app: str, token: str) -> Session | Refusal:
    """Exchange a refresh token for its successor, or return why not."""
    moment = now()
    family = token.partition(".")[0]
    mine = sessions.c.family_hash == _hash(family)
    row = connection.execute(select(sessions).where(mine, sessions.c.expires_at > moment).with_for_update()).first()
    if row is None:
        return Refusal.UNKNOWN
    if row.app_id != app:
        return Refusal.FOREIGN
    salts = {row.previous_hash: row.salt, row.current_hash: secrets.token_hex(16)}
    salt = salts.get(_hash(token))
    if salt is None:
        connection.execute(sessions.delete().where(mine))
        return Refusal.REUSED
    successor = _successor(family, token, salt)
    _keep(connection, mine, token, successor, salt, moment)
    return Session(row.family_hash, app, row.user_id, successor, accounts.valid_since(connection, row.user_id))


def holder(connection: Connection, token: str) -> Holder | None:
    """Return the owner of the session that a refresh token names, even if the token is not valid."""
    mine = sessions.c.family_hash == _hash(token.partition(".")[0])
    row = connection.execute(select(*_HOLDER).where(mine)).first()
    return None if row is None else Holder(*row)


def valid_since(connection: Connection, user: str, session: str | None) -> datetime | None:
    """Return the time before which the user's tokens are refused; the latest possible time for an ended session."""
    second, lives = connection.execute(_VALID_SINCE, {"user": user, "session": session}).one()
    if session is not None and not lives:
        return datetime.max.replace(tzinfo=UTC)
    return None if second is None else datetime.fromtimestamp(second, UTC)


def bind(connection: Connection, session: str, device: str) -> None:
    """Store which device a session belongs to."""
    connection.execute(sessions.update().where(sessions.c.family_hash == session).values(device_id=device))


def device_of(connection: Connection, session: str | None) -> str | None:
    """Return which device a session belongs to, or None if that is not known."""
    mine = select(sessions.c.device_id).where(sessions.c.family_hash == session)
    found: str | None = connection.execute(mine).scalar()
    return found


def delete_device(connection: Connection, app: str, user: str, device: str) -> Holder:
    """Delete a device and end its sessions; raise NotFound."""
    accounts.delete_device(connection, app, user, device)
    mine = and_(sessions.c.user_id == user, sessions.c.app_id == app, sessions.c.device_id == device)
    connection.execute(sessions.delete().where(mine))
    return Holder(app, user, device)


def end(connection: Connection, session: str) -> Holder | None:
    """End one session and return its owner, or None if it has ended already."""
    mine = sessions.delete().where(sessions.c.family_hash == session)
    row = connection.execute(mine.returning(*_HOLDER)).first()
    return None if row is None else Holder(*row)


def began_with(connection: Connection, app: str, code_hash: str) -> bool:
    """Return whether this code began a session of this app that has not ended."""
    return connection.execute(select(sessions.c.family_hash).where(*_of_code(app, code_hash))).first() is not None


def end_of_code(connection: Connection, app: str, code_hash: str) -> Holder | None:
    """End the session of this app that began with this code and return its owner; None if there is none."""
    row = connection.execute(sessions.delete().where(*_of_code(app, code_hash)).returning(*_HOLDER)).first()
    return None if row is None else Holder(*row)


def log_out(connection: Connection, user_id: str) -> set[Holder]:
    """End all sessions of a user and refuse all tokens issued so far; raise NotFound."""
    user = accounts.hold(connection, user_id)
    if user is None:
        raise NotFound("there is no such account")
    # Later than the `iat` of all tokens: it has whole seconds, and may be ahead of the clock after an earlier log-out.
    since = min(max(int(time.time()), user.valid_since or 0) + 1, accounts.DISABLED)
    connection.execute(users.update().where(users.c.id == user_id).values(valid_since=since))
    connection.execute(codes.delete().where(codes.c.user_id == user_id))
    ended = connection.execute(sessions.delete().where(sessions.c.user_id == user_id).returning(sessions.c.app_id))
    registered = connection.execute(select(devices.c.app_id).where(devices.c.user_id == user_id).distinct())
    return {Holder(app, user_id, None) for app in (*ended.scalars(), *registered.scalars())}


def set_password(connection: Connection, user_id: str, password_hash: str) -> set[Holder]:
    """Store a new password and end all sessions; raise NotFound."""
    connection.execute(users.update().where(users.c.id == user_id).values(password_hash=password_hash))
    return log_out(connection, user_id)


def _of_code(app: str, code_hash: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return sessions.c.code_hash == code_hash, sessions.c.app_id == app


def _keep(
    connection: Connection, mine: ColumnElement[bool], token: str, successor: str, salt: str, moment: int
) -> None:
    """Store the step from a token to its successor; repeating it only moves the expiry."""
    step = {"previous_hash": _hash(token), "salt": salt, "current_hash": _hash(successor)}
    connection.execute(sessions.update().where(mine).values(step | {"expires_at": moment + IDLE_MICROSECONDS}))


def _forget_expired(connection: Connection, moment: int) -> None:
    expired = select(sessions.c.family_hash).where(sessions.c.expires_at <= moment)
    _forget(connection, expired.order_by(sessions.c.expires_at).limit(MAX_FORGOTTEN))


def _make_room(connection: Connection, app: str, user: str) -> None:
    """Delete the sessions that have not been used for longest, so that there is room for one more."""
    mine = select(sessions.c.family_hash).where(sessions.c.app_id == app, sessions.c.user_id == user)
    surplus = mine.order_by(sessions.c.expires_at.desc()).offset(MAX_SESSIONS - 1)
    _forget(connection, select(sessions.c.family_hash).where(sessions.c.family_hash.in_(surplus)))


def _forget(connection: Connection, which: Select[tuple[str]]) -> None:
    """Delete sessions; skip those that are locked, since waiting here could cause a deadlock."""
    if found := connection.execute(which.with_for_update(skip_locked=True)).scalars().all():
        connection.execute(sessions.delete().where(sessions.c.family_hash.in_(found)))


def _successor(family: str, token: str, salt: str) -> str:
    secret = hmac.digest(token.encode(), salt.encode(), "sha256")
    return f"{family}.{urlsafe_b64encode(secret).decode().rstrip('=')}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
