"""What is stored, for whoever administrates it: apps, users, devices. Reads only; never a hash of anything.

Functions on a `connection` are pieces of a transaction, to be run by a Store.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Row, Table, func, select

from .. import accounts
from ..database.schema import apps, devices, heads, redirects, users
from ..errors import NotFound


class App(NamedTuple):
    """An app, and how much it is used; counted from the heads of the logs, so it costs no walk over them."""

    id: str
    name: str
    users: int
    changes: int
    addresses: list[str]


class Device(NamedTuple):
    """A device of a user's."""

    id: str
    app: str
    platform: str
    created_at: int
    name: str


def list_apps(connection: Connection) -> list[App]:
    """Return all apps, by name."""
    used = select(heads.c.app_id, func.count(), func.sum(heads.c.seq)).group_by(heads.c.app_id)
    counts = {app: (int(people), int(changes)) for app, people, changes in connection.execute(used)}
    addresses: dict[str, list[str]] = {}
    for app, address in connection.execute(select(redirects).order_by(redirects.c.uri)):
        addresses.setdefault(app, []).append(address)
    found = connection.execute(select(apps.c.id, apps.c.name).order_by(apps.c.name, apps.c.id))
    return [App(app, name, *counts.get(app, (0, 0)), addresses.get(app, [])) for app, name in found]


def list_users(connection: Connection, *, after: str, most: int) -> list[Row[Any]]:
    """Return some users (id, email, valid_since, created_at), by e-mail, from behind the one that is named."""
    columns = (users.c.id, users.c.email, users.c.valid_since, users.c.created_at)
    present = select(*columns).where(users.c.email > accounts.normalise(after), users.c.email != users.c.id)
    return list(connection.execute(present.order_by(users.c.email).limit(most)))


def list_devices(connection: Connection, user_id: str) -> list[Device]:
    """Return a user's devices in every app, the oldest first, each with its app's name, or its id where it has none."""
    mine = select(devices).where(devices.c.user_id == user_id).order_by(devices.c.created_at, devices.c.id)
    rows = connection.execute(mine).all()
    names = names_of(connection, apps, apps.c.name, {row.app_id for row in rows})
    return [Device(r.id, names.get(r.app_id, r.app_id), r.platform, r.created_at, r.name) for r in rows]


def device(connection: Connection, device_id: str) -> tuple[str, str]:
    """Return the app and the user of a device; raises NotFound."""
    found = connection.execute(select(devices.c.app_id, devices.c.user_id).where(devices.c.id == device_id)).first()
    if found is None:
        raise NotFound(f"there is no such device: {device_id}")
    return found.app_id, found.user_id


def names_of(connection: Connection, table: Table, name: Column[str], ids: Collection[str]) -> dict[str, str]:
    """Return the names of those that are stored, by their ids."""
    return {
        row.id: row.name
        for row in connection.execute(select(table.c.id, name.label("name")).where(table.c.id.in_(ids)))
    }
