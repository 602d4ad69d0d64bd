"""Lists of apps, users and devices for the commands. Reads only, and no hashes of keys or passwords.

Each function is a part of a transaction, to be run by a Store.
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from .. import accounts
from ..database.schema import apps, devices, heads, redirects, users
from ..errors import NotFound


class App(NamedTuple):
    """An app with its numbers of users and of changes that were ever pushed, which the heads of the logs tell."""

    id: str
    name: str
    log: str
    users: int
    changes: int
    addresses: list[str]


class Device(NamedTuple):
    """A device of one user."""

    id: str
    app: str
    platform: str
    created_at: int
    name: str


def list_apps(connection: Connection) -> list[App]:
    """Return all apps, ordered by name."""
    used = select(heads.c.app_id, func.count(), func.sum(heads.c.seq)).group_by(heads.c.app_id)
    counts = {app: (int(people), int(changes)) for app, people, changes in connection.execute(used)}
    addresses: dict[str, list[str]] = {}
    for app, address in connection.execute(select(redirects).order_by(redirects.c.uri)):
        addresses.setdefault(app, []).append(address)
    found = connection.execute(select(apps.c.id, apps.c.name, apps.c.log).order_by(apps.c.name, apps.c.id))
    return [App(app, name, log, *counts.get(app, (0, 0)), addresses.get(app, [])) for app, name, log in found]


def list_users(connection: Connection, *, after: str, most: int) -> list[Row[Any]]:
    """Return up to `most` users (id, email, valid_since, created_at) ordered by e-mail, those after `after`."""
    columns = (users.c.id, users.c.email, users.c.valid_since, users.c.created_at)
    present = select(*columns).where(users.c.email > accounts.normalise(after), users.c.email != users.c.id)
    return list(connection.execute(present.order_by(users.c.email).limit(most)))


def list_devices(connection: Connection, user_id: str) -> list[Device]:
    """Return a user's devices in all apps, oldest first, each with the name of its app, or the id of an unknown app."""
    app = func.coalesce(apps.c.name, devices.c.app_id)
    columns = (devices.c.id, app, devices.c.platform, devices.c.created_at, devices.c.name)
    named = select(*columns).outerjoin(apps, apps.c.id == devices.c.app_id).where(devices.c.user_id == user_id)
    return [Device(*row) for row in connection.execute(named.order_by(devices.c.created_at, devices.c.id))]


def device(connection: Connection, device_id: str) -> tuple[str, str]:
    """Return the ids of a device's app and user; raises NotFound."""
    found = connection.execute(select(devices.c.app_id, devices.c.user_id).where(devices.c.id == device_id)).first()
    if found is None:
        raise NotFound(f"there is no such device: {device_id}")
    return found.app_id, found.user_id
