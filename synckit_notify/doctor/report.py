"""Print findings: as text for people, or as one JSON object per line for scripts. Progress goes to stderr."""

import dataclasses
import json
import shutil
import sys
import textwrap
from collections import Counter

import click

from .findings import Finding, Verdict
from .fixes import Change

COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
INDENT = 6
MIN_COLUMNS, MAX_COLUMNS = 40, 100


class Report:
    """Print findings as they are found, and progress in between; a context manager."""

    def __init__(self, url: str, as_json: bool) -> None:
        self._url = url
        self.counts: Counter[Verdict] = Counter()
        self._as_json = as_json
        self._is_interactive = sys.stderr.isatty()
        self._width = max(MIN_COLUMNS, min(shutil.get_terminal_size().columns, MAX_COLUMNS))
        self._last_changes: tuple[Change, ...] = ()
        self._shows_progress = False

    @property
    def failed(self) -> bool:
        """Return whether a finding was a FAIL."""
        return self.counts[Verdict.FAIL] > 0

    def wait(self, what: str) -> None:
        """Show a progress text until something else is printed; do nothing unless stderr is a terminal."""
        if self._is_interactive:
            self._clear()
            click.secho(f"{'':{INDENT}}{what[: self._width - INDENT - 4]} …", dim=True, nl=False, err=True)
            self._shows_progress = True

    def say(self, finding: Finding) -> None:
        """Print one finding."""
        self._clear()
        self.counts[finding.verdict] += 1
        if self._as_json:
            click.echo(json.dumps(dataclasses.asdict(finding)))
            return
        figure = click.style(f"  ({finding.figure})", dim=True) if finding.figure else ""
        verdict = click.style(f"{finding.verdict:<{INDENT}}", fg=COLOURS[finding.verdict], bold=True)
        click.echo(f"{verdict}{finding.what}{figure}")
        self._explain(finding)

    def __enter__(self) -> "Report":
        if not self._as_json:
            click.secho(self._url, bold=True)
            click.echo()
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        if self.counts and not self._as_json:
            summary = ", ".join(f"{self.counts[verdict]} {verdict}" for verdict in Verdict if self.counts[verdict])
            click.echo()
            click.secho(summary, bold=True)

    def _explain(self, finding: Finding) -> None:
        for line in textwrap.wrap(finding.why, self._width - INDENT):
            click.echo(f"{'':{INDENT}}{line}")
        if finding.changes and finding.changes == self._last_changes:
            click.echo(f"{'':{INDENT + 2}}(as above)")
        elif finding.changes:
            self._print_changes(finding.changes)

    def _print_changes(self, changes: tuple[Change, ...]) -> None:
        self._last_changes = changes
        width = max(len(change.where) for change in changes)
        previous = ""
        for change in changes:
            where = "" if change.where == previous else change.where
            click.echo(f"{'':{INDENT + 2}}{click.style(f'{where:<{width}}', fg='cyan')}  {change.line}")
            previous = change.where

    def _clear(self) -> None:
        if self._shows_progress:
            click.echo("\r\x1b[2K", nl=False, err=True)
            self._shows_progress = False
