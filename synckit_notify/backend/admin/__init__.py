"""`flask --app wsgi synckit ...`: commands to administer the backend, while servers are running or without any.

Each command is one transaction on the servers' database; `user delete`, `app set` and `compact` need several. The last
word of the output is what a script needs, such as an id or a token. An error is one sentence and exit status 1. Control
characters in strings that clients chose are not printed.
"""

import click
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy import Connection

from .. import accounts, changelog
from ..access_tokens import PASTED_TOKEN_SECONDS
from ..context import current_backend
from ..errors import Conflict
from .apps import app_group
from .changes import change_group
from .compact import compact_logs
from .devices import device_group
from .transactions import read, write
from .users import user_group

synckit = AppGroup("synckit", help="Administer the SyncKit backend, notify devices, check the set-up.")

for _command in (app_group, user_group, device_group, change_group, compact_logs):
    synckit.add_command(_command)


def install(app: Flask) -> None:
    """Add the commands to `flask synckit`, beside those of the Notifier; `publish` replaces the Notifier's."""
    group = AppGroup("synckit", help=synckit.help)
    for present in (app.cli.commands.get("synckit"), synckit):
        if isinstance(present, click.Group):
            group.commands.update(present.commands)
    app.cli.add_command(group)


@synckit.command("token")
@click.option("--app", "app_words", required=True, help="Id or name; an unknown value is used as an id.")
@click.option("--user", "user_words", required=True, help="Id or e-mail; an unknown value is used as an id.")
@click.option("--device", help="Id of the device that the token is for.")
@click.option(
    "--expires-in",
    type=int,
    default=PASTED_TOKEN_SECONDS,
    help="Seconds; negative for an expired token.",
)
def make_token(app_words: str, user_words: str, device: str | None, expires_in: int) -> None:
    """Print a token, alone on the last line. The app and the user need not be stored."""

    def find(connection: Connection) -> tuple[str, str, int | None]:
        user = accounts.find_user(connection, user_words)
        valid_since = accounts.valid_since(connection, user)
        if valid_since == accounts.DISABLED:
            raise Conflict("this account is disabled: all its tokens are refused")
        return accounts.find_app(connection, app_words), user, valid_since

    app, user, valid_since = read(find)
    click.echo(current_backend().signer.sign(app, user, device=device, valid_since=valid_since, seconds=expires_in))


@synckit.command("publish")
@click.argument("app_words", metavar="APP")
@click.argument("user_words", metavar="USER")
@click.option("--device", help="Id of the device that is not notified, as if it had pushed.")
def publish(app_words: str, user_words: str, device: str | None) -> None:
    """Notify the devices of USER in APP that there are changes, as a push does.

    APP is an id or a name, USER an id or an e-mail; an unknown value is used as an id.

    The notice is sent through the broker, and the channel is marked as changed in the database. Servers that do not
    share a broker with this command, as with memory://, find the mark at their next sweep (SYNCKIT_SWEEP_SECONDS) and
    then notify every device.
    """

    def touch(connection: Connection) -> tuple[str, str, changelog.Move]:
        app, user = accounts.find_app(connection, app_words), accounts.find_user(connection, user_words)
        return app, user, changelog.touch(connection, app, user)

    app, user, move = write(touch)
    current_backend().notifier.publish(app, user, device, changed_at=move.changed_at, previous_at=move.previous_at)
    click.echo("Published. Servers that do not share a broker with this command find it at their next sweep")


@synckit.command("restored")
def renew_epoch() -> None:
    """Set a new epoch; run it once after restoring a backup. Every client then reads the log from its start."""
    click.echo(f"The log's epoch is now {write(changelog.renew_epoch)}")
