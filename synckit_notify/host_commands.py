"""`flask synckit ...` on every application with a Notifier.

    publish APP USER   notify a user's devices, and say whether the broker accepted it
    streams            print the open streams of all processes, which answer over the broker
    doctor             check the settings, the hooks, the broker and the other processes (host_doctor.py)

`Notifier.init_app` adds them to the application's commands. The included backend adds its own to the same group. A
command runs in a process without streams of its own, so the broker is its only way to the servers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from . import brokers
from .app_state import EXTENSION_NAME, AppState
from .brokers import Broker, Notice, Report
from .brokers.messages import is_id
from .brokers.survey import ANSWER_SECONDS, ask
from .command_output import Item, json_option, show_item
from .host_doctor import ALONE, NO_ANSWER, advice_for, examine

GROUP_NAME = "synckit"
FLUSH_SECONDS = 5.0
MAX_ANSWER_SECONDS = 60.0


def install(app: Flask) -> None:
    """Add the commands to `flask synckit` of an application; a command of that name that is there already stays."""
    group = app.cli.commands.get(GROUP_NAME)
    if not isinstance(group, click.Group):
        group = AppGroup(GROUP_NAME, help="Notify devices, list open streams, check the set-up.")
        app.cli.add_command(group)
    for command in COMMANDS:
        if command.name not in group.commands:
            group.add_command(command)


@click.command("publish")
@click.argument("app_id", metavar="APP")
@click.argument("user_id", metavar="USER")
@click.option("--device", help="Id of the device that is not notified, as if it had pushed.")
@with_appcontext
def publish(app_id: str, user_id: str, device: str | None) -> None:
    """Notify the devices of USER in APP (ids) that there are changes."""
    if not all(value is None or is_id(value) for value in (app_id, user_id, device)):
        raise click.UsageError("an id must have 1 to 128 characters")
    with _broker() as broker:
        broker.publish(Notice(app_id, user_id, device))
        if not broker.flush(FLUSH_SECONDS):
            advice = advice_for(broker)
            raise click.ClickException(f"the broker did not accept the notice ({broker.describe()}): {advice}")
        click.echo(f"The broker accepted the notice ({broker.describe()})")


@click.command("streams")
@json_option
@click.option(
    "--seconds",
    default=ANSWER_SECONDS,
    show_default=True,
    type=click.FloatRange(0, MAX_ANSWER_SECONDS, min_open=True),
    help="How long to wait for answers.",
)
@with_appcontext
def streams(as_json: bool, seconds: float) -> None:
    """Print the open streams of all processes that share the broker.

    A process answers from its first stream on, so a process that never had one is not in the list.
    """
    with _broker() as broker:
        survey = ask(broker, seconds)
        if not survey.connected:
            raise click.ClickException(f"no answer from the broker ({broker.describe()}): {advice_for(broker)}")
    reports, total = survey.reports, sum(report.streams for report in survey.reports)
    for report in reports:
        show_item(_item(report), as_json=as_json)
    summary = f"{_count(total, 'stream')} in {_count(len(reports), 'process')}" if reports else NO_ANSWER
    click.echo(summary, err=as_json)


@click.command("doctor")
@json_option
@with_appcontext
def doctor(as_json: bool) -> None:
    """Check the settings, the hooks, the broker and the other processes of this application.

    Each line starts with `ok`, `warn` or `FAIL`. Below a `warn` or `FAIL` is what it means and what to do. The exit
    status is 1 if there is a FAIL. For the way between a device and the server (TLS, proxies, time limits) run
    `synckit doctor URL` on the device's side.
    """
    failed = False
    for finding in examine(_app_state()):
        failed = failed or finding.verdict == "FAIL"
        advice = [finding.advice] if finding.advice else []
        show_item(Item(finding._asdict(), [f"{finding.verdict:<6}{finding.what}"], advice), as_json=as_json)
    sys.exit(1 if failed else 0)


COMMANDS: tuple[click.Command, ...] = (publish, streams, doctor)

_FIELDS = frozenset({"host", "pid", "server", "streams", "parked", "apps"})
"""What --json prints of a report."""


def _app_state() -> AppState:
    app_state: AppState = current_app.extensions[EXTENSION_NAME]
    return app_state


@contextmanager
def _broker() -> Iterator[Broker]:
    """Yield a broker of this command's own; end the command if it cannot reach other processes."""
    broker = brokers.connect(*_app_state().broker_address)
    if broker.name == "memory":
        raise click.ClickException(ALONE)
    try:
        yield broker
    finally:
        broker.close()


def _item(report: Report) -> Item:
    apps = ", ".join(f"{app} {count}" for app, count in report.apps.items())
    parked = f" ({report.parked} parked)" if report.parked else ""
    words = (report.host, f"pid {report.pid}", report.server, f"{_count(report.streams, 'stream')}{parked}", apps)
    members = {name: value for name, value in report._asdict().items() if name in _FIELDS}
    return Item(members, [*filter(None, words)])


def _count(number: int, thing: str) -> str:
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
