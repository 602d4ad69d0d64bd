"""Stores: what `client.run` keeps in step with the account.

    the app edits its rows ──▶ pending ──▶ run sends them ──▶ sent, or refused
    run pulls changes ──▶ apply: rows and position in one transaction

A `Store` knows the app's rows and nothing of the network; `run` knows the network and nothing of the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from ..models import ChangeEntry, Order, Position, PulledChange

__all__ = ["PendingEntry", "Store"]


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """The newest local edit of a row that has not been sent.

    `version` names this edit. It is random, so that it stays unique even after the store was restored from a copy. The
    timestamp of `entry` was fixed when the edit was recorded.
    """

    version: str
    entry: ChangeEntry


class Store(Protocol):
    """The rows of an app, for `client.run`.

    `run` calls all methods in the thread that called it, except `wake`, which any thread may call. A method may raise
    an error of the operating system, or an `OperationalError` of its database, such as a busy file or a full disk:
    `run` reports it and repeats the call later. Any other exception ends `run`.
    """

    clock_offset: timedelta
    """The server's clock minus this device's; `run` sets it. Add it to the clock when an edit is recorded."""

    def position(self) -> Position:
        """Return the position of the last `apply`, or `Position()` before the first."""
        ...

    def apply(self, changes: Sequence[PulledChange], position: Position) -> None:
        """Store the changes and the position in one transaction.

        The changes are in the order of the log; this device's own are among them, and any of them may come again, so
        the position may go back. The later of two changes of a row is the one with the greater `order`. An edit that
        was not sent yet wins over a change if its timestamp is later than the change's `order_at`.
        """
        ...

    def begin_again(self, *, was_away: bool) -> None:
        """Set the position to `Position()`, since the log is read again from its start.

        Once `position.is_complete` after that, rows that the log does not have are deleted, and their edits are dropped
        and reported, unless the row was never sent. This may be called again before that; then the first call counts.

        With `was_away` this device was away for so long that the log no longer has all deletions. Without it the log
        was replaced: if its epoch is another one, the server was restored from a backup, and a store may instead send
        the rows again that the log does not have.
        """
        ...

    def keep(self, rows: Sequence[tuple[str, str]]) -> None:
        """Do not count these rows, each a table and a row id, as missing in the log: it has changes of them.

        They cannot be read here, for want of a key, for example. It is called before the `apply` of their page, and
        only matters while the log is read again; ignore rows that are not known.
        """
        ...

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        """Return at most `limit` edits to send, oldest first: for each row the newest, without the refused ones."""
        ...

    def sent(self, versions: Mapping[str, Order]) -> None:
        """Forget these edits, since the log has them now; a row that was edited again stays pending.

        Each version comes with its order in the log. Ignore versions that are not known. The store may set its position
        back, to be given changes again.
        """
        ...

    def refused(self, version: str, reason: str) -> None:
        """Set this edit aside with the reason, until its row is edited again; ignore a version that is not known."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until there may be new edits; return False if there were none within `timeout` seconds, or at `wake`."""
        ...

    def wake(self) -> None:
        """End the call of `wait` that is in progress, or the next one if none is."""
        ...
