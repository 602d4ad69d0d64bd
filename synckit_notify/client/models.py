"""The values that the SDK takes and returns: changes, devices, positions, filters and results.

No network, no clock, no state. A value that no server accepts is a ValueError when it is constructed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, overload

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
MAX_TABLE_CHARACTERS, MAX_ROW_ID_CHARACTERS, MAX_TABLES = 128, 256, 100


class Account(NamedTuple):
    """The user who is logged in, and the app; it unpacks into `user_id, app_id`."""

    user_id: str
    app_id: str


class EncryptionSetup(NamedTuple):
    """What `setup_encryption` did: `created` if it made the account's master key, else it opened the existing one."""

    created: bool


@dataclass(frozen=True, slots=True)
class ChangeEntry:
    """One change to push.

    `table` has 1 to 128 characters, `row_id` 1 to 256. `op` is "INSERT", "UPDATE" or "DELETE". `timestamp` is a
    datetime with a time zone. `data` is any JSON value; for a DELETE it must be None. Raises ValueError for a value
    that no server accepts.

    A device is not given its own changes when it pulls. To end with the same rows on every device, an app must let the
    later `timestamp` win, in whatever order the changes arrive.
    """

    table: str
    op: str
    row_id: str
    timestamp: datetime
    data: Any = None

    def __post_init__(self) -> None:
        _check_name("table", self.table, MAX_TABLE_CHARACTERS)
        _check_name("row_id", self.row_id, MAX_ROW_ID_CHARACTERS)
        _check_aware("timestamp", self.timestamp)
        if self.op not in OPERATIONS:
            raise ValueError(f"op must be one of {', '.join(OPERATIONS)}")
        if self.op == "DELETE" and self.data is not None:
            raise ValueError("data must be None for a DELETE")


class Order(NamedTuple):
    """The place of a change in the one order of an account; of two changes of a row, the one with the greater wins.

    `order_at` is the time of the change, but not later than the moment at which the server received it.
    """

    order_at: datetime
    device_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class PulledChange:
    """One change of the server's log, decrypted.

    `seq` is its position in the log. `timestamp` is by the clock of the device that made the change, `received_at` by
    the server's clock, `order_at` the earlier of the two; all have a time zone.
    """

    table: str
    op: str
    row_id: str
    timestamp: datetime
    data: Any
    seq: int
    device_id: str
    received_at: datetime
    order_at: datetime

    @property
    def order(self) -> Order:
        """The place of this change in the one order."""
        return Order(self.order_at, self.device_id, self.seq)


@dataclass(frozen=True, slots=True)
class UnreadableChange:
    """A change that a pull left out because it cannot be read.

    `reason` is a sentence for a person. `table` and `row_id` are empty strings if the change has none.
    """

    seq: int
    table: str
    row_id: str
    device_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RefusedChange:
    """A local change that was set aside because it cannot be sent, or because the server refuses it.

    `reason` is a sentence for a person.
    """

    table: str
    row_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device; `platform` is one of macos, windows, linux, ios, android and web.

    `last_seen_at` is when it last pushed or pulled, by the server's clock; None if the server does not tell.
    """

    id: str
    name: str
    platform: str
    created_at: datetime
    last_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the server's log: the number of changes, the last `seq`, and the log's identifier."""

    change_count: int
    cursor: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has read: `cursor` is the last `seq` read, `epoch` identifies the log that it counts in.

    A server that is restored from a backup starts a log with a new epoch. None is the log of the first answer.
    `is_complete` tells whether the log had nothing more after this position when it was read; it is not compared.
    """

    epoch: str | None = None
    cursor: int = 0
    is_complete: bool = field(default=False, compare=False)


BEGINNING = Position()


@dataclass(frozen=True, slots=True)
class PullFilter:
    """Which changes `pull_filtered` returns.

    Immutable: each method returns a new filter. Without a table, changes of all tables match. The methods raise
    ValueError for an argument that no server accepts.
    """

    _tables: tuple[str, ...] = ()
    _since: datetime | None = None
    _until: datetime | None = None
    position: Position = BEGINNING

    def table(self, name: str) -> "PullFilter":
        """Return a filter that also matches this table; at most 100 tables."""
        _check_name("table", name, MAX_TABLE_CHARACTERS)
        tables = (*self._tables, *(() if name in self._tables else (name,)))
        if len(tables) > MAX_TABLES:
            raise ValueError(f"a filter must name at most {MAX_TABLES} tables")
        return replace(self, _tables=tables)

    def since(self, moment: datetime | None) -> "PullFilter":
        """Return a filter for changes that the server received at this moment or later; None removes this limit."""
        return self._within(moment, self._until)

    def until(self, moment: datetime | None) -> "PullFilter":
        """Return a filter for changes that the server received before this moment; None removes this limit."""
        return self._within(self._since, moment)

    def after(self, position: Position) -> "PullFilter":
        """Return a filter for changes after this position, such as the `position` of an earlier result."""
        return replace(self, position=position)

    def body(self) -> dict[str, Any]:
        """Return the fields of the pull request, without the position."""
        moments = {"since": self._since, "until": self._until}
        fields = {name: to_text(moment) for name, moment in moments.items() if moment is not None}
        return fields | ({"tables": list(self._tables)} if self._tables else {})

    def _within(self, since: datetime | None, until: datetime | None) -> "PullFilter":
        for name, moment in ("since", since), ("until", until):
            if moment is not None:
                _check_aware(name, moment)
        if since is not None and until is not None and since >= until:
            raise ValueError("since must be before until")
        return replace(self, _since=since, _until=until)


class PulledChanges(Sequence[PulledChange]):
    """A sequence of changes in the server's order."""

    position: Position
    """Where the changes end."""

    restarted: bool
    """Whether the changes start at the beginning of the log again: the server's log was replaced, for example by a
    restore from a backup, or this device was away for too long."""

    unreadable: int
    """The number of changes that were left out because they cannot be read."""

    locked: int
    """The number of changes that were left out because they need a key that this process does not have."""

    def __init__(
        self, changes: list[PulledChange], position: Position, restarted: bool, *, unreadable: int = 0, locked: int = 0
    ) -> None:
        self._changes, self.position, self.restarted = changes, position, restarted
        self.unreadable, self.locked = unreadable, locked

    def __len__(self) -> int:
        return len(self._changes)

    @overload
    def __getitem__(self, index: int) -> PulledChange: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PulledChange]: ...
    def __getitem__(self, index: int | slice) -> PulledChange | Sequence[PulledChange]:
        return self._changes[index]


class PullResult(PulledChanges):
    """The changes that `pull` returns; the next `pull` returns them again unless `confirm()` was called."""

    def __init__(
        self,
        changes: list[PulledChange],
        position: Position,
        restarted: bool,
        confirm: Callable[[], None],
        *,
        unreadable: int = 0,
        locked: int = 0,
    ) -> None:
        super().__init__(changes, position, restarted, unreadable=unreadable, locked=locked)
        self._confirm = confirm

    def confirm(self) -> None:
        """Mark these changes as applied, so that no later `pull` returns them; may be called more than once."""
        self._confirm()


def to_text(moment: datetime) -> str:
    """Return RFC 3339 in UTC with six digits, so that the strings sort in the order of time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _check_name(field: str, value: str, max_characters: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= max_characters:
        raise ValueError(f"{field} must be a string of 1 to {max_characters} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{field} must not contain NUL or a lone surrogate")


def _check_aware(field: str, value: datetime) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError(f"{field} must be a datetime with a time zone")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{field} must be within the years 1 to 9999 in UTC") from None
