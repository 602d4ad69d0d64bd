"""Lists of apps, users and devices for the commands. Reads only, and no hashes of keys or passwords.

Each function is a part of a transaction, to be run by a Store.
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select, tuple_

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
    app_id: str
    app: str
    """The name of its app, or the id of an unknown app."""
    name: str
    platform: str
    created_at: int
    last_seen_at: int | None


def list_apps(connection: Connection, *, after: str, most: int) -> list[App]:
    """Return up to `most` apps ordered by name, those after the app with the id `after`; raise NotFound."""
    page = select(apps.c.id, apps.c.name, apps.c.log).order_by(apps.c.name, apps.c.id).limit(most)
    if after:
        last = connection.execute(select(apps.c.name, apps.c.id).where(apps.c.id == after)).first()
        if last is None:
            raise NotFound(f"there is no app with the id {after}")
        page = page.where(tuple_(apps.c.name, apps.c.id) > tuple_(*last))
    found = connection.execute(page).all()
    listed = [app.id for app in found]
    used = select(heads.c.app_id, func.count(), func.sum(heads.c.seq)).where(heads.c.app_id.in_(listed))
    counts = {
        app: (int(people), int(changes)) for app, people, changes in connection.execute(used.group_by(heads.c.app_id))
    }
    addresses: dict[str, list[str]] = {}
    allowed = select(redirects).where(redirects.c.app_id.in_(listed)).order_by(redirects.c.uri)
    for app, address in connection.execute(allowed):
        addresses.setdefault(app, []).append(address)
    return [App(app, name, log, *counts.get(app, (0, 0)), addresses.get(app, [])) for app, name, log in found]


def list_users(connection: Connection, *, after: str, most: int) -> list[Row[Any]]:
    """Return up to `most` users (id, email, valid_since, created_at) ordered by e-mail, those after `after`."""
    columns = (users.c.id, users.c.email, users.c.valid_since, users.c.created_at)
    present = select(*columns).where(users.c.email > accounts.normalise(after), users.c.email != users.c.id)
    return list(connection.execute(present.order_by(users.c.email).limit(most)))


def list_devices(connection: Connection, user_id: str, *, after: str, most: int) -> list[Device]:
    """Return up to `most` of a user's devices in all apps ordered by id, those after the id `after`."""
    app = func.coalesce(apps.c.name, devices.c.app_id)
    columns = (devices.c.name, devices.c.platform, devices.c.created_at, devices.c.last_seen_at)
    named = select(devices.c.id, devices.c.app_id, app, *columns).outerjoin(apps, apps.c.id == devices.c.app_id)
    mine = named.where(devices.c.user_id == user_id, devices.c.id > after)
    return [Device(*row) for row in connection.execute(mine.order_by(devices.c.id).limit(most))]


def device(connection: Connection, device_id: str) -> tuple[str, str]:
    """Return the ids of a device's app and user; raises NotFound."""
    found = connection.execute(select(devices.c.app_id, devices.c.user_id).where(devices.c.id == device_id)).first()
    if found is None:
        raise NotFound(f"there is no such device: {device_id}")
    return found.app_id, found.user_id
