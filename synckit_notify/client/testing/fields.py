"""The fields of a request to a FakeServer: checked, with the errors of docs/protocol.md.

In: a JSON object or a form. Out: values of the right type, within their bounds. Raises Refused.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from .clock import instant

MAX_INTEGER = 2**63 - 1
MAX_NESTING = 64
MAX_PARAMETERS = 20

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)


class Refused(Exception):
    """The request is refused with this status; `code` is that of an OAuth error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


class Fields:
    """The members of one JSON object; a member that is null counts as missing."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values, self._path = values, path

    @classmethod
    def of_json(cls, content: bytes) -> "Fields":
        """Return the members of the JSON object in a body."""
        try:
            values = json.loads(content.decode(), parse_constant=_no_constant)
        except ValueError:
            raise Refused(400, "the body is not valid JSON") from None
        except RecursionError:
            values, too_deep = {}, True
        else:
            too_deep = _depth(values) > MAX_NESTING
        if too_deep:
            raise Refused(400, f"the JSON must not be nested deeper than {MAX_NESTING} levels")
        if not isinstance(values, dict):
            raise Refused(400, "the body must be a JSON object")
        return cls(values)

    @classmethod
    def of_form(cls, content: bytes) -> "Fields":
        """Return the parameters of a form; a JSON object is accepted too."""
        if content.lstrip().startswith(b"{"):
            return cls.of_json(content)
        try:
            pairs = parse_qsl(content.decode(), errors="strict", max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise Refused(400, "the body is not a valid form") from None
        if len(dict(pairs)) < len(pairs):
            raise Refused(400, "a parameter is given twice")
        return cls(dict(pairs))

    @classmethod
    def of_query(cls, query: bytes) -> "Fields":
        """Return the parameters of a query string; of two with one name the first counts."""
        return cls(dict(reversed(parse_qsl(query.decode(), keep_blank_values=True))))

    def has(self, name: str) -> bool:
        """Return whether the member is there and not null."""
        return self._values.get(name) is not None

    def text(self, name: str, longest: int, shortest: int = 1, *, bytes_only: bool = False) -> str:
        """Return a string; its length is in characters, or in bytes of UTF-8."""
        value: str = self._required(name, str, "a string")
        if len(value) < shortest:
            raise self.invalid(name, "must not be empty")
        if not bytes_only and len(value) > longest:
            raise self.invalid(name, f"must have at most {longest} characters")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise self.invalid(name, "must not contain NUL or lone surrogates")
        if bytes_only and len(value.encode()) > longest:
            raise self.invalid(name, f"must have at most {longest} bytes")
        return value

    def optional_text(self, name: str, longest: int) -> str | None:
        """Return a string, or None."""
        return self.text(name, longest) if self.has(name) else None

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        """Return one of the options."""
        value: str = self._required(name, str, "a string")
        if value not in options:
            raise self.invalid(name, f"must be one of {', '.join(options)}")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false; false if it is missing."""
        return bool(self._required(name, bool, "true or false")) if self.has(name) else False

    def integer(self, name: str, least: int, most: int = MAX_INTEGER) -> int:
        """Return an integer."""
        value: int = self._required(name, int, "an integer")
        if not least <= value <= most:
            raise self.invalid(name, f"must be from {least} to {most}")
        return value

    def optional_integer(self, name: str, least: int, most: int = MAX_INTEGER) -> int | None:
        """Return an integer, or None."""
        return self.integer(name, least, most) if self.has(name) else None

    def decimal(self, name: str, least: int, most: int, *, default: int) -> int:
        """Return an integer that is sent as a string, as in a query string."""
        text = self.optional_text(name, 20) or str(default)
        if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
            raise self.invalid(name, f"must be an integer from {least} to {most}")
        return int(text)

    def objects(self, name: str, most: int) -> list["Fields"]:
        """Return a list of one or more objects."""
        values = self._list(name, most)
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.invalid(f"{name}[{index}]", "must be an object")
        return [Fields(value, f"{self._path}{name}[{index}].") for index, value in enumerate(values)]

    def optional_texts(self, name: str, most: int, longest: int) -> list[str] | None:
        """Return a list of one or more strings, or None."""
        if not self.has(name):
            return None
        items = {f"{name}[{index}]": value for index, value in enumerate(self._list(name, most))}
        return [Fields(items, self._path).text(item, longest) for item in items]

    def timestamp(self, name: str) -> tuple[str, int]:
        """Return an RFC 3339 timestamp as it was sent, and as microseconds since 1970, rounded up."""
        text = self.text(name, 64)
        moment = microseconds(text)
        if moment is None:
            raise self.invalid(
                name,
                "must be RFC 3339 with a time zone, without leap seconds and with at most 9 digits of a second, like "
                "2026-01-31T12:00:00Z",
            )
        return text, moment

    def optional_instant(self, name: str) -> int | None:
        """Return an RFC 3339 timestamp as microseconds since 1970, or None."""
        return self.timestamp(name)[1] if self.has(name) else None

    def _required(self, name: str, kind: type, words: str) -> Any:
        value = self._values.get(name)
        if value is None:
            raise self.invalid(name, "is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.invalid(name, f"must be {words}")
        return value

    def _list(self, name: str, most: int) -> list[Any]:
        values: list[Any] = self._required(name, list, "a list")
        if not 1 <= len(values) <= most:
            raise self.invalid(name, f"must have 1 to {most} entries")
        return values

    def invalid(self, name: str, problem: str) -> Refused:
        """Return the error for one field."""
        return Refused(422, f"{self._path}{name}: {problem}")


def microseconds(text: str) -> int | None:
    """Return microseconds since 1970, rounded up, or None for a timestamp that not every client can parse."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=UTC) + (offset if sign == "-" else -offset)
    except (ValueError, OverflowError):
        return None
    return instant(moment, int((fraction or "0").ljust(9, "0")))


def _depth(value: Any) -> int:
    """Return how many levels of lists and objects there are."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [member for each in level for member in (each.values() if isinstance(each, dict) else each)]
    return depth


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
