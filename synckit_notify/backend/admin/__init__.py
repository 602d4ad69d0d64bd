"""`flask --app wsgi synckit ...`: the backend's administration, beside running servers or without any.

Each command is one transaction on the same database, but for `user delete`, which says why. The last
word printed is what a script wants. Whatever is refused becomes one sentence and exit status 1. Texts that clients
chose are printed without control characters.
"""

import click
from flask.cli import AppGroup
from sqlalchemy import Connection

from .. import accounts, changelog
from ..access_tokens import PASTED_TOKEN_SECONDS
from ..context import current_backend
from ..errors import Conflict
from .apps import app_group
from .changes import change_group
from .devices import device_group
from .transactions import read, write
from .users import user_group

synckit = AppGroup("synckit", help="Administrate the SyncKit backend.")

for _command in (app_group, user_group, device_group, change_group):
    synckit.add_command(_command)


@synckit.command("token")
@click.option("--app", "app_words", required=True, help="Id or name; an unknown one is taken as it is.")
@click.option("--user", "user_words", required=True, help="Id or e-mail; an unknown one is taken as it is.")
@click.option("--device", help="Bind the token to a device id.")
@click.option("--expires-in", type=int, default=PASTED_TOKEN_SECONDS, help="Seconds; negative for an expired token.")
def make_token(app_words: str, user_words: str, device: str | None, expires_in: int) -> None:
    """Print a token, alone on the last line."""

    def find(connection: Connection) -> tuple[str, str, int | None]:
        user = accounts.find_user(connection, user_words)
        valid_since = accounts.valid_since(connection, user)
        if valid_since == accounts.DISABLED:
            raise Conflict("this account is disabled, every token of it is refused")
        return accounts.find_app(connection, app_words), user, valid_since

    app, user, valid_since = read(find)
    click.echo(current_backend().signer.sign(app, user, device=device, valid_since=valid_since, seconds=expires_in))


@synckit.command("publish")
@click.option("--app", "app_words", required=True, help="Id or name; an unknown one is taken as it is.")
@click.option("--user", "user_words", required=True, help="Id or e-mail; an unknown one is taken as it is.")
@click.option("--device", help="The device to leave out, as if it had pushed.")
def publish(app_words: str, user_words: str, device: str | None) -> None:
    """Tell a user's devices to pull, as a push does.

    It goes through the broker, and it marks the channel as changed in the database: servers that share no broker with
    this command, as with memory://, announce it at their next sweep (SYNCKIT_SWEEP_SECONDS), then to every device.
    """

    def touch(connection: Connection) -> tuple[str, str, changelog.Move]:
        app, user = accounts.find_app(connection, app_words), accounts.find_user(connection, user_words)
        return app, user, changelog.touch(connection, app, user)

    app, user, move = write(touch)
    current_backend().notifier.publish(app, user, device, changed_at=move.changed_at, previous_at=move.previous_at)
    click.echo("Announced; servers that share no broker with this command hear of it by their next sweep")


@synckit.command("restored")
def renew_epoch() -> None:
    """Run once after restoring a backup: every client then starts again from the beginning of the log."""
    click.echo(f"The log's epoch is now {write(changelog.renew_epoch)}")
