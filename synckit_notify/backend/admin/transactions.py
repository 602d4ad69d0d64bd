"""What the commands share: transactions, and errors as one sentence.

Only the commands use this module.
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
    """End the command with one sentence if a Refused is raised; for a database error, with the driver's message."""
    current_backend().store.health.is_quiet = True  # the sentence is printed, so it need not be logged too
    try:
        yield
    except Busy as busy:
        raise click.ClickException(busy.reason or str(busy)) from None
    except Refused as refusal:
        raise click.ClickException(str(refusal)) from refusal


def read(work: Callable[[Connection], T]) -> T:
    """Run a transaction that only reads."""
    with refusals_end():
        return current_backend().store.read(work)


def write(work: Callable[[Connection], T]) -> T:
    """Run a transaction."""
    with refusals_end():
        return current_backend().store.write(work)


def end(holders: Iterable[Holder]) -> None:
    """End open streams. Call it after the commit.

    A server that shares no broker with this command ends them only at its client's next request.
    """
    for holder in holders:
        current_backend().notifier.disconnect(*holder)


def check(value: str, name: str, longest: int) -> None:
    """End the command if a string cannot be stored."""
    with refusals_end():
        check_text(value, name, longest)
