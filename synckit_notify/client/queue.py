"""The queue of changes to send, in the state file: batches that the server has not answered yet, oldest first.

    add        the changes of one `push`
    add_edits  a batch of edits of a store, each with its version
    next ──▶ sent ──▶ finish: the batch is removed; of edits, the answer is kept until the store knows it
    answered ──▶ Store.sent ──▶ forget
    give_back  all batches of edits are removed: the store still has the edits, and decides again what to send

A batch is sent unchanged, with the same `push_id`, until the server answers. So whatever is lost or dies in between,
the server stores it once, and the store learns the place of its edits in the log. Only State makes a Queue.
"""

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from . import statefile
from .errors import StateError
from .models import Order


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch to send; `versions` are those of a store's edits, in the order of `changes`, and empty for a push."""

    push_id: str
    changes: list[Any] = field(repr=False)
    versions: tuple[str, ...] = ()


class SealedEdit(NamedTuple):
    """An edit of a store: its version, its timestamp, and the JSON text to send."""

    version: str
    timestamp: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The edits of a batch that the server answered, each with its place in the log."""

    push_id: str
    orders: dict[str, Order]


class Queue:
    """The queue in one state file; `transaction` is that of the State."""

    def __init__(
        self, connection: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[sqlite3.Row]]
    ) -> None:
        self._connection = connection
        self._transaction = transaction

    def add(self, digest: str, batches: Sequence[Sequence[str]]) -> None:
        """Add all batches of one push, or none if the same push is already queued."""
        with self._transaction():
            if self._connection.execute("SELECT 1 FROM pending WHERE digest = ?", (digest,)).fetchone() is None:
                for batch in batches:
                    self._insert(str(uuid.uuid4()), digest, batch)

    def add_edits(self, edits: Sequence[SealedEdit]) -> bool:
        """Add a batch of edits; return False, and add nothing, if one of them is queued or its answer is kept."""
        push_id = str(uuid.uuid4())
        kept = json.dumps([(edit.version, edit.timestamp.isoformat()) for edit in edits])
        with self._transaction():
            # An earlier version of this SDK, which ignores this table, may have sent the batch of a row.
            self._connection.execute(
                "DELETE FROM edits WHERE cursor IS NULL AND push_id NOT IN (SELECT push_id FROM pending)"
            )
            rows = self._connection.execute("SELECT versions FROM edits").fetchall()
            known = {version for row in rows for version, _ in _read_versions(row["versions"])}
            if any(edit.version in known for edit in edits):
                return False
            self._insert(push_id, push_id, [edit.text for edit in edits])
            self._connection.execute("INSERT INTO edits (push_id, versions) VALUES (?, ?)", (push_id, kept))
        return True

    def next(self) -> Batch | None:
        """Return the oldest batch that is not answered, or None."""
        query = """SELECT push_id, changes, versions FROM pending LEFT JOIN edits USING (push_id)
                   ORDER BY number LIMIT 1"""
        with statefile.access():
            row = self._connection.execute(query).fetchone()
        return None if row is None else _read_batch(row)

    def count(self) -> int:
        """Return the number of changes that are not answered."""
        with statefile.access():
            query = "SELECT coalesce(sum(CAST(count AS INTEGER)), 0) FROM pending"
            return int(self._connection.execute(query).fetchone()[0])

    def finish(self, push_id: str, cursor: int, received_at: datetime | None = None, device_id: str = "") -> None:
        """Remove a batch that the server answered with this cursor; of edits, keep the answer.

        `received_at` is the server's time of the push, or None if the server does not tell.
        """
        with self._transaction():
            self._connection.execute("DELETE FROM pending WHERE push_id = ?", (push_id,))
            self._connection.execute(
                "UPDATE edits SET cursor = ?, received_at = ?, device_id = ? WHERE push_id = ?",
                (cursor, None if received_at is None else received_at.isoformat(), device_id, push_id),
            )
            self._connection.execute("UPDATE state SET pushed_to = ?", (cursor,))

    def answered(self) -> list[Answered]:
        """Return the batches of edits that were answered, for the store."""
        with statefile.access():
            rows = self._connection.execute("SELECT * FROM edits WHERE cursor IS NOT NULL ORDER BY cursor").fetchall()
        return [_read_answer(row) for row in rows]

    def forget(self, push_id: str) -> None:
        """Forget an answer, since the store knows it."""
        with self._transaction():
            self._connection.execute("DELETE FROM edits WHERE push_id = ? AND cursor IS NOT NULL", (push_id,))

    def give_back(self) -> None:
        """Remove all batches of edits, answered or not; those of a push stay."""
        with self._transaction():
            self._connection.execute("DELETE FROM pending WHERE push_id IN (SELECT push_id FROM edits)")
            self._connection.execute("DELETE FROM edits")

    def forget_all(self) -> None:
        """Forget all answers, inside a transaction: the log that has these edits was replaced.

        The store still has them. Those that the new log has come back to it, and it sends the others again.
        """
        self._connection.execute("DELETE FROM edits WHERE cursor IS NOT NULL")

    def take_out(self, batch: Batch, index: int) -> None:
        """Take one change, which the server refuses, out of a batch; the rest gets a new `push_id`."""
        with self._transaction():
            row = self._connection.execute("SELECT digest FROM pending WHERE push_id = ?", (batch.push_id,)).fetchone()
            if row is None:
                return  # another process did
            rest = [change for place, change in enumerate(batch.changes) if place != index]
            if not rest:
                self._remove(batch.push_id)
                return
            push_id = str(uuid.uuid4())
            self._connection.execute(
                "UPDATE pending SET push_id = ?, count = ?, changes = ? WHERE push_id = ?",
                (push_id, len(rest), json.dumps(rest), batch.push_id),
            )
            kept = self._connection.execute("SELECT versions FROM edits WHERE push_id = ?", (batch.push_id,)).fetchone()
            if kept is not None:
                versions = _read_versions(kept["versions"])
                del versions[index]
                self._connection.execute(
                    "UPDATE edits SET push_id = ?, versions = ? WHERE push_id = ?",
                    (push_id, json.dumps(versions), batch.push_id),
                )

    def split(self, batch: Batch) -> None:
        """Make two batches of the oldest one, in its place; the server refused it, and it has no versions."""
        half = len(batch.changes) // 2
        with self._transaction():
            row = self._connection.execute("SELECT * FROM pending WHERE push_id = ?", (batch.push_id,)).fetchone()
            if row is None:
                return  # another process did
            self._connection.execute("DELETE FROM pending WHERE push_id = ?", (batch.push_id,))
            for number, part in (row["number"] - 1, batch.changes[:half]), (row["number"], batch.changes[half:]):
                self._connection.execute(
                    "INSERT INTO pending (number, push_id, digest, count, changes) VALUES (?, ?, ?, ?, ?)",
                    (number, str(uuid.uuid4()), row["digest"], len(part), json.dumps(part)),
                )

    def drop(self, push_id: str) -> None:
        """Remove a batch that was not answered."""
        with self._transaction():
            self._remove(push_id)

    def discard(self) -> int:
        """Remove all batches that are not answered; return the number of their changes."""
        with self._transaction():
            count = self.count()
            self._connection.execute("DELETE FROM pending")
            self._connection.execute("DELETE FROM edits WHERE cursor IS NULL")
        return count

    def _insert(self, push_id: str, digest: str, changes: Sequence[str]) -> None:
        statement = "INSERT INTO pending (push_id, digest, count, changes) VALUES (?, ?, ?, ?)"
        self._connection.execute(statement, (push_id, digest, len(changes), f"[{','.join(changes)}]"))

    def _remove(self, push_id: str) -> None:
        self._connection.execute("DELETE FROM pending WHERE push_id = ?", (push_id,))
        self._connection.execute("DELETE FROM edits WHERE push_id = ? AND cursor IS NULL", (push_id,))


@contextmanager
def _as_damage() -> Iterator[None]:
    """Raise StateError for values that Queue does not write."""
    try:
        yield
    except (TypeError, ValueError, IndexError, RecursionError, OverflowError) as error:
        raise StateError("the state file is damaged: a pending batch cannot be read") from error


def _read_batch(row: Any) -> Batch:
    with _as_damage():
        changes = list(json.loads(row["changes"]))
        versions = [] if row["versions"] is None else _read_versions(row["versions"])
        if versions and len(versions) != len(changes):
            raise ValueError("another number of changes than of versions")
        return Batch(str(row["push_id"]), changes, tuple(version for version, _ in versions))


def _read_answer(row: Any) -> Answered:
    with _as_damage():
        versions, device = _read_versions(row["versions"]), str(row["device_id"] or "")
        received_at = None if row["received_at"] is None else datetime.fromisoformat(row["received_at"])
        first = int(row["cursor"]) - len(versions) + 1
        orders = {
            version: Order(min(at, received_at or at), device, first + place)
            for place, (version, at) in enumerate((version, datetime.fromisoformat(at)) for version, at in versions)
        }
        return Answered(str(row["push_id"]), orders)


def _read_versions(text: Any) -> list[list[str]]:
    """Return pairs of a version and the text of its timestamp."""
    with _as_damage():
        pairs = json.loads(text)
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs
        ):
            raise ValueError("not pairs of strings")
        return pairs
