"""`flask synckit app ...`: the apps that may sync, and the addresses to which a log-in in the browser may redirect."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from flask.cli import AppGroup

from ...command_output import Item, Page, paged
from .. import accounts, changelog, winners
from ..database.schema import HISTORY, ROWS
from ..oauth import clients
from . import queries
from .transactions import check, read, write

PAUSE_SECONDS = 0.02
"""Between two transactions, so that pushes take their turn: on SQLite one waits for the other's lock in sleeps."""

LOG_HELP = (
    "What the log keeps: `history`, every change; `rows`, for an app in which of two changes of one row the later wins "
    "as a whole."
)


@click.group("app", cls=AppGroup)
def app_group() -> None:
    """Manage the apps that may sync."""


def log_option(**options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --log."""
    return click.option("--log", type=click.Choice([ROWS, HISTORY]), help=LOG_HELP, **options)


@app_group.command("add")
@click.argument("name")
@log_option(default=HISTORY, show_default=True)
def add_app(name: str, log: str) -> None:
    """Add an app and print its id and its API key. The key cannot be shown again."""
    check(name, "NAME", 100)
    app_id, api_key = write(lambda connection: accounts.add_app(connection, name, log))
    click.echo(f"App {name} has the id {app_id} and the API key {api_key}")


@app_group.command("set")
@click.argument("app_words", metavar="APP")
@log_option(required=True)
def set_app(app_words: str, log: str) -> None:
    """Set what the log of an app keeps. With `rows` clients may pull with `latest`.

    Existing changes are examined in many short transactions, so servers go on. If the command is interrupted, run it
    again; until then `latest` also answers changes that were not examined.
    """
    app = read(lambda connection: accounts.find_app(connection, app_words))
    write(lambda connection: accounts.set_log(connection, app, log))
    if log == ROWS:
        _find_winners(app)
    click.echo(f"The log of app {app_words} keeps {'every change' if log == HISTORY else 'rows'}: {log}")


@app_group.command("redirect")
@click.argument("app_words", metavar="APP")
@click.argument("uri")
@click.option("--remove", is_flag=True, help="Remove the address.")
def redirect(app_words: str, uri: str, remove: bool) -> None:
    """Allow a log-in in the browser to redirect to this address of an app; loopback addresses are always allowed."""
    change = clients.forget if remove else clients.register
    write(lambda connection: change(connection, accounts.find_app(connection, app_words), uri))
    click.echo(f"Log-ins for {app_words} {'no longer' if remove else 'may now'} redirect to {uri}")


@app_group.command("list")
@paged("ID")
def list_apps(page: Page) -> None:
    """Print apps ordered by name: id, numbers of users and changes, log mode, name, and redirect addresses."""
    found = read(lambda connection: queries.list_apps(connection, after=page.after, most=page.limit + 1))
    page.show([_item(app) for app in found])


def _find_winners(app: str) -> None:
    """Examine the changes of all users that were not examined yet, and print a line for each user with many."""
    for user in read(lambda connection: winners.unfinished(connection, app)):
        while left := write(partial(changelog.catch_up, app=app, user=user)):
            click.echo(f"User {user}: {_number(left, 'change')} left", err=True)
            time.sleep(PAUSE_SECONDS)


def _item(app: queries.App) -> Item:
    columns = (app.id, _number(app.users, "user"), _number(app.changes, "change"), app.log, app.name)
    return Item(app._asdict(), columns, app.addresses, key=app.id)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
