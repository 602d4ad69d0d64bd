"""Request bodies in, checked values out. No I/O.

`parse(body)` returns the members of one JSON object, `parse_form(body)` the parameters of a form. The caller takes each
field out by name, with the type and the bounds that it must have. A body that is neither raises MalformedBody (400). A
field that is missing, of another type or out of bounds raises InvalidField (422), whose sentence names the field and
never quotes its value. `rfc3339` formats the times of answers.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from .database.schema import as_datetime
from .errors import InvalidField, MalformedBody

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite and PostgreSQL can store."""

MAX_PARAMETERS = 20
"""Parameters of a form. OAuth requests have six at most."""

MAX_NESTING = 64
"""Levels of JSON in a body; ours have three. Whether Python's parser accepts much deeper JSON depends on its stack."""

TOO_DEEP = f"the JSON must not be nested deeper than {MAX_NESTING} levels"

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_ZERO = datetime(1970, 1, 1)


def parse(body: bytes) -> "Fields":
    """Return the members of the JSON object in a request's body."""
    try:
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise MalformedBody(TOO_DEEP) from None
    except ValueError as error:  # also for what is not UTF-8, and for numbers of thousands of digits
        raise MalformedBody("the body is not valid JSON") from error
    if not isinstance(values, dict):
        raise MalformedBody("the body must be a JSON object")
    if _is_nested_beyond(values, MAX_NESTING):
        raise MalformedBody(TOO_DEEP)
    return Fields(values)


def parse_form(body: bytes) -> "Fields":
    """Return the parameters of a form; one without a value counts as absent (RFC 6749, section 3.2)."""
    try:
        pairs = parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise MalformedBody("the body is not a valid form") from error
    values = dict(pairs)
    if len(values) < len(pairs):
        raise MalformedBody("a parameter is given twice")
    return Fields(values)


def check_text(value: str, where: str, longest: int, shortest: int = 1) -> str:
    """Return a string that every database and client can store; raises InvalidField. Lengths are in characters."""
    if len(value) < shortest:
        raise InvalidField(f"{where}: must not be empty")
    if len(value) > longest:
        raise InvalidField(f"{where}: must have at most {longest} characters")
    if "\0" in value or not _is_unicode(value):
        raise InvalidField(f"{where}: must not contain NUL or lone surrogates")
    return value


def rfc3339(moment: int) -> str:
    """Return stored microseconds as RFC 3339 in UTC, with all six digits, so that strings sort as their times do."""
    return as_datetime(moment).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Fields:
    """The members of one JSON object. A member that is null counts as missing. Every method raises InvalidField."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self._values = values
        self.path = path

    def text(self, name: str, *, longest: int, shortest: int = 1) -> str:
        """Return a string; lengths are in characters."""
        return check_text(self._required(name, str, "a string"), self.path + name, longest, shortest)

    def optional_text(self, name: str, *, longest: int, shortest: int = 1) -> str | None:
        """Return a string, or None if it is missing."""
        return None if self._absent(name) else self.text(name, longest=longest, shortest=shortest)

    def ciphertext(self, name: str, *, most_bytes: int) -> str | None:
        """Return an opaque string, which may be empty, or None if it is missing; its length is in bytes of UTF-8."""
        value = self.optional_text(name, longest=most_bytes, shortest=0)
        if value is not None and len(value.encode()) > most_bytes:
            raise InvalidField(f"{self.path}{name}: must have at most {most_bytes} bytes")
        return value

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options."""
        value: str = self._required(name, str, "a string")
        if value not in options:
            raise InvalidField(f"{self.path}{name}: must be one of {', '.join(options)}")
        return value

    def integer(self, name: str, *, least: int, most: int = MAX_INTEGER, default: int | None = None) -> int:
        """Return an integer; without a default it is required."""
        if default is not None and self._absent(name):
            return default
        value: int = self._required(name, int, "an integer")
        if not least <= value <= most:
            raise InvalidField(f"{self.path}{name}: must be from {least} to {most}")
        return value

    def optional_integer(self, name: str, *, least: int, most: int = MAX_INTEGER) -> int | None:
        """Return an integer, or None if it is missing."""
        return None if self._absent(name) else self.integer(name, least=least, most=most)

    def decimal(self, name: str, *, least: int, most: int, default: int) -> int:
        """Return an integer that is sent as a string, as in a query string."""
        text = self.optional_text(name, longest=20) or str(default)
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise InvalidField(f"{self.path}{name}: must be an integer from {least} to {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        """Return a boolean; one that is missing is false."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, bool):
            raise InvalidField(f"{self.path}{name}: must be true or false")
        return bool(value)

    def objects(self, name: str, *, most: int) -> list["Fields"]:
        """Return a list of one or more objects."""
        values = self._list(name, most)
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise InvalidField(f"{self.path}{name}[{index}]: must be an object")
        return [Fields(value, f"{self.path}{name}[{index}].") for index, value in enumerate(values)]

    def optional_texts(self, name: str, *, most: int, longest: int) -> list[str] | None:
        """Return a list of one or more strings, or None if it is missing."""
        if self._absent(name):
            return None
        values = {f"{name}[{index}]": value for index, value in enumerate(self._list(name, most))}
        return [Fields(values, self.path).text(item, longest=longest) for item in values]

    def timestamp(self, name: str) -> tuple[str, int]:
        """Return an RFC 3339 timestamp as it was sent, and as stored microseconds, rounded up."""
        value = self.text(name, longest=64)
        return value, self._microseconds(name, value)

    def optional_instant(self, name: str) -> int | None:
        """Return an RFC 3339 timestamp as stored microseconds, rounded up, or None if it is missing."""
        return None if self._absent(name) else self._microseconds(name, self.text(name, longest=64))

    def _absent(self, name: str) -> bool:
        return self._values.get(name) is None

    def _required(self, name: str, kind: type, words: str) -> Any:
        value = self._values.get(name)
        if value is None:
            raise InvalidField(f"{self.path}{name}: is missing")
        if not isinstance(value, kind) or isinstance(value, bool):  # in Python a bool is an int
            raise InvalidField(f"{self.path}{name}: must be {words}")
        return value

    def _list(self, name: str, most: int) -> list[Any]:
        values: list[Any] = self._required(name, list, "a list")
        if not 1 <= len(values) <= most:
            raise InvalidField(f"{self.path}{name}: must have 1 to {most} entries")
        return values

    def _microseconds(self, name: str, value: str) -> int:
        moment = microseconds(value)
        if moment is None:
            raise InvalidField(
                f"{self.path}{name}: must be RFC 3339 with a time zone, without leap seconds and with at most 9 digits "
                "of a second, like 2026-01-31T12:00:00Z"
            )
        return moment


def microseconds(text: str) -> int | None:
    """Return microseconds since 1970, rounded up, or None for a timestamp that not every client can parse.

    It must be RFC 3339 without leap seconds, with at most nine digits of a second, and lie in the years 1 to 9999, both
    as written and in UTC. This is what `datetime` in Python, `Date` in JavaScript and similar types can represent.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    *moment, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        instant = datetime(*map(int, moment)) + (offset if sign == "-" else -offset)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    whole = (instant - _ZERO) // timedelta(seconds=1)
    return whole * 1_000_000 + -(-int((fraction or "0").ljust(9, "0")) // 1000)


def _is_nested_beyond(value: dict[str, Any], most: int) -> bool:
    """Return whether there are more levels of lists and objects than allowed, without recursion."""
    level: list[Any] = [value]
    for _ in range(most):
        members = [member for outer in level for member in (outer.values() if isinstance(outer, dict) else outer)]
        level = [member for member in members if isinstance(member, dict | list)]
        if not level:
            return False
    return True


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
