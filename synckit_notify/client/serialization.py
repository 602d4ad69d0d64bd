"""The form of changes on the wire, and what may be believed of an answer.

    ChangeEntry ── seal ──▶ wire texts, in batches that a server takes     answer ──▶ Page ── open ──▶ PulledChange

How `data` is sealed and opened comes in as a `Codec`. Pure; for the client and the session. What an app may not push is
a ValueError, what a server may not answer a ProtocolError; both name the place and never repeat the data. What another
device wrote is neither: a change that cannot be read is sorted out, so that no change can stop a device.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeVar

from . import json_text
from .encryption import EntryContext, Locked, Unreadable, ciphertext_of, decoded
from .errors import ProtocolError
from .models import OPERATIONS, Account, ChangeEntry, Device, Position, PulledChange, Status, UnreadableChange, to_text
from .state import LeftOut, Tokens

MAX_CHANGES, MAX_DATA_BYTES = 500, 256 * 1024
MAX_BATCH_BYTES = 6 * 2**20
"""Bytes; the server takes 8 MiB, and some proxies count more than the body."""

MAX_INTEGER = 2**63 - 1
"""What SQLite can store."""

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?)([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""The timestamps that the server takes: no leap seconds, at most nanoseconds."""

T = TypeVar("T")


class Codec(Protocol):
    """How `data` becomes text and data again; a `Cipher`, or `ClearText`."""

    @property
    def key_ids(self) -> frozenset[str]: ...
    def seal(self, context: EntryContext, data: Any) -> str | None: ...
    def open(self, context: EntryContext, text: str | None) -> Any: ...


class ClearText:
    """`data` as JSON text that the server can read, for a client made with `encrypt=False`."""

    key_ids: frozenset[str] = frozenset()

    def seal(self, context: EntryContext, data: Any) -> str | None:
        """Return JSON text, nothing for a DELETE."""
        return None if context.op == "DELETE" else json_text.encode(data)

    def open(self, context: EntryContext, text: str | None) -> Any:
        """Return the JSON value; raises Locked for ciphertext, Unreadable for anything else that is not JSON."""
        if text is None:
            return None
        if ciphertext_of(text) is not None:
            raise Locked("it is encrypted, and this client was made with encrypt=False")
        return decoded(text)


@dataclass
class Opened:
    """The changes of one or more pages, sorted: for the app, unreadable, and the numbers of those that are locked."""

    changes: list[PulledChange] = field(default_factory=list)
    unreadable: list[UnreadableChange] = field(default_factory=list)
    locked: list[int] = field(default_factory=list)
    key_ids: frozenset[str] | None = None

    def extend(self, other: "Opened") -> None:
        """Add those of the next page."""
        self.changes += other.changes
        self.unreadable += other.unreadable
        self.locked += other.locked
        if self.key_ids is None or other.key_ids is None:
            self.key_ids = self.key_ids or other.key_ids
        else:  # another key came meanwhile: what was locked before may open with it
            self.key_ids &= other.key_ids

    def left_out(self) -> LeftOut:
        """Return what the state must remember of these changes."""
        unreadable = min((change.seq for change in self.unreadable), default=None)
        return LeftOut(unreadable, min(self.locked, default=None), self.key_ids or frozenset())


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a pull, its changes still sealed; `restarted` if the log is read anew from its beginning."""

    start: Position
    end: Position
    changes: list[Mapping[str, Any]]
    has_more: bool
    server_time: datetime
    restarted: bool

    @classmethod
    def read(cls, answer: Mapping[str, Any], start: Position, restarted: bool, *, filtered: bool) -> Self:
        """Read the answer to a pull; raises ProtocolError, also where going on would never end."""
        end = Position(member(answer, "epoch", str), member(answer, "cursor", int))
        has_more, changes = member(answer, "has_more", bool), member(answer, "changes", list)
        if end.cursor < start.cursor or (has_more and end.cursor == start.cursor):
            raise ProtocolError("the server's cursor does not move on")
        if has_more and not changes and not filtered:
            raise ProtocolError("the server says that there are more changes, and sends none")
        return cls(start, end, changes, has_more, moment(answer, "server_time"), restarted)

    def opened(self, keys: "Keys", account: Account, own: str) -> Opened:
        """Return what is not the device's own echo, sorted; one that starts anew is given that too.

        Raises ProtocolError for what the server itself wrote, and NoMasterKey unless nothing has to be opened.
        """
        found, seq = Opened(), self.start.cursor
        for change in self.changes:
            seq, before = member(change, "seq", int), seq
            if not before < seq <= self.end.cursor:
                raise ProtocolError("the server's changes are not in order")
            device_id, received_at = member(change, "device_id", str), moment(change, "received_at")
            if (device_id == own and not self.restarted) or _is_blank(change):
                continue
            codec = keys.codec()
            found.key_ids = codec.key_ids
            try:
                found.changes.append(_opened(change, codec, account, seq, device_id, received_at))
            except Locked:
                found.locked.append(seq)
            except Unreadable as error:
                names = (_text(change, "table") or "", _text(change, "row_id") or "")
                found.unreadable.append(UnreadableChange(seq, *names, device_id, str(error)))
        return found


class Keys(Protocol):
    """What opens changes in this process; an `Encryption`, or `NoEncryption`."""

    def codec(self) -> Codec: ...


def batches(entries: Iterable[ChangeEntry], codec: Codec, account: Account) -> Iterator[list[str]]:
    """Yield wire texts, as many as one push may hold; raises ValueError naming the entry that no server takes."""
    batch: list[str] = []
    size = 0
    for index, entry in enumerate(entries):
        text = _sealed(index, entry, codec, account)
        if batch and (len(batch) == MAX_CHANGES or size + len(text) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text) + 1
    if batch:
        yield batch


def digest(entries: Iterable[ChangeEntry]) -> str:
    """Return what tells whether two pushes are the same; for entries that could be sealed."""
    plain = [(entry.table, entry.op, entry.row_id, to_text(entry.timestamp), entry.data) for entry in entries]
    texts = json.loads(json.dumps(plain))  # keys that are numbers are texts on the wire, and texts can be sorted
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def read_tokens(answer: Mapping[str, Any], name: str, now: float, refresh_token: str | None = None) -> Tokens:
    """Read tokens; an answer without a refresh token leaves the one there is (RFC 6749, section 6)."""
    life = answer.get("expires_in")
    if life is not None and (type(life) not in (int, float) or not 0 < life < 1e10):
        raise ProtocolError("the server's expires_in is no time")
    refresh = refresh_token if answer.get("refresh_token") is None else _token(answer, "refresh_token")
    return Tokens(_token(answer, name), refresh, None if life is None else float(life), now)


def member(answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a member of a server's JSON object; raises ProtocolError unless it is there and of this very type."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if type(value) is not kind:
        raise ProtocolError(f"the server's answer has no {name} of the kind it must have")
    if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
        raise ProtocolError(f"the server's answer has a {name} out of bounds")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ProtocolError(f"the server's answer has a {name} that is no Unicode")
    return value


def moment(answer: Mapping[str, Any], name: str) -> datetime:
    """Return a member that is a timestamp; raises ProtocolError."""
    found = parse_timestamp(member(answer, name, str))
    if found is None:
        raise ProtocolError(f"the server's answer has a {name} that is not an RFC 3339 time with a time zone")
    return found


def parse_timestamp(text: str) -> datetime | None:
    """Return the time that RFC 3339 text names, None for any other text and outside of the years 1 to 9999 in UTC.

    Of a fraction the first six digits count, as `datetime` has no more.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, time, zone = match.groups()
    try:
        found = datetime.fromisoformat(f"{day}T{time}{zone.upper()}")
        found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found


def read_device(answer: Mapping[str, Any], platform: str) -> Device:
    """Return the device that the server registered; raises ProtocolError."""
    created_at = moment(answer, "created_at")
    return Device(member(answer, "id", str), member(answer, "device_name", str), platform, created_at)


def read_status(answer: Mapping[str, Any]) -> Status:
    """Return how far the server's log has come; raises ProtocolError."""
    return Status(member(answer, "change_count", int), member(answer, "cursor", int), member(answer, "epoch", str))


def _sealed(index: int, entry: ChangeEntry, codec: Codec, account: Account) -> str:
    timestamp = to_text(entry.timestamp)
    fields = {"table": entry.table, "op": entry.op, "row_id": entry.row_id, "timestamp": timestamp}
    try:
        data = codec.seal(EntryContext(account.app_id, account.user_id, **fields), entry.data)
        size = len((data or "").encode())
    except json_text.NestedTooDeeply as error:
        raise ValueError(f"changes[{index}].data: {error}") from None
    except (ValueError, TypeError):
        raise ValueError(f"changes[{index}].data: is no JSON value") from None
    if size > MAX_DATA_BYTES:
        raise ValueError(f"changes[{index}].data: is larger than {MAX_DATA_BYTES} bytes when sealed")
    return json.dumps(fields | {"data": data})


def _is_blank(change: Mapping[str, Any]) -> bool:
    """Return whether an operator took the data out of a change, whose place in the log must stay."""
    return change.get("data") is None and change.get("op") in ("INSERT", "UPDATE")


def _opened(
    change: Mapping[str, Any], codec: Codec, account: Account, seq: int, device_id: str, received_at: datetime
) -> PulledChange:
    """Open what another device wrote; raises Unreadable, and Locked."""
    fields = {name: _text(change, name) for name in ("table", "op", "row_id", "timestamp")}
    texts = {name: text for name, text in fields.items() if text is not None}
    if missing := [name for name in fields if name not in texts]:
        raise Unreadable(f"its {missing[0]} is missing or not a string")
    if texts["op"] not in OPERATIONS:
        raise Unreadable("its op is unknown")
    timestamp = parse_timestamp(texts["timestamp"])
    if timestamp is None:
        raise Unreadable("its timestamp is not an RFC 3339 time with a time zone, or outside of the years 1 to 9999")
    data = change.get("data")
    if not isinstance(data, str | None):
        raise Unreadable("its data is not a string")
    return PulledChange(
        table=texts["table"],
        op=texts["op"],
        row_id=texts["row_id"],
        timestamp=timestamp,
        data=codec.open(EntryContext(account.app_id, account.user_id, **texts), data),
        seq=seq,
        device_id=device_id,
        received_at=received_at,
    )


def _text(change: Mapping[str, Any], name: str) -> str | None:
    """Return a member that is Unicode text, None for anything else."""
    try:
        return member(change, name, str)
    except ProtocolError:
        return None


def _token(answer: Mapping[str, Any], name: str) -> str:
    """Return a token that can stand in a header; the error of one that cannot would quote it."""
    token = member(answer, name, str)
    if not token or not all("!" <= character <= "~" for character in token):
        raise ProtocolError(f"the server's {name} is no token")
    return token
