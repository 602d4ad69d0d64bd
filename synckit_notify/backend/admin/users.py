"""`flask synckit user ...`: accounts.

A command that ends sessions also ends their open streams: within a second on servers that share a broker with the
command, on others at the client's next request.
"""

from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy import Row

from ...command_output import Item, Page, paged
from .. import accounts, sessions
from ..accounts import DISABLED
from ..context import current_backend
from ..passwords import MAX_PASSWORD_CHARACTERS, hash_password
from ..request_fields import rfc3339
from . import account_deletion, queries
from .transactions import check, end, read, refusals_end, write


@click.group("user", cls=AppGroup)
def user_group() -> None:
    """Manage accounts."""


@user_group.command("add")
@click.argument("email")
@click.password_option(help="Prompted for if it is not given.")
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
    """End a user's sessions and open streams, and refuse all tokens issued so far.

    A server that shares no broker with this command ends them only at its client's next request.
    """
    end(write(lambda connection: sessions.log_out(connection, accounts.find_user(connection, email))))
    click.echo(f"All tokens of {accounts.normalise(email)} issued so far are refused")


@user_group.command("password")
@click.argument("email")
@click.password_option(help="Prompted for if it is not given.")
def set_password(email: str, password: str) -> None:
    """Set a user's password, and log the user out as `logout` does."""
    check(password, "--password", MAX_PASSWORD_CHARACTERS)
    password_hash = hash_password(password)
    end(
        write(
            lambda connection: sessions.set_password(connection, accounts.find_user(connection, email), password_hash)
        )
    )
    click.echo(f"{accounts.normalise(email)} has a new password, and all tokens issued so far are refused")


@user_group.command("list")
@paged("EMAIL")
def list_users(page: Page) -> None:
    """Print accounts ordered by e-mail: id, day of creation, state, e-mail."""
    found = read(lambda connection: queries.list_users(connection, after=page.after, most=page.limit + 1))
    page.show([_item(user) for user in found])


@user_group.command("disable")
@click.argument("email")
def disable(email: str) -> None:
    """Refuse a user's password and all tokens, and end the open streams, until `enable`. The data stay."""
    user = _find(email)
    end(write(lambda connection: account_deletion.disable(connection, user)))
    click.echo(f"{accounts.normalise(email)} is disabled")


@user_group.command("enable")
@click.argument("email")
def enable(email: str) -> None:
    """Let a disabled user log in again, with the same password. Every device has to log in again."""
    user = _find(email)
    write(lambda connection: account_deletion.enable(connection, user))
    click.echo(f"{accounts.normalise(email)} may log in again")


@user_group.command("delete")
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(email: str, yes: bool) -> None:
    """Delete an account with all its data in every app (changes, devices, keys, sessions), and end its streams.

    If the command is interrupted, the account is disabled, and the same command continues.
    """
    user = _find(email)
    changes = read(lambda connection: account_deletion.count_changes(connection, user))
    if not yes:
        click.confirm(f"Delete {accounts.normalise(email)} with {changes} changes permanently?", abort=True)
    end(write(lambda connection: account_deletion.disable(connection, user)))
    with refusals_end(), click.progressbar(length=changes, label="Deleting changes") as bar:
        account_deletion.delete_account(current_backend().store, user, bar.update)
    click.echo(f"{accounts.normalise(email)} is deleted")


def _item(user: Row[Any]) -> Item:
    state, created_at = "disabled" if user.valid_since == DISABLED else "enabled", rfc3339(user.created_at)
    members = {"id": user.id, "email": user.email, "state": state, "created_at": created_at}
    return Item(members, (user.id, created_at[:10], f"{state:<8}", user.email), key=user.email)


def _find(email: str) -> str:
    return read(lambda connection: str(accounts.require_account(connection, email).id))
