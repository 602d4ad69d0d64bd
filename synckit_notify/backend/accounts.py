"""Who may sync: apps with their API keys, users with their passwords, and devices.

Functions on a `connection` are pieces of a transaction, to be run by a Store. Passwords are checked outside of any
transaction (passwords). Of a key or a password only a hash is stored. A deleted account leaves its id behind and
nothing else, so that a token which outlives it is refused.
"""

import hashlib
import secrets
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Subquery, and_, func, select, union_all

from ..errors import InvalidToken
from .database.schema import INSTALLED, NAMED, apps, devices, now, users
from .database.store import Store, upsert
from .errors import Conflict, NotFound, WrongCredentials, WrongPassword
from .passwords import RateLimitCheck, allow_all, matches

PLATFORMS = ("macos", "windows", "linux", "ios", "android", "web")
MAX_EMAIL_CHARACTERS = 254

MAX_DEVICES = 1_000
"""Of one app and user. A registration beyond is not refused: a script that makes a device at each run would lock its
user out. The longest silent device makes room, is answered 404, and registers again if it is still in use."""

MAX_RETIRED_AT_ONCE = 500
"""More than a registration adds, so that an account with too many, of an older release, comes down soon."""

DISABLED = 253_402_300_799
"""The `valid_since` of an account that is disabled: the last second of the year 9999, before which every token is."""


def add_app(connection: Connection, name: str) -> tuple[str, str]:
    """Store a new app; return its id and its API key, of which only the hash is kept."""
    app_id, api_key = str(uuid.uuid4()), secrets.token_hex(32)
    row = {"id": app_id, "name": name, "api_key_hash": _key_hash(api_key), "created_at": now()}
    connection.execute(apps.insert().values(row))
    return app_id, api_key


def add_user(connection: Connection, email: str, password_hash: str) -> str:
    """Store a new user; return the id. Raises Conflict."""
    user_id, normal = str(uuid.uuid4()), normalise(email)
    row = {"id": user_id, "email": normal, "password_hash": password_hash, "created_at": now()}
    statement = upsert(connection, users).values(row).on_conflict_do_nothing(index_elements=[users.c.email])
    if connection.execute(statement.returning(users.c.id)).first() is None:
        raise Conflict(f"there is an account {normal} already")
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
    """Return the app's id and the user; raises WrongCredentials."""
    app_id = store.read(lambda connection: find_client(connection, api_key), owner=normalise(email))
    # Also for a wrong key: the time that an answer takes must not tell.
    user = recognise(store, email, password, check_rate_limit, address)
    if app_id is None or user is None:
        raise WrongCredentials
    return app_id, user


def recognise(
    store: Store, email: str, password: str, check_rate_limit: RateLimitCheck = allow_all, address: str | None = None
) -> Row[Any] | None:
    """Return the user with this e-mail and this password; for an unknown e-mail it takes as long."""
    user = store.read(lambda connection: account_of(connection, email), owner=normalise(email))
    return _proven(user, password, check_rate_limit, hashing_owners(email, address))


def require_password(
    store: Store, user_id: str, password: str, check_rate_limit: RateLimitCheck = allow_all, address: str | None = None
) -> Row[Any]:
    """Return the user with this id and this password; raises WrongPassword."""
    found = store.read(lambda connection: account(connection, user_id), owner=user_id)
    user = _proven(
        found, password, check_rate_limit, hashing_owners(user_id if found is None else found.email, address)
    )
    if user is None:
        raise WrongPassword("the old password is wrong")
    return user


def hashing_owners(email: str, address: str | None) -> list[str]:
    """Return whose share of the hashes a password takes.

    The account comes first: a request that waits for its address's share must be one of few of its account.
    """
    return [f"account {normalise(email)}", *([] if address is None else [f"address {address}"])]


def require_unchanged(connection: Connection, user: Row[Any]) -> None:
    """Hold the user; raises WrongCredentials if the password was changed or all sessions ended since `user` was read.

    Checking a password takes a tenth of a second, and a page may be open for minutes.
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
    """Return the user with this id, whom nobody logs out or changes before this transaction has ended."""
    return connection.execute(select(users).where(users.c.id == user_id).with_for_update()).first()


def require_enabled(connection: Connection, user_id: str) -> None:
    """Raise InvalidToken if the user was disabled or deleted since their token was checked, as while a body came.

    Until this transaction ends nobody deletes them.
    """
    mine = select(users.c.valid_since).where(users.c.id == user_id)
    if connection.execute(mine.with_for_update(read=True, key_share=True)).scalar() == DISABLED:
        raise InvalidToken("the token was revoked")


def valid_since(connection: Connection, user_id: str) -> int | None:
    """Return the second before which a user's tokens do not count; None also for a user that is not stored."""
    found: int | None = connection.execute(select(users.c.valid_since).where(users.c.id == user_id)).scalar()
    return found


def register_device(
    connection: Connection, app: str, user: str, *, name: str, platform: str, installation_id: str | None
) -> Row[Any]:
    """Return the device of this installation, or without one of this name; made if it is new, else updated.

    Beyond MAX_DEVICES of one app and user the longest silent ones are forgotten; they may register again.
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
        _retire_silent_devices(connection, app, user)
    return device


def list_devices(connection: Connection, app: str, user: str, *, after: str, most: int) -> list[Row[Any]]:
    """Return some of a user's devices, by id, from behind the one that is named."""
    mine = _devices(app, user)
    return list(connection.execute(select(mine).where(mine.c.id > after).order_by(mine.c.id).limit(most)))


def note_seen(connection: Connection, ids: Collection[str], moment: int) -> None:
    """Note when devices were last seen, but for those that another transaction has locked: nobody is waited for."""
    free = select(devices.c.id).where(devices.c.id.in_(ids)).with_for_update(skip_locked=True)
    found = connection.execute(free).scalars().all()
    connection.execute(devices.update().where(devices.c.id.in_(found)).values(last_seen_at=moment))


def delete_device(connection: Connection, app: str, user: str, device_id: str) -> None:
    """Forget a device; what it pushed stays. Raises NotFound."""
    deleted = connection.execute(devices.delete().where(_device(app, user, device_id)).returning(devices.c.id))
    if deleted.first() is None:
        raise NotFound("there is no such device")


def hold_device(connection: Connection, app: str, user: str, device_id: str) -> str | None:
    """Return the id of a registered device, which nobody deletes before this transaction has ended; else None."""
    mine = select(devices.c.id).where(_device(app, user, device_id))
    found: str | None = connection.execute(mine.with_for_update()).scalar()
    return found


def require_device(connection: Connection, app: str, user: str, device_id: str) -> int | None:
    """Return when a device was last seen, if stored; raises NotFound if it is not a device of this app and user."""
    found = connection.execute(select(devices.c.last_seen_at).where(_device(app, user, device_id))).first()
    if found is None:
        raise NotFound("there is no such device: register it first")
    seen_at: int | None = found.last_seen_at
    return seen_at


def find_app(connection: Connection, words: str) -> str:
    """Return the id of the app with this id or name; words that name none are an id of somebody else's."""
    known = connection.execute(select(apps.c.id).where((apps.c.id == words) | (apps.c.name == words))).scalars().all()
    if len(known) > 1 and words not in known:
        raise Conflict(f"{len(known)} apps are named {words}: give the id")
    return known[0] if len(known) == 1 else words


def find_client(connection: Connection, api_key: str) -> str | None:
    """Return the id of the app with this API key."""
    found: str | None = connection.execute(select(apps.c.id).where(apps.c.api_key_hash == _key_hash(api_key))).scalar()
    return found


def find_user(connection: Connection, words: str) -> str:
    """Return the id of the user with this id or e-mail; words that name none are an id of somebody else's."""
    named = select(users.c.id).where((users.c.id == words) | (users.c.email == normalise(words)))
    return connection.execute(named).scalar() or words


def require_account(connection: Connection, words: str) -> Row[Any]:
    """Return the user with this id or e-mail; raises NotFound, also for one that was deleted."""
    user = account(connection, find_user(connection, words))
    if user is None or user.email == user.id:
        raise NotFound(f"there is no such account: {words}")
    return user


def normalise(email: str) -> str:
    """Return an e-mail address as it is compared."""
    return email.strip().casefold()


def _proven(
    user: Row[Any] | None, password: str, check_rate_limit: RateLimitCheck, owners: Sequence[str]
) -> Row[Any] | None:
    """Return the user if it is their password and they may use it; it takes as long if not."""
    genuine = matches(None if user is None else user.password_hash, password, check_rate_limit, owners)
    return None if user is None or not genuine or user.valid_since == DISABLED else user


def _retire_silent_devices(connection: Connection, app: str, user: str) -> None:
    """Forget the longest silent devices beyond MAX_DEVICES, some at a time, and none that is in use at this moment."""
    mine = _devices(app, user)
    seen_at = func.coalesce(mine.c.last_seen_at, mine.c.created_at)
    silent = select(mine.c.id).order_by(seen_at.desc(), mine.c.id).offset(MAX_DEVICES).limit(MAX_RETIRED_AT_ONCE)
    surplus = select(devices.c.id).where(devices.c.id.in_(silent)).with_for_update(skip_locked=True)
    if found := connection.execute(surplus).scalars().all():
        connection.execute(devices.delete().where(devices.c.id.in_(found)))


def _key_hash(api_key: str) -> str:
    return hashlib.sha256(api_key.encode()).hexdigest()


def _device(app: str, user: str, device_id: str) -> ColumnElement[bool]:
    return and_(devices.c.app_id == app, devices.c.user_id == user, devices.c.id == device_id)


def _devices(app: str, user: str) -> Subquery:
    """Return all devices of an app and user: two halves, since there is one index for each way to identify them."""
    mine = select(devices).where(devices.c.app_id == app, devices.c.user_id == user)
    return union_all(mine.where(NAMED), mine.where(INSTALLED)).subquery()
