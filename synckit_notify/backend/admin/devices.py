"""`flask synckit devices ...`: what is registered for a user, in all apps."""

import click
from flask.cli import AppGroup

from .. import accounts, sessions
from ..request_fields import rfc3339
from . import queries
from .transactions import end, read, show, write


@click.group("devices", cls=AppGroup)
def device_group() -> None:
    """Return what users have registered."""


@device_group.command("list")
@click.argument("email")
def list_devices(email: str) -> None:
    """Print the id, the day, the platform, the app and the name of a user's devices, the oldest first."""
    found = read(lambda connection: queries.list_devices(connection, accounts.find_user(connection, email)))
    for device in found:
        show(device.id, rfc3339(device.created_at)[:10], device.platform, device.app, device.name)


@device_group.command("delete")
@click.argument("device")
def delete(device: str) -> None:
    """Forget the device with this id, and end its sessions and streams, as its user can; what it pushed stays."""
    end([write(lambda connection: sessions.delete_device(connection, *queries.device(connection, device), device))])
    click.echo(f"{device} is forgotten")
