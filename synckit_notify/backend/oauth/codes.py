"""Authorization codes: issued when a user allows an app, exchanged for a session once, within a minute.

    store ──▶ find, redeem ──▶ session          a second exchange ──▶ that session ends (RFC 6749, section 4.1.2)

Redeeming deletes the row of the code. The hash of the code is kept with the session, so a second exchange is detected
as long as the session lasts. All functions are parts of a transaction that a Store runs. Only hashes are stored.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from .. import accounts, sessions
from ..database.schema import codes, now
from ..sessions import Holder, Session

CODE_MICROSECONDS = 60 * 1_000_000
"""A client exchanges its code within a second; the ten minutes of the RFC are a maximum."""

MAX_FORGOTTEN = 100
"""How many expired codes each new one deletes: more than it adds."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The code was already used; `holder` is the owner of the session that was ended for that, if there was one."""

    holder: Holder | None


def store(connection: Connection, code: str, *, app: str, user: Row[Any], redirect_uri: str, challenge: str) -> None:
    """Store a code; raise WrongCredentials if all of the user's sessions ended after `user` was read."""
    accounts.require_unchanged(connection, user)
    moment = now()
    _forget_expired(connection, moment)
    row = {"code_hash": _hash(code), "app_id": app, "user_id": user.id, "expires_at": moment + CODE_MICROSECONDS}
    connection.execute(codes.insert().values(row | {"redirect_uri": redirect_uri, "challenge": challenge}))


def find(connection: Connection, app: str, code: str) -> Row[Any] | None:
    """Return a code of this app that is valid, or None."""
    mine = select(codes).where(codes.c.code_hash == _hash(code), codes.c.app_id == app, codes.c.expires_at > now())
    return connection.execute(mine).first()


def was_redeemed(connection: Connection, app: str, code: str) -> bool:
    """Return whether this code was exchanged for a session of this app that has not ended."""
    return sessions.began_with(connection, app, _hash(code))


def redeem(connection: Connection, row: Row[Any], device: str | None) -> Session | Replayed:
    """Exchange a valid code for a session; of two exchanges at once, the second ends the session of the first."""
    accounts.hold(connection, row.user_id)
    taken = codes.delete().where(codes.c.code_hash == row.code_hash).returning(codes.c.code_hash)
    if connection.execute(taken).first() is None:
        return Replayed(sessions.end_of_code(connection, row.app_id, row.code_hash))
    return sessions.begin(connection, row.app_id, row.user_id, device=device, code_hash=row.code_hash)


def end_replayed(connection: Connection, app: str, code: str) -> Replayed:
    """End the session that began with this code."""
    return Replayed(sessions.end_of_code(connection, app, _hash(code)))


def _forget_expired(connection: Connection, moment: int) -> None:
    """Delete expired codes; skip those that are locked, since waiting here could cause a deadlock."""
    expired = select(codes.c.code_hash).where(codes.c.expires_at <= moment).limit(MAX_FORGOTTEN)
    if found := connection.execute(expired.with_for_update(skip_locked=True)).scalars().all():
        connection.execute(codes.delete().where(codes.c.code_hash.in_(found)))


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
