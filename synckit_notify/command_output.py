"""What commands that list have in common: the options `--after`, `--limit` and `--json`, and how an item is printed.

    items ──▶ one line each: columns for people, or with `--json` one JSON object
                    └── more than the page has ──▶ the next `--after`, on stderr

Each line is complete in itself, so a script may stop reading after any line. Columns contain no control characters,
since clients choose names; JSON escapes them.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

DEFAULT_ITEMS, MAX_ITEMS = 100, 1000
"""The default and the maximum number of items in one page of a list."""

Command = Callable[..., None]


class Item(NamedTuple):
    """One item of a list; `key` is what `--after` takes to continue behind it."""

    members: Mapping[str, Any]
    columns: Sequence[object]
    details: Sequence[object] = ()
    """Further lines below that of the columns."""
    key: str = ""


class Page(NamedTuple):
    """Which part of a list to print, and how."""

    after: str
    limit: int
    as_json: bool

    def show(self, found: Sequence[Item]) -> None:
        """Print the items; `found` has one more than `limit` if the list goes on, which stderr then says."""
        for item in found[: self.limit]:
            show_item(item, as_json=self.as_json)
        if len(found) > self.limit:
            click.echo(f"There are more: use --after {printable(found[self.limit - 1].key)}", err=True)


def json_option(command: Command) -> Command:
    """Add the option `--json`, which is the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")(command)


def paged(key: str) -> Callable[[Command], Command]:
    """Add the options of a list that comes in pages, which are the argument `page`; `key` is what `--after` takes."""

    def add_options(command: Command) -> Command:
        @click.option("--after", default="", metavar=key, help="Begin behind this item: the last of the page before.")
        @click.option("--limit", default=DEFAULT_ITEMS, type=click.IntRange(1, MAX_ITEMS), show_default=True)
        @json_option
        @functools.wraps(command)
        def with_page(*, after: str, limit: int, as_json: bool, **arguments: Any) -> None:
            command(page=Page(after, limit, as_json), **arguments)

        return with_page

    return add_options


def show_item(item: Item, *, as_json: bool) -> None:
    """Print one item."""
    if as_json:
        click.echo(json.dumps(item.members))
        return
    show(*item.columns)
    for detail in item.details:
        show("    ", detail)


def show(*values: object) -> None:
    """Print a line of values without control characters."""
    click.echo(printable("  ".join(str(value) for value in values)))


def printable(text: str) -> str:
    """Return a text without control characters, since names come from clients, tokens and other machines."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
