"""`synckit` on the command line: watch an account, see two devices talk, examine the way to a server.

    synckit listen   connects and prints each notification and each change of state with its time
    synckit demo     runs two devices and prints how long each of five changes took from one to the other
    synckit doctor   opens a stream as a device does, and prints what hinders it and which line of which proxy to change

Nothing of the server is needed. Accounts come from options or from SYNCKIT_URL, SYNCKIT_API_KEY,
SYNCKIT_EMAIL and SYNCKIT_PASSWORD.
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

from .client.client import SyncKitClient
from .client.errors import SyncKitError
from .client.foreign_text import printable
from .client.models import BEGINNING, ChangeEntry, PulledChange, PullFilter, UnreadableChange
from .client.stream import SyncNotification
from .doctor import Address, Report, examine, readable_token

CHANGES = 5
DEMO_TABLE = "synckit_demo"
"""In the clear, and a table of its own: whatever else the account holds is neither read nor touched.

There is no passphrase to encrypt with, and a key made here would be the account's. Devices that encrypt leave these
changes out.
"""

PATIENCE_SECONDS = 10.0

Account = dict[str, str]


def _account_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--url", envvar="SYNCKIT_URL", default="http://127.0.0.1:8000", show_default=True),
        click.option("--api-key", envvar="SYNCKIT_API_KEY", prompt="API key"),
        click.option("--email", envvar="SYNCKIT_EMAIL", prompt="E-mail"),
        click.option("--password", envvar="SYNCKIT_PASSWORD", prompt=True, hide_input=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
@click.version_option(package_name="synckit-notify")
def main() -> None:
    """Watch a SyncKit account from the command line."""
    for stream in sys.stdout, sys.stderr:
        # A console that cannot write a character, as cp1252 cannot write Chinese, shows it escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@main.command()
@_account_options
@click.option("--state", type=click.Path(dir_okay=False), help="Keep the session in this file.")
@click.option("--pull", is_flag=True, help="Register as a device, pull at each notice and print the changes.")
@click.option("--passphrase", envvar="SYNCKIT_PASSPHRASE", help="Opens the account's master key, to pull.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
def listen(state: str | None, pull: bool, passphrase: str | None, as_json: bool, **account: str) -> None:
    """Print notifications and changes of state until Ctrl-C."""

    def say(what: str, **more: Any) -> None:
        now = datetime.now(UTC).astimezone()
        if as_json:
            click.echo(json.dumps({"time": now.isoformat(), "what": what} | more))
        else:
            words = " ".join(printable(str(value)) for value in more.values() if value != "")
            click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03} {what:<13} {words}".rstrip())

    def show(page: list[PulledChange]) -> None:
        for change in page:
            say("pulled", table=change.table, op=change.op, row=change.row_id)

    def show_unreadable(change: UnreadableChange) -> None:
        say("unreadable", table=change.table, row=change.row_id, reason=change.reason)

    with suppress(KeyboardInterrupt), _explained(), _client(account, state, passphrase) as client:
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
def demo(**account: str) -> None:
    """Push five changes on one device and time them on another."""
    with _explained(), _client(account) as laptop, _client(account) as phone:
        laptop.register_device("synckit demo: laptop", "linux")
        phone.register_device("synckit demo: phone", "android")
        with Watch(phone) as watch:
            click.echo(f"{'change':<8}{'heard after':>14}{'pulled after':>15}")
            for number in range(1, CHANGES + 1):
                heard, pulled = watch.time(laptop, f"demo {time.time_ns()}")
                click.echo(f"{number:<8}{heard:>11.1f} ms{pulled:>12.1f} ms")


@main.command()
@click.argument("url")
@click.option(
    "--token", envvar="SYNCKIT_TOKEN", required=True, show_envvar=True, help="An access token; never printed."
)
@click.option("--app", required=True, help="The id of the app that the token is for.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Listen so long, not for two keepalives.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
def doctor(url: str, token: str, app: str, seconds: float | None, as_json: bool) -> None:
    """Examine the way from here to a stream of the server at URL.

    Each line is `ok`, `warn` or `FAIL`; under the latter two stand the reason and the lines to change. The exit status
    is 1 if there is a FAIL. Leave the token in SYNCKIT_TOKEN to keep it out of the shell's history.
    """
    try:
        address, token = Address.read(url), readable_token(token)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with _explained(), Report(str(address.subscribe), as_json) as report:
        for finding in examine(address, token=token, app=app, seconds=seconds, progress=report.wait):
            report.say(finding)
    sys.exit(1 if report.failed else 0)


class Watch:
    """A device that listens in a thread of its own and notes when it hears and what it pulls."""

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
        self._thread.join(PATIENCE_SECONDS)

    def time(self, pusher: SyncKitClient, row: str) -> tuple[float, float]:
        """Push one change elsewhere; return the milliseconds until it was heard and until it was pulled here."""
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
            if not self._news.wait_for(condition, PATIENCE_SECONDS):
                raise click.ClickException(
                    f"nothing was heard for {PATIENCE_SECONDS:g} s: {printable(self._stream.reason)}"
                )


def _client(account: Account, state: str | None = None, passphrase: str | None = None) -> SyncKitClient:
    """Return a client that has logged in; without a passphrase it reads and writes in the clear."""
    encrypt = passphrase is not None
    client = SyncKitClient(account["url"], api_key=account["api_key"], state=state, encrypt=encrypt)
    client.authenticate(account["email"], account["password"])
    if passphrase is not None:
        client.setup_encryption_existing(passphrase)
    return client


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the SDK and the arguments may raise into one sentence and exit status 1; its foreign parts escaped."""
    try:
        yield
    except (SyncKitError, ValueError) as error:
        raise click.ClickException(printable(str(error))) from error


if __name__ == "__main__":
    main()
