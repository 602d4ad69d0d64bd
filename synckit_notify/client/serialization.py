"""Changes to and from the JSON of the protocol, and checks of a server's answers.

    ChangeEntry ── seal ──▶ JSON texts, in batches of bounded size     answer ──▶ Page ── open ──▶ PulledChange

A `Codec` encrypts ("seals") and decrypts ("opens") `data`. Pure functions, for the client and the session. A change
that must not be pushed is a ValueError, an answer that a server must not send is a ProtocolError; both name the place
and never repeat the data. A change of another device that cannot be read raises nothing: it is left out and counted,
so that no change can stop a device.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self, TypeVar

from . import json_text
from .encryption import EntryContext, Locked, Unreadable, ciphertext_of, decode_data
from .errors import ProtocolError
from .models import OPERATIONS, Account, ChangeEntry, Device, Position, PulledChange, Status, UnreadableChange, to_text
from .state import LeftOut, Tokens

MAX_CHANGES, MAX_DATA_BYTES = 500, 256 * 1024
MAX_BATCH_BYTES = 6 * 2**20
"""The server accepts 8 MiB; some proxies count more than the body."""

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite can store."""

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?)([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""The timestamps that the server accepts: no leap seconds, at most nanoseconds."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_LESS_THAN_MICROSECONDS = re.compile(r"\.\d{6}0*[1-9]", re.ASCII)

JSON_TYPES: dict[type, str] = {str: "string", int: "integer", bool: "boolean", list: "array"}

T = TypeVar("T")


class Codec(Protocol):
    """Converts `data` to text and back: a `Cipher`, or `ClearText`."""

    @property
    def key_ids(self) -> frozenset[str]: ...
    def seal(self, context: EntryContext, data: Any) -> str | None: ...
    def open(self, context: EntryContext, text: str | None) -> Any: ...


class ClearText:
    """Converts `data` to JSON text that the server can read, for a client made with `encrypt=False`."""

    key_ids: frozenset[str] = frozenset()

    def seal(self, context: EntryContext, data: Any) -> str | None:
        """Return JSON text, or None for a DELETE."""
        return None if context.op == "DELETE" else json_text.encode(data)

    def open(self, context: EntryContext, text: str | None) -> Any:
        """Return the JSON value; raises Locked for ciphertext, Unreadable for other text that is not JSON."""
        if text is None:
            return None
        if ciphertext_of(text) is not None:
            raise Locked("it is encrypted, and this client was made with encrypt=False")
        return decode_data(text)


@dataclass
class Opened:
    """The changes of one or more pages: those for the app, those that are unreadable, and the `seq` of locked ones.

    `rows_left_out` are the table and row id of all changes that are not for the app.
    """

    changes: list[PulledChange] = field(default_factory=list)
    unreadable: list[UnreadableChange] = field(default_factory=list)
    locked: list[int] = field(default_factory=list)
    rows_left_out: list[tuple[str, str]] = field(default_factory=list)
    key_ids: frozenset[str] | None = None

    def extend(self, other: "Opened") -> None:
        """Add the changes of the next page."""
        self.changes += other.changes
        self.unreadable += other.unreadable
        self.locked += other.locked
        self.rows_left_out += other.rows_left_out
        if self.key_ids is None or other.key_ids is None:
            self.key_ids = self.key_ids or other.key_ids
        else:  # a key was added in between, and a change that was locked before may open with it
            self.key_ids &= other.key_ids

    def left_out(self) -> LeftOut:
        """Return what the state must remember about the changes that were left out."""
        unreadable = min((change.seq for change in self.unreadable), default=None)
        return LeftOut(unreadable, min(self.locked, default=None), self.key_ids or frozenset())


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a pull, with changes still encrypted; `restarted` if the log is read again from its start."""

    start: Position
    end: Position
    changes: list[Mapping[str, Any]]
    has_more: bool
    server_time: datetime
    restarted: bool

    @classmethod
    def read(cls, answer: Mapping[str, Any], start: Position, restarted: bool, *, filtered: bool) -> Self:
        """Read the answer to a pull; raises ProtocolError, also if the pull would never end."""
        has_more, changes = member(answer, "has_more", bool), member(answer, "changes", list)
        end = Position(member(answer, "epoch", str), member(answer, "cursor", int), is_complete=not has_more)
        if end.cursor < start.cursor or (has_more and end.cursor == start.cursor):
            raise ProtocolError("the server's cursor does not advance")
        if has_more and not changes and not filtered:
            raise ProtocolError("the server announces more changes but sends none")
        return cls(start, end, changes, has_more, moment(answer, "server_time"), restarted)

    def open(self, keys: "Keys", account: Account, own: str) -> Opened:
        """Return the decrypted changes of other devices; after a restart this device's own are included.

        Raises ProtocolError for fields that the server itself writes, and NoMasterKey if a change must be decrypted.
        """
        found, seq = Opened(), self.start.cursor
        for change in self.changes:
            seq, before = member(change, "seq", int), seq
            if not before < seq <= self.end.cursor:
                raise ProtocolError("the server's changes are not in order")
            device_id, received_at = member(change, "device_id", str), moment(change, "received_at")
            if device_id == own and not self.restarted:
                continue
            names = (_text(change, "table") or "", _text(change, "row_id") or "")
            if _is_blank(change):
                found.rows_left_out.append(names)
                continue
            codec = keys.codec()
            found.key_ids = codec.key_ids
            try:
                found.changes.append(_open_change(change, codec, account, seq, device_id, received_at))
            except Locked:
                found.locked.append(seq)
                found.rows_left_out.append(names)
            except Unreadable as error:
                found.rows_left_out.append(names)
                found.unreadable.append(UnreadableChange(seq, *names, device_id, str(error)))
        return found


class Keys(Protocol):
    """The keys of this process: an `Encryption`, or `NoEncryption`."""

    def codec(self) -> Codec: ...


def batches(entries: Iterable[ChangeEntry], codec: Codec, account: Account) -> Iterator[list[str]]:
    """Yield lists of JSON texts, each small enough for one push; raises ValueError naming an invalid entry."""
    batch: list[str] = []
    size = 0
    for index, entry in enumerate(entries):
        try:
            text = seal(entry, codec, account)
        except ValueError as error:
            raise ValueError(f"changes[{index}].{error}") from None
        if batch and (len(batch) == MAX_CHANGES or size + len(text) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text) + 1
    if batch:
        yield batch


def seal(entry: ChangeEntry, codec: Codec, account: Account) -> str:
    """Return the JSON text of a change; raises ValueError, which begins with `data`, for one that cannot be sent."""
    timestamp = to_text(entry.timestamp)
    fields = {"table": entry.table, "op": entry.op, "row_id": entry.row_id, "timestamp": timestamp}
    try:
        data = codec.seal(EntryContext(account.app_id, account.user_id, **fields), entry.data)
        size = len((data or "").encode())
    except json_text.NestedTooDeeply as error:
        raise ValueError(f"data {error}") from None
    except (ValueError, TypeError):
        raise ValueError("data must be a JSON value") from None
    if size > MAX_DATA_BYTES:
        raise ValueError(f"data must be at most {MAX_DATA_BYTES} bytes long as it is sent")
    return json.dumps(fields | {"data": data})


def digest(entries: Iterable[ChangeEntry]) -> str:
    """Return a hash by which two equal pushes are recognised; the entries must be valid."""
    plain = [(entry.table, entry.op, entry.row_id, to_text(entry.timestamp), entry.data) for entry in entries]
    texts = json.loads(json.dumps(plain))  # turns keys that are numbers into strings, which can be sorted
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def read_tokens(answer: Mapping[str, Any], name: str, now: float, refresh_token: str | None = None) -> Tokens:
    """Read tokens; an answer without a refresh token keeps the current one (RFC 6749, section 6)."""
    life = answer.get("expires_in")
    if life is not None and (type(life) not in (int, float) or not 0 < life < 1e10):
        raise ProtocolError("the server's expires_in must be a positive number of seconds")
    refresh = refresh_token if answer.get("refresh_token") is None else _token(answer, "refresh_token")
    return Tokens(_token(answer, name), refresh, None if life is None else float(life), now)


def is_token(value: object) -> bool:
    """Return whether a value can be sent as a bearer token: a string of visible ASCII characters, not empty."""
    return isinstance(value, str) and bool(value) and all("!" <= character <= "~" for character in value)


def member(answer: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a member of a server's JSON object; raises ProtocolError unless it is of exactly this type."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if type(value) is not kind:
        raise ProtocolError(f"the server's answer must have a member {name} of type {JSON_TYPES[kind]}")
    if isinstance(value, int) and not 0 <= value <= MAX_INTEGER:
        raise ProtocolError(f"{name} in the server's answer must be from 0 to {MAX_INTEGER}")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ProtocolError(f"{name} in the server's answer must not contain a lone surrogate")
    return value


def moment(answer: Mapping[str, Any], name: str) -> datetime:
    """Return a member that is a timestamp; raises ProtocolError."""
    found = parse_timestamp(member(answer, name, str))
    if found is None:
        raise ProtocolError(f"{name} in the server's answer must be an RFC 3339 time with a time zone")
    return found


def parse_timestamp(text: str) -> datetime | None:
    """Return the time of RFC 3339 text, or None for any other text and for years outside 1 to 9999 in UTC.

    Only the first six digits of a fraction are used, because `datetime` has no more.
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


def read_devices(answer: Mapping[str, Any]) -> tuple[list[Device], bool]:
    """Return one page of the account's devices, and whether there are more; raises ProtocolError."""
    found = []
    for each in member(answer, "devices", list):
        device = read_device(each, member(each, "platform", str))
        seen = moment(each, "last_seen_at") if each.get("last_seen_at") is not None else None
        found.append(replace(device, last_seen_at=seen))
    return found, bool(found) and answer.get("has_more") is True


def read_status(answer: Mapping[str, Any]) -> Status:
    """Return the state of the server's log; raises ProtocolError."""
    return Status(member(answer, "change_count", int), member(answer, "cursor", int), member(answer, "epoch", str))


def _is_blank(change: Mapping[str, Any]) -> bool:
    """Return whether an operator removed the data of a change; its position in the log stays."""
    return change.get("data") is None and change.get("op") in ("INSERT", "UPDATE")


def _open_change(
    change: Mapping[str, Any], codec: Codec, account: Account, seq: int, device_id: str, received_at: datetime
) -> PulledChange:
    """Return a decrypted change of another device; raises Unreadable, and its subclass Locked."""
    fields = {name: _text(change, name) for name in ("table", "op", "row_id", "timestamp")}
    texts = {name: text for name, text in fields.items() if text is not None}
    if missing := [name for name in fields if name not in texts]:
        raise Unreadable(f"its {missing[0]} is missing or not a string")
    if texts["op"] not in OPERATIONS:
        raise Unreadable("its op is unknown")
    timestamp = parse_timestamp(texts["timestamp"])
    if timestamp is None:
        raise Unreadable("its timestamp is not an RFC 3339 time with a time zone within the years 1 to 9999")
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
        order_at=_order_at(change, texts["timestamp"], timestamp, received_at),
    )


def _order_at(change: Mapping[str, Any], text: str, timestamp: datetime, received_at: datetime) -> datetime:
    """Return the server's `order_at`; without one the earlier time, with a fraction of a microsecond rounded up."""
    if "order_at" in change:
        return moment(change, "order_at")
    if timestamp >= received_at:
        return received_at
    return timestamp + timedelta(microseconds=bool(_LESS_THAN_MICROSECONDS.search(text)))


def _text(change: Mapping[str, Any], name: str) -> str | None:
    """Return a member that is a string of Unicode text, or None for anything else."""
    try:
        return member(change, name, str)
    except ProtocolError:
        return None


def _token(answer: Mapping[str, Any], name: str) -> str:
    """Return a token that is valid in a header; httpx2 would quote an invalid one in its error."""
    token = member(answer, name, str)
    if not is_token(token):
        raise ProtocolError(f"the server's {name} must be a string of visible ASCII characters")
    return token
