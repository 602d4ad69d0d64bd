"""Frames of `text/event-stream` (WHATWG HTML, section 9.2): values to bytes, and bytes back to values.

A frame is one block that ends with an empty line. It is built whole and written whole, with LF only. A text that would
break out of its line is refused here, whoever calls.

`Decoder.feed` takes the bytes as they come, cut anywhere, and returns the messages that they complete; an empty list
means nothing yet. A block that the body ends in the middle of is never returned. No clock, no socket, bounded memory.
"""

import codecs
import re
from dataclasses import dataclass

_FORBIDDEN = frozenset("\r\n\0")
_LINE_END = re.compile("\r\n|\r|\n")
_BYTE_ORDER_MARK = "\ufeff"

MAX_CHARACTERS = 64 * 1024
"""A line, or the data of a block, may have this many characters; ours have 20."""

MAX_RETRY_DIGITS = 9
"""Eleven days in milliseconds; Python refuses to convert thousands of digits."""


def comment(text: str) -> bytes:
    """Return a comment block, which every conforming client ignores."""
    return f": {_line(text)}\n\n".encode()


def event(name: str) -> bytes:
    """Return an event without payload.

    The `data:` line is needed: without it, conforming clients dispatch nothing.
    """
    return f"event: {_line(name)}\ndata:\n\n".encode()


def retry(milliseconds: int) -> bytes:
    """Return a block that tells the client how long to wait before it reconnects."""
    return f"retry: {milliseconds:d}\n\n".encode()


def _line(text: str) -> str:
    if _FORBIDDEN.intersection(text):
        raise ValueError("a field of an event stream cannot hold CR, LF or NUL")
    return text


CONNECTED = comment("connected")
CHANGED = event("changed")
KEEPALIVE = comment("keepalive")


@dataclass(frozen=True, slots=True)
class Event:
    """A dispatched event; `id` is the last one that the stream sent, in this block or before."""

    event: str
    data: str
    id: str


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that begins with a colon, without that colon and one space after it."""

    text: str


@dataclass(frozen=True, slots=True)
class Retry:
    """How long the server asks its clients to wait before they reconnect."""

    milliseconds: int


Message = Event | Comment | Retry


class Decoder:
    """Decodes the bytes of one response body; one decoder per connection, one thread at a time."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._line: list[str] = []
        self._line_length = 0
        self._last_id = self._id = ""
        self._event = ""
        self._data: list[str] = []
        self._data_length = 0
        self._dropped = False

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that these bytes complete, in order."""
        *ended, unfinished = _LINE_END.split(self._text(data))
        found: list[Message] = []
        for piece in ended:
            self._extend_line(piece)
            message = self._end_line()
            if message is not None:
                found.append(message)
        self._extend_line(unfinished)
        return found

    def _text(self, data: bytes) -> str:
        """Decode, without the byte order mark and without the LF of a CRLF whose CR has ended its line already."""
        text = self._utf8.decode(data)
        if not text:
            return text
        if self._at_start:
            self._at_start = False
            text = text.removeprefix(_BYTE_ORDER_MARK)
        ends_with_cr = text.endswith("\r")
        if self._after_cr:
            text = text.removeprefix("\n")
        self._after_cr = ends_with_cr
        return text

    def _extend_line(self, piece: str) -> None:
        # One character over the limit is kept, to tell an overlong line from one of exactly that length.
        room = MAX_CHARACTERS + 1 - self._line_length
        if piece and room > 0:
            self._line.append(piece[:room])
            self._line_length += min(len(piece), room)

    def _end_line(self) -> Message | None:
        line, length = "".join(self._line), self._line_length
        self._line, self._line_length = [], 0
        if not line:
            return self._end_block()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if length > MAX_CHARACTERS:
            # A comment of any length is ignored; an overlong field invalidates its block.
            self._dropped |= name != ""
            return None
        return self._field(name, value) if name else Comment(value)

    def _field(self, name: str, value: str) -> Retry | None:
        match name:
            case "data":
                self._add_data(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
                return Retry(int(value))
        return None

    def _add_data(self, value: str) -> None:
        self._data_length += len(value) + 1
        if self._data_length > MAX_CHARACTERS:
            self._dropped = True
            self._data = []
        else:
            self._data.append(value)

    def _end_block(self) -> Event | None:
        """Dispatch the event of a block; without a `data` field there is none, but its id counts."""
        event = None
        if not self._dropped:
            self._last_id = self._id
            if self._data:
                event = Event(self._event or "message", "\n".join(self._data), self._id)
        self._event, self._data, self._data_length = "", [], 0
        self._id, self._dropped = self._last_id, False
        return event
