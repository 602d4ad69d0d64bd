"""`flask synckit devices ...`: the devices of a user in all apps."""

import click
from flask.cli import AppGroup
from sqlalchemy import Connection

from .. import accounts, sessions
from ..request_fields import rfc3339
from . import queries
from .transactions import end, read, show, write


@click.group("devices", cls=AppGroup)
def device_group() -> None:
    """Manage the devices that users have registered."""


@device_group.command("list")
@click.argument("email")
def list_devices(email: str) -> None:
    """Print a user's devices, oldest first: id, day of registration, platform, app, name."""

    def find(connection: Connection) -> list[queries.Device]:
        found = queries.list_devices(connection, accounts.find_user(connection, email))
        if not found:
            accounts.require_account(connection, email)  # a user of another service is known by devices only
        return found

    for device in read(find):
        show(device.id, rfc3339(device.created_at)[:10], device.platform, device.app, device.name)


@device_group.command("delete")
@click.argument("device")
def delete(device: str) -> None:
    """Delete the device with this id and end its sessions and streams, as its user can. Its changes stay."""
    end([write(lambda connection: sessions.delete_device(connection, *queries.device(connection, device), device))])
    click.echo(f"Deleted device {device}")
