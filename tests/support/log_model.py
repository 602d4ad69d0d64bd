"""An exact model of the server's log for tests of stores: sequence, received_at, order_at, epochs, repeated pushes,
compaction, and devices that must read the log again.

Nothing of HTTP and of encryption. Its clock is an argument; `received_at` always increases.
"""

import copy
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from synckit_notify.client.models import ChangeEntry, Order, Position, PulledChange

MICROSECOND = timedelta(microseconds=1)
KEEP, PUSH_IDS = timedelta(days=180), timedelta(days=7)


class MustReadAgain(Exception):
    """The server answers 409; `was_away` tells that the device is retired or went back, and the log may be the same."""

    def __init__(self, *, was_away: bool) -> None:
        self.was_away = was_away


@dataclass(frozen=True, slots=True)
class Place:
    """Up to where a device has applied the log, and up to where it has read it again; None if it is in step."""

    confirmed: int | None = None
    reread: int | None = None
    seen_at: datetime | None = None


@dataclass
class LogModel:
    """The log of one account."""

    clock: Callable[[], datetime]
    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    changes: list[PulledChange] = field(default_factory=list)
    head: int = 0
    dropped_until: int = 0
    last_at: datetime | None = None
    pushes: dict[tuple[str, str], tuple[int, datetime]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def push(self, device_id: str, push_id: str, entries: Sequence[ChangeEntry]) -> list[Order]:
        """Store a batch, unless it is a repetition; return the orders that a client computes from the answer."""
        place = self.places.get(device_id, Place())
        if place.reread is not None:
            raise MustReadAgain(was_away=True)
        self.places[device_id] = replace(place, seen_at=self.clock())
        known = self.pushes.get((device_id, push_id))
        if known is None or known[1] < self.clock() - PUSH_IDS:
            last = self.last_at or datetime.min.replace(tzinfo=self.clock().tzinfo)
            received_at = self.last_at = max(self.clock(), last + MICROSECOND)
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

    def pull(
        self, device_id: str, position: Position, confirmed: int, limit: int, *, latest: bool
    ) -> tuple[list[PulledChange], Position]:
        """Return a page, of winners only with `latest`, and keep the device's place."""
        place, cursor = self.places.get(device_id, Place()), position.cursor
        if place.reread is not None and cursor > place.reread:
            raise MustReadAgain(was_away=True)
        if position.epoch not in (None, self.epoch) or max(cursor, confirmed) > self.head:
            raise MustReadAgain(was_away=False)
        applied = confirmed if place.reread is None else cursor
        if (place.confirmed is None or applied < place.confirmed) and 0 < applied < self.dropped_until:
            self.places[device_id] = replace(place, reread=0)
            raise MustReadAgain(was_away=True)
        winners = {change.seq for change in self.winners().values()}
        behind = [change for change in self.changes if change.seq > cursor and (not latest or change.seq in winners)]
        end = Position(self.epoch, self.head, is_complete=True)
        if len(behind) > limit:
            behind = behind[:limit]
            end = Position(self.epoch, behind[-1].seq)
        reread = None if place.reread is None or end.is_complete else end.cursor
        self.places[device_id] = Place(
            confirmed if place.reread is None else min(confirmed, cursor), reread, self.clock()
        )
        return behind, end

    def is_reading_again(self, device_id: str) -> bool:
        """Return whether a device reads the log again, or has not told yet that it has applied all of it."""
        place = self.places.get(device_id, Place())
        return place.reread != 0 and place.confirmed is not None and place.confirmed < self.dropped_until

    def compact(self) -> None:
        """Drop every change that another one of the same row beats, retire silent devices, drop old deletions."""
        self.changes = sorted(self.winners().values(), key=lambda each: each.seq)
        old = self.clock() - KEEP
        for device_id, place in self.places.items():
            if place.confirmed is not None and place.seen_at is not None and place.seen_at < old:
                self.places[device_id] = replace(place, reread=0)
        kept = [each.confirmed for each in self.places.values() if each.confirmed is not None and each.reread != 0]
        until = min(kept, default=self.head)
        gone = {
            each.seq for each in self.changes if each.op == "DELETE" and each.received_at < old and each.seq <= until
        }
        self.changes = [each for each in self.changes if each.seq not in gone]
        self.dropped_until = max([self.dropped_until, *gone])

    def winners(self) -> dict[tuple[str, str], PulledChange]:
        """Return the winner of each row by the one order."""
        return {(change.table, change.row_id): change for change in sorted(self.changes, key=lambda each: each.order)}

    def backup(self) -> "LogModel":
        """Return a copy."""
        return replace(self, changes=list(self.changes), pushes=dict(self.pushes), places=dict(self.places))

    def restore(self, backup: "LogModel") -> None:
        """Go back to a copy, under a new epoch."""
        again = backup.backup()
        self.changes, self.head, self.pushes = again.changes, again.head, again.pushes
        self.dropped_until, self.places = again.dropped_until, {}
        for device_id, place in again.places.items():
            confirmed, reread = (None if at is None else 0 for at in (place.confirmed, place.reread))
            self.places[device_id] = Place(confirmed, reread, place.seen_at)
        self.epoch = uuid.uuid4().hex
