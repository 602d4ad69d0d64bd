"""`flask synckit changes ...`: the changes in a user's log."""

import click
from flask.cli import AppGroup
from sqlalchemy import Connection, Row

from ...command_output import show
from .. import accounts, changelog
from ..changelog import Move
from ..context import current_backend
from ..request_fields import rfc3339
from .transactions import read, write


@click.group("changes", cls=AppGroup)
def change_group() -> None:
    """Manage the changes that devices have pushed."""


@change_group.command("delete")
@click.argument("app_words", metavar="APP")
@click.argument("email")
@click.argument("seq", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(app_words: str, email: str, seq: int, yes: bool) -> None:
    """Blank one change that devices cannot process, and notify them.

    Its number, table and row id stay, so no device loses its position; its operation, time and data are removed, and
    devices skip it. Devices that have applied it already keep the data. APP and EMAIL may be ids.
    """

    def find(connection: Connection) -> tuple[str, str, Row[tuple[object, ...]]]:
        app, user = accounts.find_app(connection, app_words), accounts.find_user(connection, email)
        return app, user, changelog.find(connection, app, user, seq)

    def blank(connection: Connection) -> Move:
        return changelog.blank(connection, app, user, seq)

    app, user, change = read(find)
    show(f"{change.op} {change.table_name}/{change.row_id}", rfc3339(change.received_at), f"device {change.device_id}")
    if not yes:
        click.confirm(f"Blank change {seq} permanently?", abort=True)
    move = write(blank)
    current_backend().notifier.publish(app, user, changed_at=move.changed_at, previous_at=move.previous_at)
    click.echo(f"Blanked change {seq}")
