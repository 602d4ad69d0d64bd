"""`flask synckit devices ...`: the devices of a user in all apps."""

import click
from flask.cli import AppGroup
from sqlalchemy import Connection

from ...command_output import Item, Page, paged
from .. import accounts, sessions
from ..request_fields import rfc3339
from . import queries
from .transactions import end, read, write


@click.group("devices", cls=AppGroup)
def device_group() -> None:
    """Manage the devices that users have registered."""


@device_group.command("list")
@click.argument("email")
@paged("DEVICE")
def list_devices(email: str, page: Page) -> None:
    """Print a user's devices ordered by id: id, days of registration and of last use, platform, app, name."""

    def find(connection: Connection) -> list[queries.Device]:
        user = accounts.find_user(connection, email)
        found = queries.list_devices(connection, user, after=page.after, most=page.limit + 1)
        if not found:
            accounts.require_account(connection, email)  # a user of another service is known by devices only
        return found

    page.show([_item(device) for device in read(find)])


@device_group.command("delete")
@click.argument("device")
def delete(device: str) -> None:
    """Delete the device with this id and end its sessions and streams, as its user can. Its changes stay."""
    end([write(lambda connection: sessions.delete_device(connection, *queries.device(connection, device), device))])
    click.echo(f"Deleted device {device}")


def _item(device: queries.Device) -> Item:
    created_at = rfc3339(device.created_at)
    last_seen_at = None if device.last_seen_at is None else rfc3339(device.last_seen_at)
    days = created_at[:10], "-" if last_seen_at is None else last_seen_at[:10]
    members = {
        "id": device.id,
        "app_id": device.app_id,
        "app": device.app,
        "device_name": device.name,
        "platform": device.platform,
        "created_at": created_at,
        "last_seen_at": last_seen_at,
    }
    return Item(members, (device.id, *days, device.platform, device.app, device.name), key=device.id)
