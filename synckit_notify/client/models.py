"""What the SDK takes and gives, as values: changes to push and changes pulled, devices, positions, filters, results.

Anybody may make and keep them. No network, no clock, no state; what the server may not be sent is a ValueError here, at
the line that wrote it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, overload

OPERATIONS = ("INSERT", "UPDATE", "DELETE")
MAX_TABLE_CHARACTERS, MAX_ROW_ID_CHARACTERS, MAX_TABLES = 128, 256, 100


class Account(NamedTuple):
    """Whose changes they are; unpacks as upstream's `authenticate` answers."""

    user_id: str
    app_id: str


@dataclass(frozen=True, slots=True)
class ChangeEntry:
    """One change to push; `data` is any JSON value, None for a DELETE. Raises ValueError for what no server takes.

    Every device sees all changes in the server's order, but not its own: to end up with the same rows, an app lets the
    later `timestamp` win, whichever change it sees first.
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
            raise ValueError(f"op: one of {', '.join(OPERATIONS)}")
        if self.op == "DELETE" and self.data is not None:
            raise ValueError("data: a DELETE has none")


@dataclass(frozen=True, slots=True)
class PulledChange:
    """One change of the log; `received_at` is the server's clock, `timestamp` that of the device that made it."""

    table: str
    op: str
    row_id: str
    timestamp: datetime
    data: Any
    seq: int
    device_id: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class UnreadableChange:
    """A change that a pull left out because it cannot be read; `table` and `row_id` are empty where it has none."""

    seq: int
    table: str
    row_id: str
    device_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device."""

    id: str
    name: str
    platform: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Status:
    """How far the server's log has come."""

    change_count: int
    cursor: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader has come; `epoch` names the life of the log that `cursor` counts in."""

    epoch: str | None = None
    cursor: int = 0


BEGINNING = Position()


@dataclass(frozen=True, slots=True)
class PullFilter:
    """What `pull_filtered` asks for; immutable, each call returns another one. Raises ValueError."""

    _tables: tuple[str, ...] = ()
    _since: datetime | None = None
    _until: datetime | None = None
    position: Position = BEGINNING

    def table(self, name: str) -> "PullFilter":
        """Ask for this table, and for those named before."""
        _check_name("table", name, MAX_TABLE_CHARACTERS)
        tables = (*self._tables, *(() if name in self._tables else (name,)))
        if len(tables) > MAX_TABLES:
            raise ValueError(f"table: at most {MAX_TABLES}")
        return replace(self, _tables=tables)

    def since(self, moment: datetime | None) -> "PullFilter":
        """Ask for what the server received at this moment or later; None, as before the first pull, is always."""
        return self._within(moment, self._until)

    def until(self, moment: datetime | None) -> "PullFilter":
        """Ask for what the server received before this moment."""
        return self._within(self._since, moment)

    def after(self, position: Position) -> "PullFilter":
        """Go on where another result ended."""
        return replace(self, position=position)

    def body(self) -> dict[str, Any]:
        """Return the fields of the request, without the position."""
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
    """Changes in the server's order; `position` is where they end, `restarted` says that the log was replaced.

    `unreadable` and `locked` count what was left out: what cannot be read, and what needs a key that is not here.
    """

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
    """The result of `pull`; until `confirm()` is called, the same changes come again."""

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
        """Never give these changes again; what other results hold is not touched. Any number of times."""
        self._confirm()


def to_text(moment: datetime) -> str:
    """Return RFC 3339 in UTC with six digits, so that texts sort as moments do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _check_name(field: str, value: str, longest: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise ValueError(f"{field}: a text of 1 to {longest} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{field}: NUL and lone surrogates are not allowed")


def _check_aware(field: str, value: datetime) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError(f"{field}: a datetime with a time zone")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{field}: must be within the years 1 to 9999 in UTC") from None
