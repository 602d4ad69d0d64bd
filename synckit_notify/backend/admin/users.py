"""`flask synckit user ...`: accounts, from the first day to the last.

What ends sessions ends their open streams too, within a second on every server that shares the broker with the command,
elsewhere at the client's next request.
"""

import click
from flask.cli import AppGroup

from .. import accounts, sessions
from ..accounts import DISABLED
from ..context import current_backend
from ..passwords import MAX_PASSWORD_CHARACTERS, hash_password
from ..request_fields import rfc3339
from . import account_deletion, queries
from .transactions import check, end, read, refusals_end, show, write

MAX_LISTED = 100


@click.group("user", cls=AppGroup)
def user_group() -> None:
    """People who have an account."""


@user_group.command("add")
@click.argument("email")
@click.password_option(help="Asked for when it is not given.")
def add_user(email: str, password: str) -> None:
    """Add an account and print its id."""
    check(email.strip(), "EMAIL", accounts.MAX_EMAIL_CHARACTERS)
    check(password, "--password", MAX_PASSWORD_CHARACTERS)
    password_hash = hash_password(password)
    user_id = write(lambda connection: accounts.add_user(connection, email, password_hash))
    click.echo(f"User {accounts.normalise(email)} has the id {user_id}")


@user_group.command("logout")
@click.argument("email")
def log_out(email: str) -> None:
    """End a user's sessions, refuse every token so far, and end the open streams.

    A server that shares no broker with this command ends them only at its client's next request.
    """
    end(write(lambda connection: sessions.log_out(connection, accounts.find_user(connection, email))))
    click.echo(f"Every token of {accounts.normalise(email)} so far is refused from now on")


@user_group.command("password")
@click.argument("email")
@click.password_option(help="Asked for when it is not given.")
def set_password(email: str, password: str) -> None:
    """Give a user a new password, and do all that `logout` does."""
    check(password, "--password", MAX_PASSWORD_CHARACTERS)
    password_hash = hash_password(password)
    end(
        write(
            lambda connection: sessions.set_password(connection, accounts.find_user(connection, email), password_hash)
        )
    )
    click.echo(f"{accounts.normalise(email)} has a new password, and every token so far is refused from now on")


@user_group.command("list")
@click.option("--after", default="", metavar="EMAIL", help="Go on behind this one.")
@click.option("--limit", "most", default=MAX_LISTED, type=click.IntRange(min=1), show_default=True)
def list_users(after: str, most: int) -> None:
    """Print the id, the day, the state and the e-mail of accounts, by e-mail."""
    found = read(lambda connection: queries.list_users(connection, after=after, most=most + 1))
    for user in found[:most]:
        state = "disabled" if user.valid_since == DISABLED else "enabled "
        show(user.id, rfc3339(user.created_at)[:10], state, user.email)
    if len(found) > most:
        click.echo(f"There are more: --after {found[most - 1].email}", err=True)


@user_group.command("disable")
@click.argument("email")
def disable(email: str) -> None:
    """Refuse a user's password and every token, and end the open streams, until `enable`; the data stay."""
    user = _find(email)
    end(write(lambda connection: account_deletion.disable(connection, user)))
    click.echo(f"{accounts.normalise(email)} is disabled")


@user_group.command("enable")
@click.argument("email")
def enable(email: str) -> None:
    """Let a disabled user log in again, with the password as it was; every device has to."""
    user = _find(email)
    write(lambda connection: account_deletion.enable(connection, user))
    click.echo(f"{accounts.normalise(email)} may log in again")


@user_group.command("delete")
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(email: str, yes: bool) -> None:
    """Delete an account with all its data in every app: changes, devices, keys, sessions. The open streams end.

    If it is interrupted the account is disabled; the same command goes on.
    """
    user = _find(email)
    changes = read(lambda connection: account_deletion.count_changes(connection, user))
    if not yes:
        click.confirm(f"Delete {accounts.normalise(email)} with {changes} changes, for ever?", abort=True)
    end(write(lambda connection: account_deletion.disable(connection, user)))
    with refusals_end(), click.progressbar(length=changes, label="Deleting changes") as bar:
        account_deletion.delete_account(current_backend().store, user, bar.update)
    click.echo(f"{accounts.normalise(email)} is deleted")


def _find(email: str) -> str:
    return read(lambda connection: str(accounts.require_account(connection, email).id))
