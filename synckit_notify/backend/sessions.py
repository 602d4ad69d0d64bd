"""Sessions: a device stays logged in by trading its refresh token for the next one, until somebody logs out.

    begin ──▶ token 1 ── renew ──▶ token 2 ── renew ──▶ token 3 ...        a family of tokens, always one row

A token is the name of its family and a secret. Of those given so far

    the last one       is traded for its successor;
    the one before it  gets the same successor again, since the answer that held it may have been lost;
    any other          is a copy in the wrong hands, or made up: the family ends, for the thief as for the owner.

A successor is computed from its token and a stored salt, so a repeat needs no stored token: the database holds hashes
and salts only. Older tokens need no row either, since only their holders can name the family. What is not noticed is a
thief who keeps pace with the owner, asking for each successor before it is used.

Every access token names its session, so what ends a session here refuses all of its tokens, at the next request. Its
open streams end when the caller passes the Holder on to `Notifier.disconnect`, after the commit. All functions are
pieces of a transaction, to be run by a Store; they take hold of the user first, then of codes and devices, then of
sessions, so that no two of them wait for each other.
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
"""A device that was off for a season is still logged in; one that was lost is not for ever."""

MAX_SESSIONS = 50
"""Per app and user: a script that logs in again and again must not fill the disk."""

MAX_FORGOTTEN = 100
"""By each log-in, of those that have expired: more than it adds."""


_VALID_SINCE = select(
    select(users.c.valid_since).where(users.c.id == bindparam("user")).scalar_subquery(),
    exists().where(sessions.c.family_hash == bindparam("session")),
)
"""One statement, made once: every request asks this."""

_HOLDER = (sessions.c.app_id, sessions.c.user_id, sessions.c.device_id)


@dataclass(frozen=True, slots=True)
class Session:
    """What a device needs to go on: its refresh token, and what its next access token is signed with."""

    id: str
    app: str
    user: str
    refresh_token: str
    valid_since: int | None


class Holder(NamedTuple):
    """Whose session it was, as `Notifier.disconnect` takes it; without a device, that of any of the user's devices."""

    app: str
    user: str
    device: str | None


class Refusal(enum.Enum):
    """Why a refresh token is not renewed. A value and no error: the end of a family must be committed."""

    UNKNOWN = "the refresh token is unknown or has expired"
    FOREIGN = "the refresh token was given to another client"
    REUSED = "the refresh token was used up before: its session has ended, log in again"


def begin(
    connection: Connection, app: str, user: str, *, device: str | None = None, code_hash: str | None = None
) -> Session:
    """Begin a session, after a log-in; a device that is not registered counts as none."""
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
    """Trade a token for its successor, or tell why not."""
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
    """Return whose session a refresh token names, whether it counts or not."""
    mine = sessions.c.family_hash == _hash(token.partition(".")[0])
    row = connection.execute(select(*_HOLDER).where(mine)).first()
    return None if row is None else Holder(*row)


def valid_since(connection: Connection, user: str, session: str | None) -> datetime | None:
    """Return the moment before which a user's tokens do not count; of a session that has ended, none ever does."""
    second, lives = connection.execute(_VALID_SINCE, {"user": user, "session": session}).one()
    if session is not None and not lives:
        return datetime.max.replace(tzinfo=UTC)
    return None if second is None else datetime.fromtimestamp(second, UTC)


def bind(connection: Connection, session: str, device: str) -> None:
    """Note which device a session is."""
    connection.execute(sessions.update().where(sessions.c.family_hash == session).values(device_id=device))


def device_of(connection: Connection, session: str | None) -> str | None:
    """Return which device a session is, None where that is not known."""
    mine = select(sessions.c.device_id).where(sessions.c.family_hash == session)
    found: str | None = connection.execute(mine).scalar()
    return found


def delete_device(connection: Connection, app: str, user: str, device: str) -> Holder:
    """Forget a device and end its sessions; raises NotFound."""
    accounts.delete_device(connection, app, user, device)
    mine = and_(sessions.c.user_id == user, sessions.c.app_id == app, sessions.c.device_id == device)
    connection.execute(sessions.delete().where(mine))
    return Holder(app, user, device)


def began_with(connection: Connection, app: str, code_hash: str) -> bool:
    """Return whether a session of this app that still lives began with this code."""
    return connection.execute(select(sessions.c.family_hash).where(*_of_code(app, code_hash))).first() is not None


def end_of_code(connection: Connection, app: str, code_hash: str) -> Holder | None:
    """End the session of this app that began with this code; None if there is none."""
    row = connection.execute(sessions.delete().where(*_of_code(app, code_hash)).returning(*_HOLDER)).first()
    return None if row is None else Holder(*row)


def log_out(connection: Connection, user_id: str) -> set[Holder]:
    """End all of a user's sessions and refuse every token so far; raises NotFound."""
    user = accounts.hold(connection, user_id)
    if user is None:
        raise NotFound("there is no such account")
    # Later than any token so far: `iat` is in whole seconds, and one made after an earlier log-out may be ahead of now.
    since = min(max(int(time.time()), user.valid_since or 0) + 1, accounts.DISABLED)
    connection.execute(users.update().where(users.c.id == user_id).values(valid_since=since))
    connection.execute(codes.delete().where(codes.c.user_id == user_id))
    ended = connection.execute(sessions.delete().where(sessions.c.user_id == user_id).returning(sessions.c.app_id))
    registered = connection.execute(select(devices.c.app_id).where(devices.c.user_id == user_id).distinct())
    return {Holder(app, user_id, None) for app in (*ended.scalars(), *registered.scalars())}


def set_password(connection: Connection, user_id: str, password_hash: str) -> set[Holder]:
    """Store a new password and log out everywhere; raises NotFound."""
    connection.execute(users.update().where(users.c.id == user_id).values(password_hash=password_hash))
    return log_out(connection, user_id)


def _of_code(app: str, code_hash: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return sessions.c.code_hash == code_hash, sessions.c.app_id == app


def _keep(
    connection: Connection, mine: ColumnElement[bool], token: str, successor: str, salt: str, moment: int
) -> None:
    """Remember the step from a token to its successor; a repeat writes the same again, with a later end."""
    step = {"previous_hash": _hash(token), "salt": salt, "current_hash": _hash(successor)}
    connection.execute(sessions.update().where(mine).values(step | {"expires_at": moment + IDLE_MICROSECONDS}))


def _forget_expired(connection: Connection, moment: int) -> None:
    expired = select(sessions.c.family_hash).where(sessions.c.expires_at <= moment)
    _forget(connection, expired.order_by(sessions.c.expires_at).limit(MAX_FORGOTTEN))


def _make_room(connection: Connection, app: str, user: str) -> None:
    """Forget the sessions that were not used for longest, so that one more may begin."""
    mine = select(sessions.c.family_hash).where(sessions.c.app_id == app, sessions.c.user_id == user)
    surplus = mine.order_by(sessions.c.expires_at.desc()).offset(MAX_SESSIONS - 1)
    _forget(connection, select(sessions.c.family_hash).where(sessions.c.family_hash.in_(surplus)))


def _forget(connection: Connection, which: Select[tuple[str]]) -> None:
    """Delete sessions, but for those that somebody uses at this moment: waiting here could end in a deadlock."""
    if found := connection.execute(which.with_for_update(skip_locked=True)).scalars().all():
        connection.execute(sessions.delete().where(sessions.c.family_hash.in_(found)))


def _successor(family: str, token: str, salt: str) -> str:
    secret = hmac.digest(token.encode(), salt.encode(), "sha256")
    return f"{family}.{urlsafe_b64encode(secret).decode().rstrip('=')}"


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()
