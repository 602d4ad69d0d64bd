"""Sessions: a device stays logged in by trading its refresh token for the next one, until somebody logs out.

    begin ──▶ token 1 ── renew ──▶ token 2 ── renew ──▶ token 3 ...        a family of tokens, always one row

A token is the name of its family and a secret. Of those given so far

    the last one       is traded for its successor;
    the one before it  gets the same successor again, since the answer that held it may have been lost;
    any other          is a copy in the wrong hands, or made up: the family ends, for the thief as for the owner.

A successor is computed from its token and a stored salt, so a repeat needs no stored token: the database holds hashes
and salts only. Older tokens need no row either, since only their holders can name the family. What is not noticed is a
thief who keeps pace with the owner, asking for each successor before it is used. All functions are pieces of a
transaction, to be run by a Store.
"""

import enum
import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, select

from . import accounts
from .schema import devices, now, sessions, users

IDLE_MICROSECONDS = 90 * 24 * 3600 * 1_000_000
"""A device that was off for a season is still logged in; one that was lost is not for ever."""

MOST_SESSIONS = 50
"""Per app and user: a script that logs in again and again must not fill the disk."""

MOST_FORGOTTEN = 100
"""By each log-in, of those that have expired: more than it adds."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a device needs to go on: its refresh token, and what its next access token is signed with."""

    app: str
    user: str
    refresh_token: str
    valid_since: int | None


class Refusal(enum.Enum):
    """Why a refresh token is not renewed. A value and no error: the end of a family must be committed."""

    UNKNOWN = "the refresh token is unknown or has expired"
    FOREIGN = "the refresh token was given to another client"
    REUSED = "the refresh token was used up before: its session has ended, log in again"


def begin(connection: Connection, app: str, user: str) -> Session:
    """Begin a session, after a log-in."""
    moment = now()
    _forget_expired(connection, moment)
    _make_room(connection, app, user)
    family = secrets.token_urlsafe(16)
    token = f"{family}.{secrets.token_urlsafe(32)}"
    row = {"family_hash": _hash(family), "app_id": app, "user_id": user, "current_hash": _hash(token)}
    connection.execute(sessions.insert().values(row | {"created_at": moment, "expires_at": moment + IDLE_MICROSECONDS}))
    return Session(app, user, token, accounts.valid_since(connection, user))


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
    return Session(app, row.user_id, successor, accounts.valid_since(connection, row.user_id))


def log_out(connection: Connection, email: str) -> tuple[str, set[str]]:
    """End a user's sessions and refuse every token so far; return the user's id and the apps that were in use.

    Raises Unknown.
    """
    user = connection.execute(select(users).where(users.c.email == accounts.normalise(email))).first()
    if user is None:
        raise accounts.Unknown("there is no such account")
    # Later than any token so far: `iat` is in whole seconds, and one made after an earlier log-out may be ahead of now.
    since = max(int(time.time()), user.valid_since or 0) + 1
    connection.execute(users.update().where(users.c.id == user.id).values(valid_since=since))
    ended = connection.execute(sessions.delete().where(sessions.c.user_id == user.id).returning(sessions.c.app_id))
    registered = connection.execute(select(devices.c.app_id).where(devices.c.user_id == user.id).distinct())
    return user.id, {*ended.scalars(), *registered.scalars()}


def _keep(
    connection: Connection, mine: ColumnElement[bool], token: str, successor: str, salt: str, moment: int
) -> None:
    """Remember the step from a token to its successor; a repeat writes the same again, with a later end."""
    step = {"previous_hash": _hash(token), "salt": salt, "current_hash": _hash(successor)}
    connection.execute(sessions.update().where(mine).values(step | {"expires_at": moment + IDLE_MICROSECONDS}))


def _forget_expired(connection: Connection, moment: int) -> None:
    expired = select(sessions.c.family_hash).where(sessions.c.expires_at <= moment)
    _forget(connection, expired.order_by(sessions.c.expires_at).limit(MOST_FORGOTTEN))


def _make_room(connection: Connection, app: str, user: str) -> None:
    """Forget the sessions that were not used for longest, so that one more may begin."""
    mine = select(sessions.c.family_hash).where(sessions.c.app_id == app, sessions.c.user_id == user)
    surplus = mine.order_by(sessions.c.expires_at.desc()).offset(MOST_SESSIONS - 1)
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
