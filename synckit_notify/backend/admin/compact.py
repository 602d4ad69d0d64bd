"""`flask synckit compact`: drop what no device needs any more from the logs of apps with the log mode `rows`."""

from collections.abc import Sequence
from itertools import accumulate

import click
from flask.cli import with_appcontext

from ...command_output import show
from .. import accounts, compaction
from ..compaction import Compaction, Saved
from ..context import current_backend
from ..database.schema import ROWS, now
from ..errors import Conflict
from .transactions import read, refusals_end

DAY_MICROSECONDS = 24 * 3600 * 1_000_000
MAX_KEEP_DAYS = 36_500


@click.command("compact")
@click.argument("apps", metavar="[APP]...", nargs=-1)
@click.option(
    "--keep-days",
    type=click.IntRange(0, MAX_KEEP_DAYS),
    default=180,
    show_default=True,
    help="How long deletions are kept for devices that were away, and how long a device may be away.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would be dropped.")
@click.option(
    "--vacuum",
    is_flag=True,
    help="Then give the free space back to the file system. Pushes wait meanwhile, on PostgreSQL pulls too.",
)
@with_appcontext
def compact_logs(apps: Sequence[str], keep_days: int, dry_run: bool, vacuum: bool) -> None:
    """Drop what no device needs any more from the logs of each APP, or of all apps with the log mode `rows`.

    Every change is dropped that a later change of its row beats. A deletion is dropped --keep-days after it was
    received, if every device has applied it. A device that neither pushed nor pulled for --keep-days is retired: it
    must read the log again from its start before it may push, and no deletion is kept for it.

    Servers go on meanwhile. The command may be interrupted at any moment, and run again. Without --vacuum the database
    keeps the free space for later changes.
    """
    if dry_run and vacuum:
        raise click.UsageError("--vacuum cannot be combined with --dry-run")
    chosen = _chosen(apps)
    before = now() - keep_days * DAY_MICROSECONDS
    for app, name in chosen:
        show(f"App {name}:", _told(_compact(app, name, before, dry_run), dry_run))
    if not chosen:
        click.echo("No app has the log mode rows")
    if vacuum:
        click.echo("Giving the free space back")
        with refusals_end():
            current_backend().store.vacuum()


def _chosen(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the id and the name of each app that is named, or of all; end the command for one that keeps the history.

    The same app may be named twice.
    """
    present = dict(read(compaction.apps_with_rows))
    if not words:
        return list(present.items())
    ids = read(lambda connection: [accounts.find_app(connection, word) for word in words])
    for app, word in zip(ids, words, strict=True):
        if app not in present:
            with refusals_end():
                raise Conflict(f"no app {word} has the log mode {ROWS}: see flask synckit app list and app set")
    return [(app, present[app]) for app in dict.fromkeys(ids)]


def _compact(app: str, name: str, before: int, is_trial: bool) -> Saved:
    """Compact the logs of all users of an app."""
    logs = read(lambda connection: compaction.logs_of(connection, app))
    total, store = Saved(), current_backend().store
    with refusals_end(), click.progressbar(length=sum(seq for _, seq in logs), label=f"Examining {name!r}") as bar:
        for (user, head), end in zip(logs, accumulate(seq for _, seq in logs), strict=True):

            def advance(last: int, end: int = end, head: int = head) -> None:
                bar.update(max(0, end - max(0, head - last) - bar.pos))

            total += Compaction(store, app, user, before, is_trial, advance).run()
            advance(head)
    return total


def _told(saved: Saved, is_trial: bool) -> str:
    did = "would be" if is_trial else "were"
    return (
        f"{saved.changes} changes and {saved.markers} deletions with {saved.bytes} bytes of data {did} dropped, "
        f"{saved.devices} devices {did} retired"
    )
