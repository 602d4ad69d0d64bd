"""`flask synckit app ...`: the apps that may sync, and the addresses to which a log-in in the browser may redirect."""

import click
from flask.cli import AppGroup

from .. import accounts
from ..oauth import clients
from . import queries
from .transactions import check, read, show, write


@click.group("app", cls=AppGroup)
def app_group() -> None:
    """Manage the apps that may sync."""


@app_group.command("add")
@click.argument("name")
def add_app(name: str) -> None:
    """Add an app and print its id and its API key. The key cannot be shown again."""
    check(name, "NAME", 100)
    app_id, api_key = write(lambda connection: accounts.add_app(connection, name))
    click.echo(f"App {name} has the id {app_id} and the API key {api_key}")


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
def list_apps() -> None:
    """Print each app's id, numbers of users and changes, name, and redirect addresses."""
    for app in read(queries.list_apps):
        show(app.id, _number(app.users, "user"), _number(app.changes, "change"), app.name)
        for address in app.addresses:
            show("   ", address)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
