"""`flask --app wsgi synckit ...`: the backend's administration, beside running servers or without any.

Each command is one transaction on the same database. The last word printed is what a script wants. Whatever is refused
becomes one sentence and exit status 1.
"""

from collections.abc import Callable
from typing import TypeVar

import click
from flask.cli import AppGroup
from sqlalchemy import Connection

from ..errors import Refused
from . import accounts, changelog, clients, sessions
from .context import PASTED_TOKEN_SECONDS, current_backend
from .fields import check_text
from .sessions import Holder

T = TypeVar("T")

synckit = AppGroup("synckit", help="Administrate the SyncKit backend.")


@synckit.group("app")
def app_group() -> None:
    """Apps that may sync."""


@app_group.command("add")
@click.argument("name")
def add_app(name: str) -> None:
    """Add an app and print its id and its API key, which is shown only now."""
    _check(name, "NAME", 100)
    app_id, api_key = _write(lambda connection: accounts.add_app(connection, name))
    click.echo(f"App {name} has the id {app_id} and the API key {api_key}")


@app_group.command("redirect")
@click.argument("app_words", metavar="APP")
@click.argument("uri")
@click.option("--remove", is_flag=True, help="Take it away again.")
def redirect(app_words: str, uri: str, remove: bool) -> None:
    """Let a log-in in the browser answer an app at this address; addresses on the loopback need no such word."""
    change = clients.forget if remove else clients.register
    _write(lambda connection: change(connection, accounts.find_app(connection, app_words), uri))
    click.echo(f"{app_words} is {'no longer' if remove else 'from now on'} answered at {uri}")


@synckit.group("user")
def user_group() -> None:
    """People who have an account."""


@user_group.command("add")
@click.argument("email")
@click.password_option(help="Asked for when it is not given.")
def add_user(email: str, password: str) -> None:
    """Add an account and print its id."""
    _check(email.strip(), "EMAIL", accounts.LONGEST_EMAIL)
    _check(password, "--password", accounts.LONGEST_PASSWORD)
    password_hash = accounts.hash_password(password)
    user_id = _write(lambda connection: accounts.add_user(connection, email, password_hash))
    click.echo(f"User {accounts.normalise(email)} has the id {user_id}")


@user_group.command("logout")
@click.argument("email")
def log_out(email: str) -> None:
    """End a user's sessions, refuse every token so far, and end the open streams.

    A server that shares no broker with this command ends them only at its client's next request.
    """
    _end(_write(lambda connection: sessions.log_out(connection, accounts.find_user(connection, email))))
    click.echo(f"Every token of {accounts.normalise(email)} so far is refused from now on")


@user_group.command("password")
@click.argument("email")
@click.password_option(help="Asked for when it is not given.")
def set_password(email: str, password: str) -> None:
    """Give a user a new password, and do all that `logout` does."""
    _check(password, "--password", accounts.LONGEST_PASSWORD)
    password_hash = accounts.hash_password(password)
    _end(
        _write(
            lambda connection: sessions.set_password(connection, accounts.find_user(connection, email), password_hash)
        )
    )
    click.echo(f"{accounts.normalise(email)} has a new password, and every token so far is refused from now on")


@synckit.command("token")
@click.option("--app", "app_words", required=True, help="Id or name; an unknown one is taken as it is.")
@click.option("--user", "user_words", required=True, help="Id or e-mail; an unknown one is taken as it is.")
@click.option("--device", help="Bind the token to a device id.")
@click.option("--expires-in", type=int, default=PASTED_TOKEN_SECONDS, help="Seconds; negative for an expired token.")
def make_token(app_words: str, user_words: str, device: str | None, expires_in: int) -> None:
    """Print a token, alone on the last line."""

    def find(connection: Connection) -> tuple[str, str, int | None]:
        user = accounts.find_user(connection, user_words)
        return accounts.find_app(connection, app_words), user, accounts.valid_since(connection, user)

    app, user, valid_since = _read(find)
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

    app, user, move = _write(touch)
    current_backend().notifier.publish(app, user, device, changed_at=move.changed_at, previous_at=move.previous_at)
    click.echo("Announced; servers that share no broker with this command hear of it by their next sweep")


@synckit.command("restored")
def renew_epoch() -> None:
    """Run once after restoring a backup: every client then starts again from the beginning of the log."""
    click.echo(f"The log's epoch is now {_write(changelog.renew_epoch)}")


def _end(holders: set[Holder]) -> None:
    for holder in holders:
        current_backend().notifier.disconnect(*holder)


def _read(work: Callable[[Connection], T]) -> T:
    try:
        return current_backend().store.read(work)
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _write(work: Callable[[Connection], T]) -> T:
    try:
        return current_backend().store.write(work)
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _check(value: str, name: str, longest: int) -> None:
    try:
        check_text(value, name, longest)
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from refusal
