"""`flask synckit connected`: asks every process of every server who listens there, and prints one answer (rollcall)."""

import time
from collections import Counter, defaultdict

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import Connection

from ...settings import sweep_seconds
from .. import presence
from ..database.schema import apps, devices, users
from ..presence import Present
from . import queries
from .transactions import read, show, write

ANSWER_SECONDS = 2.0
"""What a process may take to answer, from its sweep on."""

MAX_SHOWN = 100

Lines = list[tuple[str, str, int, list[str]]]
"""App, user, how many streams, and the names of devices."""


@click.command("connected")
@click.option("--wait", type=click.FloatRange(min=0), help="Seconds; by default a little longer than a sweep takes.")
@click.option("--limit", "most", default=MAX_SHOWN, type=click.IntRange(min=1), show_default=True, help="Users shown.")
@with_appcontext
def connected(wait: float | None, most: int) -> None:
    """Print who is connected: app, user, streams and the devices that have named themselves.

    Servers that use the same database answer at their next sweep (SYNCKIT_SWEEP_SECONDS, theirs, and they need not
    share a broker). A process without streams does not answer.
    """
    seconds = sweep_seconds(current_app.config) + ANSWER_SECONDS if wait is None else wait
    question = write(presence.ask)
    try:
        click.echo(f"Asked; the servers have {seconds:g} s to answer", err=True)
        time.sleep(seconds)
        present = read(lambda connection: presence.heard(connection, question))
    finally:
        write(lambda connection: presence.forget(connection, question))
    lines, people = read(lambda connection: _lines(connection, present, most))
    for app, user, streams, names in lines:
        show(app, user, f"{streams} streams", ", ".join(names))
    if people > most:
        click.echo(f"and {people - most} more: --limit", err=True)
    for process, streams in sorted(present.processes.items()):
        show(f"{streams} streams in {process}")
    click.echo(f"{sum(present.processes.values())} streams, {len(present.processes)} processes answered")


def _lines(connection: Connection, present: Present, most: int) -> tuple[Lines, int]:
    """Return a line for each of those with the most streams, and how many there are in all."""
    counts: Counter[tuple[str, str]] = Counter()
    named = defaultdict(set)
    for (app, user, device), streams in present.streams.items():
        counts[app, user] += streams
        if device is not None:
            named[app, user].add(device)
    shown = dict(counts.most_common(most))
    app_names = queries.names_of(connection, apps, apps.c.name, {app for app, _ in shown})
    emails = queries.names_of(connection, users, users.c.email, {user for _, user in shown})
    lines = []
    for (app, user), streams in shown.items():
        device_names = queries.names_of(connection, devices, devices.c.name, named[app, user])
        names = sorted(device_names.get(device, device) for device in named[app, user])
        lines.append((app_names.get(app, app), emails.get(user, user), streams, names))
    return lines, len(counts)
