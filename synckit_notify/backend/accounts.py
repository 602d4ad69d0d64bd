"""Accounts: apps with their API keys, users with their passwords, and devices.

Functions that take a `connection` are parts of a transaction that a Store runs. Passwords are checked outside of any
transaction (passwords.py). Only a hash of a key or a password is stored. Only the id of a deleted account is kept, so
that a token which is still valid is refused.
"""

import hashlib
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    select,
    union_all,
)

from ..errors import InvalidToken
from .database.schema import HISTORY, INSTALLED, NAMED, apps, devices, now, users
from .database.store import Store, upsert
from .errors import Conflict, NotFound, WrongCredentials, WrongPassword
from .passwords import RateLimitCheck, allow_all, matches

PLATFORMS = ("macos", "windows", "linux", "ios", "android", "web")
MAX_EMAIL_CHARACTERS = 254

MAX_DEVICES = 1_000
"""For each app and user. One registration more is not refused, since a script that registers a device at each run would
lock its user out. Instead the device that has been inactive for longest is deleted. If it is still in use, it gets a
404 and registers again."""

MAX_DELETED_AT_ONCE = 500
"""More than one registration adds, so that an account with too many devices, of an older release, shrinks soon."""

DISABLED = 253_402_300_799
"""The `valid_since` of a disabled account: the last second of the year 9999, so that every token is older."""

_APPLIED = bindparam("applied", type_=BigInteger)
_IS_AHEAD = and_(devices.c.reread.is_(None), devices.c.confirmed < _APPLIED)
_NOTE_SEEN = (
    devices.update()
    .where(devices.c.id == bindparam("device"))
    .values(last_seen_at=bindparam("moment"), confirmed=case((_IS_AHEAD, _APPLIED), else_=devices.c.confirmed))
)


class KnownDevice(NamedTuple):
    """What is stored of a device that pushes or pulls, and the log mode of its app."""

    seen_at: int | None
    """When it was last seen, if known."""
    confirmed: int | None
    """The `seq` up to which it has applied the log; None if it has never pulled."""
    log: str
    reread: int | None
    """Up to where it has read, if it must read the log again from 0; None if it is in step."""


def add_app(connection: Connection, name: str, log: str = HISTORY) -> tuple[str, str]:
    """Store a new app and return its id and its API key; only a hash of the key is stored."""
    app_id, api_key = str(uuid.uuid4()), secrets.token_hex(32)
    row = {"id": app_id, "name": name, "api_key_hash": _key_hash(api_key), "created_at": now(), "log": log}
    connection.execute(apps.insert().values(row))
    return app_id, api_key


def set_log(connection: Connection, app: str, log: str) -> None:
    """Set the log mode of an app; raise NotFound."""
    if connection.execute(apps.update().where(apps.c.id == app).values(log=log)).rowcount == 0:
        raise NotFound(f"there is no such app: {app}")


def log_of(connection: Connection, app: str) -> str:
    """Return the log mode of an app; HISTORY for one that is not stored here."""
    return connection.execute(_log_of(app)).scalar_one_or_none() or HISTORY


def add_user(connection: Connection, email: str, password_hash: str) -> str:
    """Store a new user and return the id; raise Conflict if the e-mail is in use."""
    user_id, normal = str(uuid.uuid4()), normalise(email)
    row = {"id": user_id, "email": normal, "password_hash": password_hash, "created_at": now()}
    statement = upsert(connection, users).values(row).on_conflict_do_nothing(index_elements=[users.c.email])
    if connection.execute(statement.returning(users.c.id)).first() is None:
        raise Conflict(f"an account {normal} already exists")
    return user_id


def log_in(
    store: Store,
    *,
    email: str,
    password: str,
    api_key: str,
    check_rate_limit: RateLimitCheck = allow_all,
    address: str | None = None,
) -> tuple[str, Row[Any]]:
    """Return the app's id and the user; raise WrongCredentials."""
    app_id = store.read(lambda connection: find_client(connection, api_key), owner=normalise(email))
    # Check the password even if the key is wrong: the response time must not show which of them is wrong.
    user = recognise(store, email, password, check_rate_limit, address)
    if app_id is None or user is None:
        raise WrongCredentials
    return app_id, user


def recognise(
    store: Store, email: str, password: str, check_rate_limit: RateLimitCheck = allow_all, address: str | None = None
) -> Row[Any] | None:
    """Return the user with this e-mail and this password, or None; an unknown e-mail takes the same time."""
    user = store.read(lambda connection: account_of(connection, email), owner=normalise(email))
    return _proven(user, password, check_rate_limit, hashing_owners(email, address))


def require_password(
    store: Store, user_id: str, password: str, check_rate_limit: RateLimitCheck = allow_all, address: str | None = None
) -> Row[Any]:
    """Return the user with this id and this password; raise WrongPassword."""
    found = store.read(lambda connection: account(connection, user_id), owner=user_id)
    user = _proven(
        found, password, check_rate_limit, hashing_owners(user_id if found is None else found.email, address)
    )
    if user is None:
        raise WrongPassword("the old password is wrong")
    return user


def hashing_owners(email: str, address: str | None) -> list[str]:
    """Return the owners on whose behalf a password is hashed: each may hash only one at a time (passwords.py).

    The account comes first, so that the many requests of one account cannot queue up for their address.
    """
    return [f"account {normalise(email)}", *([] if address is None else [f"address {address}"])]


def require_unchanged(connection: Connection, user: Row[Any]) -> None:
    """Lock the user; raise WrongCredentials if the password was changed or all sessions ended after `user` was read.

    Both can happen: checking a password takes 0.1 s, and a log-in page may be open for minutes.
    """
    present = hold(connection, user.id)
    if present is None or present != user:
        raise WrongCredentials


def account(connection: Connection, user_id: str) -> Row[Any] | None:
    """Return the user with this id."""
    return connection.execute(select(users).where(users.c.id == user_id)).first()


def account_of(connection: Connection, email: str) -> Row[Any] | None:
    """Return the user with this e-mail."""
    return connection.execute(select(users).where(users.c.email == normalise(email))).first()


def hold(connection: Connection, user_id: str) -> Row[Any] | None:
    """Lock the user with this id until the transaction ends, and return the row, or None."""
    return connection.execute(select(users).where(users.c.id == user_id).with_for_update()).first()


def require_enabled(connection: Connection, user_id: str) -> None:
    """Raise InvalidToken if the user was disabled or deleted after the token was checked, for example during an upload.

    The user cannot be deleted before this transaction ends.
    """
    mine = select(users.c.valid_since).where(users.c.id == user_id)
    if connection.execute(mine.with_for_update(read=True, key_share=True)).scalar() == DISABLED:
        raise InvalidToken("the token was revoked")


def valid_since(connection: Connection, user_id: str) -> int | None:
    """Return the Unix time before which the user's tokens are refused, or None; None also for an unknown user."""
    found: int | None = connection.execute(select(users.c.valid_since).where(users.c.id == user_id)).scalar()
    return found


def register_device(
    connection: Connection, app: str, user: str, *, name: str, platform: str, installation_id: str | None
) -> Row[Any]:
    """Create or update the device with this installation id (without one: with this name) and return it.

    If the user then has more than MAX_DEVICES in this app, those inactive for longest are deleted; they can register
    again.
    """
    moment = now()
    row = {
        "id": str(uuid.uuid4()),
        "app_id": app,
        "user_id": user,
        "name": name,
        "platform": platform,
        "installation_id": installation_id,
        "created_at": moment,
        "last_seen_at": moment,
        "confirmed": None,
    }
    identity = devices.c.name if installation_id is None else devices.c.installation_id
    statement = upsert(connection, devices).values(row)
    statement = statement.on_conflict_do_update(
        index_elements=[devices.c.app_id, devices.c.user_id, identity],
        index_where=NAMED if installation_id is None else INSTALLED,
        set_={"name": name, "platform": platform, "last_seen_at": moment},
    )
    device = connection.execute(statement.returning(devices)).one()
    if device.id == row["id"]:
        _delete_surplus_devices(connection, app, user)
    return device


def list_devices(connection: Connection, app: str, user: str, *, after: str, most: int) -> list[Row[Any]]:
    """Return at most `most` of a user's devices, ordered by id, from the first id after `after`."""
    mine = devices_of(app, user)
    return list(connection.execute(select(mine).where(mine.c.id > after).order_by(mine.c.id).limit(most)))


def note_seen(connection: Connection, seen: Mapping[str, int | None], moment: int) -> None:
    """Store that devices were seen, each with the `seq` up to which it has applied the log, or None.

    The stored `confirmed` only rises here. Devices that another transaction has locked are skipped, instead of waiting.
    """
    free = select(devices.c.id).where(devices.c.id.in_(seen)).with_for_update(skip_locked=True)
    if found := connection.execute(free).scalars().all():
        connection.execute(_NOTE_SEEN, [{"device": id, "moment": moment, "applied": seen[id]} for id in found])


def delete_device(connection: Connection, app: str, user: str, device_id: str) -> None:
    """Delete a device but not the changes that it pushed; raise NotFound."""
    deleted = connection.execute(devices.delete().where(_device(app, user, device_id)).returning(devices.c.id))
    if deleted.first() is None:
        raise NotFound("there is no such device")


def hold_device(connection: Connection, app: str, user: str, device_id: str) -> str | None:
    """Lock a registered device until the transaction ends and return its id; None if it is not registered."""
    mine = select(devices.c.id).where(_device(app, user, device_id))
    found: str | None = connection.execute(mine.with_for_update()).scalar()
    return found


def require_device(connection: Connection, app: str, user: str, device_id: str) -> KnownDevice:
    """Return what is stored of a device; raise NotFound if this user has no such device in this app."""
    columns = (devices.c.last_seen_at, devices.c.confirmed, _log_of(app).scalar_subquery(), devices.c.reread)
    found = connection.execute(select(*columns).where(_device(app, user, device_id))).first()
    if found is None:
        raise NotFound("there is no such device: register it first")
    seen_at, confirmed, log, reread = found
    return KnownDevice(seen_at, confirmed, log or HISTORY, reread)


def devices_of(app: str, user: str) -> Subquery:
    """Return all devices of an app and user; one query for each of the two indexes that identify a device."""
    mine = select(devices).where(devices.c.app_id == app, devices.c.user_id == user)
    return union_all(mine.where(NAMED), mine.where(INSTALLED)).subquery()


def find_app(connection: Connection, id_or_name: str) -> str:
    """Return the id of the app with this id or name; if there is none, return the argument as a foreign id.

    Raises Conflict if several apps have this name.
    """
    named = select(apps.c.id).where((apps.c.id == id_or_name) | (apps.c.name == id_or_name))
    known = connection.execute(named).scalars().all()
    if len(known) > 1 and id_or_name not in known:
        raise Conflict(f"{len(known)} apps have the name {id_or_name}: use the id instead")
    return known[0] if len(known) == 1 else id_or_name


def find_client(connection: Connection, api_key: str) -> str | None:
    """Return the id of the app with this API key."""
    found: str | None = connection.execute(select(apps.c.id).where(apps.c.api_key_hash == _key_hash(api_key))).scalar()
    return found


def find_user(connection: Connection, id_or_email: str) -> str:
    """Return the id of the user with this id or e-mail; if there is none, return the argument as a foreign id."""
    named = select(users.c.id).where((users.c.id == id_or_email) | (users.c.email == normalise(id_or_email)))
    return connection.execute(named).scalar() or id_or_email


def require_account(connection: Connection, id_or_email: str) -> Row[Any]:
    """Return the user with this id or e-mail; raise NotFound, also if the account was deleted."""
    user = account(connection, find_user(connection, id_or_email))
    if user is None or user.email == user.id:
        raise NotFound(f"there is no such account: {id_or_email}")
    return user


def normalise(email: str) -> str:
    """Return an e-mail address in the form in which it is stored and compared."""
    return email.strip().casefold()


def _proven(
    user: Row[Any] | None, password: str, check_rate_limit: RateLimitCheck, owners: Sequence[str]
) -> Row[Any] | None:
    """Return the user if the password is right and the account is enabled, else None, after the same time."""
    genuine = matches(None if user is None else user.password_hash, password, check_rate_limit, owners)
    return None if user is None or not genuine or user.valid_since == DISABLED else user


def _delete_surplus_devices(connection: Connection, app: str, user: str) -> None:
    """Delete devices beyond MAX_DEVICES, those inactive for longest first; skip those that are locked."""
    mine = devices_of(app, user)
    seen_at = func.coalesce(mine.c.last_seen_at, mine.c.created_at)
    silent = select(mine.c.id).order_by(seen_at.desc(), mine.c.id).offset(MAX_DEVICES).limit(MAX_DELETED_AT_ONCE)
    surplus = select(devices.c.id).where(devices.c.id.in_(silent)).with_for_update(skip_locked=True)
    if found := connection.execute(surplus).scalars().all():
        connection.execute(devices.delete().where(devices.c.id.in_(found)))


def _log_of(app: str) -> Select[Any]:
    return select(apps.c.log).where(apps.c.id == app)


def _key_hash(api_key: str) -> str:
    return hashlib.sha256(api_key.encode()).hexdigest()


def _device(app: str, user: str, device_id: str) -> ColumnElement[bool]:
    return and_(devices.c.app_id == app, devices.c.user_id == user, devices.c.id == device_id)
