"""Authorization codes: given when a person allows an app, exchanged for a session once, within a minute.

    give ──▶ code ── find, redeem ──▶ session          find, redeem again ──▶ that session ends (RFC 6749, 4.1.2)

A code that was exchanged is a row no more: its hash stays with the session that it began, and is known there for what
it is as long as that lives. All functions are pieces of a transaction, to be run by a Store. Only hashes are stored.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from .. import accounts, sessions
from ..database.schema import codes, now
from ..sessions import Holder, Session

CODE_MICROSECONDS = 60 * 1_000_000
"""A client exchanges its code in the same second; the RFC's ten minutes are for slow redirects."""

MAX_FORGOTTEN = 100
"""By each new code, of those that have expired: more than it adds."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The code came once more; whose session has ended, if it began one."""

    holder: Holder | None


def give(connection: Connection, code: str, *, app: str, user: Row[Any], redirect_uri: str, challenge: str) -> None:
    """Store a code; raises WrongCredentials if all of the user's sessions ended since `user` was read."""
    accounts.require_unchanged(connection, user)
    moment = now()
    _forget_expired(connection, moment)
    row = {"code_hash": _hash(code), "app_id": app, "user_id": user.id, "expires_at": moment + CODE_MICROSECONDS}
    connection.execute(codes.insert().values(row | {"redirect_uri": redirect_uri, "challenge": challenge}))


def find(connection: Connection, app: str, code: str) -> Row[Any] | None:
    """Return a code of this app that is still good."""
    mine = select(codes).where(codes.c.code_hash == _hash(code), codes.c.app_id == app, codes.c.expires_at > now())
    return connection.execute(mine).first()


def was_redeemed(connection: Connection, app: str, code: str) -> bool:
    """Return whether a session of this app began with this code."""
    return sessions.began_with(connection, app, _hash(code))


def redeem(connection: Connection, row: Row[Any], device: str | None) -> Session | Replayed:
    """Exchange a code that was found and is the client's; of two at once, the second ends the first one's session."""
    accounts.hold(connection, row.user_id)
    taken = codes.delete().where(codes.c.code_hash == row.code_hash).returning(codes.c.code_hash)
    if connection.execute(taken).first() is None:
        return Replayed(sessions.end_of_code(connection, row.app_id, row.code_hash))
    return sessions.begin(connection, row.app_id, row.user_id, device=device, code_hash=row.code_hash)


def end_replayed(connection: Connection, app: str, code: str) -> Replayed:
    """End the session that began with a code which is not good any more."""
    return Replayed(sessions.end_of_code(connection, app, _hash(code)))


def _forget_expired(connection: Connection, moment: int) -> None:
    """Delete what has expired, but for codes that somebody else is deleting: waiting here could end in a deadlock."""
    expired = select(codes.c.code_hash).where(codes.c.expires_at <= moment).limit(MAX_FORGOTTEN)
    if found := connection.execute(expired.with_for_update(skip_locked=True)).scalars().all():
        connection.execute(codes.delete().where(codes.c.code_hash.in_(found)))


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
