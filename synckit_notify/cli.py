"""The command `synckit`.

    synckit listen   connect and print each notification and each change of state with its time
    synckit demo     run two devices and print how long each of five changes takes from one to the other
    synckit doctor   open a stream as a device does, and print what interferes with it and which setting to change

It needs no server package. The account comes from options, or from SYNCKIT_URL, SYNCKIT_API_KEY, SYNCKIT_EMAIL and
SYNCKIT_PASSWORD.
"""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import click

from .client import master_key
from .client.client import SyncKitClient
from .client.errors import SyncKitError
from .client.foreign_text import printable
from .client.models import BEGINNING, ChangeEntry, PulledChange, PullFilter, UnreadableChange
from .client.stream import SyncNotification
from .command_output import Item, json_option, show_item
from .doctor import Address, Report, examine, readable_token

CHANGES = 5
DEMO_TABLE = "synckit_demo"
"""The demo uses a table of its own, so it neither reads nor changes other data of the account.

Its changes are not encrypted: it has no passphrase, and a master key made here would become the account's. Devices that
encrypt leave these changes out. In an account that has a master key, the demo refuses to run.
"""

TIMEOUT_SECONDS = 10.0

Account = dict[str, str]
Command = Callable[..., None]


def _option(name: str, variable: str, text: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(name, envvar=variable, show_envvar=True, help=text, **more)


def _account_options(command: Command) -> Command:
    options = [
        _option("--url", "SYNCKIT_URL", "The server's URL.", default="http://127.0.0.1:8000", show_default=True),
        _option("--api-key", "SYNCKIT_API_KEY", "The app's API key.", prompt="API key"),
        _option("--email", "SYNCKIT_EMAIL", "The e-mail of the account.", prompt="E-mail"),
        _option("--password", "SYNCKIT_PASSWORD", "The password of the account.", prompt=True, hide_input=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
@click.version_option(package_name="synckit-notify")
def main() -> None:
    """Watch a SyncKit account, or diagnose the connection to a server."""
    for stream in sys.stdout, sys.stderr:
        # A console whose encoding lacks a character, such as cp1252 for Chinese, shows an escape instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@main.command()
@_account_options
@click.option("--state", type=click.Path(dir_okay=False), help="A file to keep the session in.")
@click.option("--pull", is_flag=True, help="Register as a device, pull at each notification, and print the changes.")
@_option("--passphrase", "SYNCKIT_PASSPHRASE", "Decrypts the account's master key; for --pull.")
@json_option
def listen(state: str | None, pull: bool, passphrase: str | None, as_json: bool, **account: str) -> None:
    """Print notifications and changes of state until Ctrl-C."""

    def say(what: str, **more: Any) -> None:
        now = datetime.now(UTC).astimezone()
        if as_json:
            click.echo(json.dumps({"time": now.isoformat(), "what": what} | more))
        else:
            details = " ".join(printable(str(value)) for value in more.values() if value != "")
            click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03} {what:<13} {details}".rstrip())

    def show(page: list[PulledChange]) -> None:
        for change in page:
            say("pulled", table=change.table, op=change.op, row=change.row_id)

    def show_unreadable(change: UnreadableChange) -> None:
        say("unreadable", table=change.table, row=change.row_id, reason=change.reason)

    with suppress(KeyboardInterrupt), _errors_as_messages(), _client(account, state, passphrase) as client:
        if pull:
            client.register_device("synckit listen", "linux")
        for notification in client.subscribe_notifications(lambda state, reason: say(f"[{state}]", reason=reason)):
            say(notification.name.lower())
            if pull and notification is SyncNotification.CHANGED:
                locked = client.pull(apply=show, on_unreadable=show_unreadable).locked
                if locked:
                    say("locked", changes=locked)


@main.command()
@_account_options
@json_option
def demo(as_json: bool, **account: str) -> None:
    """Measure how fast five changes reach another device."""
    with _errors_as_messages(), _client(account) as laptop, _client(account) as phone:
        if master_key.exists(laptop._session):
            raise click.ClickException(
                "this account has a master key, and the demo pushes changes without encryption: use another account"
            )
        laptop.register_device("synckit demo: laptop", "linux")
        phone.register_device("synckit demo: phone", "android")
        with Watch(phone) as watch:
            if not as_json:
                click.echo(f"{'change':<8}{'heard after':>14}{'pulled after':>15}")
            for number in range(1, CHANGES + 1):
                heard, pulled = watch.time(laptop, f"demo {time.time_ns()}")
                members = {"change": number, "heard_ms": round(heard, 1), "pulled_ms": round(pulled, 1)}
                columns = [f"{number:<8}{heard:>11.1f} ms{pulled:>12.1f} ms"]
                show_item(Item(members, columns), as_json=as_json)


@main.command()
@click.argument("url")
@_option("--token", "SYNCKIT_TOKEN", "An access token. It is never printed.", required=True)
@click.option("--app", required=True, help="The id of the app that the token is for.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long to listen. Default: two keepalives.")
@json_option
def doctor(url: str, token: str, app: str, seconds: float | None, as_json: bool) -> None:
    """Diagnose the stream of the server at URL from this machine.

    Each line starts with `ok`, `warn` or `FAIL`. Below a `warn` or `FAIL` are the reason and the lines to change. The
    exit status is 1 if there is a FAIL. To check the settings of a server and its broker, run `flask synckit doctor`
    there. Set SYNCKIT_TOKEN instead of --token to keep the token out of the shell
    history.
    """
    try:
        address, token = Address.read(url), readable_token(token)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with _errors_as_messages(), Report(str(address.subscribe), as_json) as report:
        for finding in examine(address, token=token, app=app, seconds=seconds, progress=report.wait):
            report.say(finding)
    sys.exit(1 if report.failed else 0)


class Watch:
    """A device that listens in a thread, and records when it was notified and what it pulled."""

    def __init__(self, client: SyncKitClient) -> None:
        self._client = client
        self._news = threading.Condition()
        self._listening = False
        self._pulled: dict[str, tuple[float, float]] = {}
        self._stream = client.subscribe_notifications()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        self._wait_for(lambda: self._listening)  # the first CHANGED comes with the connection
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._thread.join(TIMEOUT_SECONDS)

    def time(self, pusher: SyncKitClient, row: str) -> tuple[float, float]:
        """Push one change from another device; return the milliseconds until it was notified here, and until pulled."""
        entry = ChangeEntry(table=DEMO_TABLE, op="INSERT", row_id=row, timestamp=datetime.now(UTC), data={"text": row})
        began = time.perf_counter()
        pusher.push([entry])
        self._wait_for(lambda: row in self._pulled)
        heard_at, pulled_at = self._pulled[row]
        return (heard_at - began) * 1000, (pulled_at - began) * 1000

    def _listen(self) -> None:
        position = BEGINNING
        for notification in self._stream:
            if notification is SyncNotification.CHANGED:
                heard_at = time.perf_counter()
                changes = self._client.pull_filtered(PullFilter().table(DEMO_TABLE).after(position))
                position = changes.position
                self._note(heard_at, [change.row_id for change in changes])

    def _note(self, heard_at: float, rows: list[str]) -> None:
        with self._news:
            self._pulled |= {row: (heard_at, time.perf_counter()) for row in rows}
            self._listening = True
            self._news.notify_all()

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._news:
            if not self._news.wait_for(condition, TIMEOUT_SECONDS):
                raise click.ClickException(
                    f"no notification within {TIMEOUT_SECONDS:g} s: {printable(self._stream.reason)}"
                )


def _client(account: Account, state: str | None = None, passphrase: str | None = None) -> SyncKitClient:
    """Return a client that has logged in; without a passphrase it does not encrypt."""
    encrypt = passphrase is not None
    client = SyncKitClient(account["url"], api_key=account["api_key"], state=state, encrypt=encrypt)
    client.authenticate(account["email"], account["password"])
    if passphrase is not None:
        if not master_key.exists(client._session):
            raise click.ClickException("this account has no master key yet: leave out --passphrase")
        client.setup_encryption(passphrase)
    return client


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Print an error of the SDK or of an argument as one message, with control characters escaped; exit with 1."""
    try:
        yield
    except (SyncKitError, ValueError) as error:
        raise click.ClickException(printable(str(error))) from error


if __name__ == "__main__":
    main()
