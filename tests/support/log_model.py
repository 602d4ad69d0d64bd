"""An exact model of the server's log for tests of stores: sequence, received_at, order_at, epochs, repeated
pushes, compaction.

Nothing of HTTP and of encryption. Its clock is an argument; `received_at` always increases.
"""

import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from synckit_notify.client.models import ChangeEntry, Order, Position, PulledChange

MICROSECOND = timedelta(microseconds=1)


@dataclass
class LogModel:
    """The log of one account."""

    clock: Callable[[], datetime]
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    changes: list[PulledChange] = field(default_factory=list)
    head: int = 0
    pushes: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)

    def push(self, device_id: str, push_id: str, entries: Sequence[ChangeEntry]) -> list[Order]:
        """Store a batch, unless it is a repetition; return the orders that a client computes from the answer."""
        if (device_id, push_id) not in self.pushes:
            last = self.changes[-1].received_at if self.changes else datetime.min.replace(tzinfo=self.clock().tzinfo)
            received_at = max(self.clock(), last + MICROSECOND)
            for entry in entries:
                self.head += 1
                self.changes.append(
                    PulledChange(
                        *(entry.table, entry.op, entry.row_id, entry.timestamp, copy.deepcopy(entry.data)),
                        *(self.head, device_id, received_at, min(entry.timestamp, received_at)),
                    )
                )
            self.pushes[device_id, push_id] = self.head, received_at
        cursor, received_at = self.pushes[device_id, push_id]
        first = cursor - len(entries) + 1
        return [
            Order(min(entry.timestamp, received_at), device_id, first + index) for index, entry in enumerate(entries)
        ]

    def pull(self, position: Position, limit: int) -> tuple[list[PulledChange], Position] | None:
        """Return a page, or None if the position is one of another log."""
        if position.epoch not in (None, self.epoch) and position.cursor:
            return None
        behind = [change for change in self.changes if change.seq > position.cursor]
        if len(behind) <= limit:
            return behind, Position(self.epoch, self.head, is_complete=True)
        return behind[:limit], Position(self.epoch, behind[limit - 1].seq)

    def compact(self) -> None:
        """Drop every change that another one of the same row beats."""
        self.changes = sorted(self.winners().values(), key=lambda each: each.seq)

    def winners(self) -> dict[tuple[str, str], PulledChange]:
        """Return the winner of each row by the one order."""
        return {(change.table, change.row_id): change for change in sorted(self.changes, key=lambda each: each.order)}

    def backup(self) -> "LogModel":
        """Return a copy."""
        return LogModel(self.clock, self.epoch, list(self.changes), self.head, dict(self.pushes))

    def restore(self, backup: "LogModel") -> None:
        """Go back to a copy, under a new epoch."""
        self.changes, self.head, self.pushes = list(backup.changes), backup.head, dict(backup.pushes)
        self.epoch = uuid.uuid4().hex
