"""The form of changes on the wire, and what may be believed of an answer.

    ChangeEntry ── seal ──▶ wire texts, in batches that a server takes     answer ──▶ Page ── open ──▶ PulledChange

How `data` is sealed and opened comes in as a `Codec`. Pure; for the client and the session. What an app may not push is
a ValueError, what a server may not answer a ProtocolError; both name the place and never repeat the data.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, Self, TypeVar

from .changes import OPERATIONS, Account, ChangeEntry, Device, Position, PulledChange, Status, to_text
from .encryption import EntryContext
from .errors import NoMasterKey, ProtocolError
from .state import Tokens

MOST_CHANGES, LARGEST_DATA = 500, 256 * 1024
LARGEST_BATCH = 6 * 2**20
"""Bytes; the server takes 8 MiB, and some proxies count more than the body."""

LARGEST_INTEGER = 2**63 - 1
"""What SQLite can store."""

T = TypeVar("T")


class Codec(Protocol):
    """How `data` becomes text and data again; a `Cipher`, or `ClearText`."""

    def seal(self, context: EntryContext, data: Any) -> str | None: ...
    def open(self, context: EntryContext, text: str | None) -> Any: ...


class ClearText:
    """`data` as JSON text that the server can read, for a client made with `encrypt=False`."""

    def seal(self, context: EntryContext, data: Any) -> str | None:
        """Return JSON text, nothing for a DELETE."""
        return None if context.op == "DELETE" else json.dumps(data, ensure_ascii=False, allow_nan=False)

    def open(self, context: EntryContext, text: str | None) -> Any:
        """Return the JSON value; raises NoMasterKey for what is none, and so was encrypted."""
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            raise NoMasterKey("a change is encrypted, and this client was made with encrypt=False") from None


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
    def read(cls, answer: Mapping[str, Any], start: Position, restarted: bool) -> Self:
        """Read the answer to a pull; raises ProtocolError, also where going on would never end."""
        end = Position(member(answer, "epoch", str), member(answer, "cursor", int))
        has_more = member(answer, "has_more", bool)
        if end.cursor < start.cursor or (has_more and end.cursor == start.cursor):
            raise ProtocolError("the server's cursor does not move on")
        changes = member(answer, "changes", list)
        return cls(start, end, changes, has_more, moment(answer, "server_time"), restarted)

    def opened(self, codec: Callable[[], Codec], account: Account, own: str) -> list[PulledChange]:
        """Return what is not the device's own echo; one that starts anew is given that too."""
        seen = [change for change in self.changes if self.restarted or member(change, "device_id", str) != own]
        return [_opened(change, codec(), account) for change in seen]


def batches(entries: Iterable[ChangeEntry], codec: Codec, account: Account) -> Iterator[list[str]]:
    """Yield wire texts, as many as one push may hold; raises ValueError naming the entry that no server takes."""
    batch: list[str] = []
    size = 0
    for index, entry in enumerate(entries):
        text = _sealed(index, entry, codec, account)
        if batch and (len(batch) == MOST_CHANGES or size + len(text) > LARGEST_BATCH):
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
    if isinstance(value, int) and not 0 <= value <= LARGEST_INTEGER:
        raise ProtocolError(f"the server's answer has a {name} out of bounds")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ProtocolError(f"the server's answer has a {name} that is no Unicode")
    return value


def moment(answer: Mapping[str, Any], name: str) -> datetime:
    """Return a member that is RFC 3339, with a zone; raises ProtocolError."""
    text = member(answer, name, str).upper()
    leap = text[17:19] == "60"  # `datetime` knows no leap second; one device that sends it must not stop the others
    try:
        found = datetime.fromisoformat(text[:17] + "59" + text[19:] if leap else text) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise ProtocolError(f"the server's answer has a {name} that is no moment") from None
    if found.utcoffset() is None:
        raise ProtocolError(f"the server's answer has a {name} without a time zone")
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
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"changes[{index}].data: is no JSON value") from None
    if size > LARGEST_DATA:
        raise ValueError(f"changes[{index}].data: is larger than {LARGEST_DATA} bytes when sealed")
    return json.dumps(fields | {"data": data})


def _opened(change: Mapping[str, Any], codec: Codec, account: Account) -> PulledChange:
    names = ("table", "op", "row_id", "timestamp")
    fields = {name: member(change, name, str) for name in names}
    if fields["op"] not in OPERATIONS:
        raise ProtocolError("the server's answer has an op that is unknown")
    text = None if change.get("data") is None else member(change, "data", str)
    return PulledChange(
        table=fields["table"],
        op=fields["op"],
        row_id=fields["row_id"],
        timestamp=moment(change, "timestamp"),
        data=codec.open(EntryContext(account.app_id, account.user_id, **fields), text),
        seq=member(change, "seq", int),
        device_id=member(change, "device_id", str),
        received_at=moment(change, "received_at"),
    )


def _token(answer: Mapping[str, Any], name: str) -> str:
    """Return a token that can stand in a header; the error of one that cannot would quote it."""
    token = member(answer, name, str)
    if not token or not all("!" <= character <= "~" for character in token):
        raise ProtocolError(f"the server's {name} is no token")
    return token
