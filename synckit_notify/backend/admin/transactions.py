"""What the commands have in common: one transaction, one sentence for what is refused, texts that a terminal may show.

For the commands alone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from sqlalchemy import Connection

from ...errors import Refused
from ..context import current_backend
from ..errors import Busy
from ..request_fields import check_text
from ..sessions import Holder

T = TypeVar("T")


@contextmanager
def refusals_end() -> Iterator[None]:
    """Let what is refused end the command, with its sentence, and the reason where the database is what refuses."""
    current_backend().store.health.is_quiet = True  # the sentence below says it, a log line would say it twice
    try:
        yield
    except Busy as busy:
        raise click.ClickException(busy.reason or str(busy)) from None
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from refusal


def read(work: Callable[[Connection], T]) -> T:
    """Run a transaction that reads."""
    with refusals_end():
        return current_backend().store.read(work)


def write(work: Callable[[Connection], T]) -> T:
    """Run a transaction."""
    with refusals_end():
        return current_backend().store.write(work)


def end(holders: Iterable[Holder]) -> None:
    """End open streams, after the commit.

    A server that shares no broker with this command ends them only at its client's next request.
    """
    for holder in holders:
        current_backend().notifier.disconnect(*holder)


def check(value: str, name: str, longest: int) -> None:
    """End the command for a text that cannot be stored."""
    with refusals_end():
        check_text(value, name, longest)


def show(*values: object) -> None:
    """Print a line of values; names that clients chose must not steer the terminal."""
    line = "  ".join(str(value) for value in values)
    click.echo("".join(character if character.isprintable() else "\ufffd" for character in line))
