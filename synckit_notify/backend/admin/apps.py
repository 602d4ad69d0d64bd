"""`flask synckit app ...`: apps that may sync, and where a log-in in the browser may answer them."""

import click
from flask.cli import AppGroup

from .. import accounts
from ..oauth import clients
from . import queries
from .transactions import check, read, show, write


@click.group("app", cls=AppGroup)
def app_group() -> None:
    """Apps that may sync."""


@app_group.command("add")
@click.argument("name")
def add_app(name: str) -> None:
    """Add an app and print its id and its API key, which is shown only now."""
    check(name, "NAME", 100)
    app_id, api_key = write(lambda connection: accounts.add_app(connection, name))
    click.echo(f"App {name} has the id {app_id} and the API key {api_key}")


@app_group.command("redirect")
@click.argument("app_words", metavar="APP")
@click.argument("uri")
@click.option("--remove", is_flag=True, help="Take it away again.")
def redirect(app_words: str, uri: str, remove: bool) -> None:
    """Let a log-in in the browser answer an app at this address; addresses on the loopback need no such word."""
    change = clients.forget if remove else clients.register
    write(lambda connection: change(connection, accounts.find_app(connection, app_words), uri))
    click.echo(f"{app_words} is {'no longer' if remove else 'from now on'} answered at {uri}")


@app_group.command("list")
def list_apps() -> None:
    """Print each app's id, how many users and changes it has, its name, and the addresses it is answered at."""
    for app in read(queries.list_apps):
        show(app.id, f"{app.users} users", f"{app.changes} changes", app.name)
        for address in app.addresses:
            show("   ", address)
