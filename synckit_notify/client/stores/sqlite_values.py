"""Values of SQLite as JSON, keys as row ids, and the digest by which two contents of a row are compared.

    NULL, INTEGER, REAL, TEXT, BLOB ◀──▶ null, number or {"$int": "..."}, number, string, {"$blob": base64}
    primary key ◀──▶ row_id

Pure functions. A value that cannot be stored or represented is a ValueError. Text that is no UTF-8 arrives with lone
surrogates ("surrogateescape"), which the encoder of JSON refuses, as it refuses an infinite number.
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import Any

Value = None | int | float | str | bytes
Key = tuple[Value, ...]

MAX_JSON_INTEGER = 2**53
"""JavaScript and many JSON libraries read larger integers as floating-point numbers and round them."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
DIGEST_BYTES = 8
"""A digest only tells two contents of one row apart: an edit is missed with a chance of 2^-64."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return microseconds since the Unix epoch."""
    return (moment - EPOCH) // _MICROSECOND


def to_moment(at: int) -> datetime:
    """Return the time that is so many microseconds after the Unix epoch; raises ValueError."""
    try:
        return EPOCH + at * _MICROSECOND
    except OverflowError:
        raise ValueError("the timestamp must be in the years 1 to 9999") from None


def to_json(value: Value) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, bytes):
        return {"$blob": base64.b64encode(value).decode("ascii")}
    if isinstance(value, int) and abs(value) > MAX_JSON_INTEGER:
        return {"$int": str(value)}
    return value


def from_json(value: Any) -> Value:
    """Return a value as SQLite has it; other writers' lists and objects become JSON text. Raises ValueError."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number must be finite")
        return value
    if isinstance(value, dict) and value.keys() == {"$blob"}:
        try:
            return base64.b64decode(value["$blob"], validate=True)
        except (TypeError, binascii.Error):
            raise ValueError("$blob must be base64") from None
    if isinstance(value, dict) and value.keys() == {"$int"}:
        try:
            return _integer(int(str(value["$int"])))
        except ValueError:
            raise ValueError("$int must be an integer of at most 64 bits") from None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def row_id_of(key: Key, types: Sequence[str]) -> str:
    """Return the row id of a key, whose columns have these declared types.

    A single string or integer stands for itself; everything else is a JSON array. Raises ValueError for an infinite
    number.
    """
    if len(key) == 1 and isinstance(key[0], str | int):
        plain = str(key[0])
        if plain and key_of(plain, types) == key and type(key_of(plain, types)[0]) is type(key[0]):
            return plain
    values = [to_json(value) for value in key]
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def key_of(row_id: str, types: Sequence[str]) -> Key:
    """Return the key of a row id; raises ValueError if it is not one of a table with such a key."""
    values = _array(row_id) if row_id.startswith("[") else None
    if values is not None and len(values) == len(types):
        return tuple(map(_key_value, values))
    if len(types) > 1:
        raise ValueError(f"row_id must be a JSON array of {len(types)} values")
    if not is_textual(types[0]) and _is_decimal(row_id):
        return (_integer(int(row_id)),)
    return (row_id,)


@cache
def is_textual(declared: str) -> bool:
    """Return whether SQLite stores numbers in such a column as text (sqlite.org/datatype3.html, section 3.1)."""
    upper = declared.upper()
    return "INT" not in upper and any(name in upper for name in ("CHAR", "CLOB", "TEXT"))


def digest(values: Sequence[Value]) -> bytes:
    """Return a short hash of the content of a row."""
    parts: list[bytes] = []
    for value in values:
        if value is None:
            parts.append(b"n")
            continue
        if isinstance(value, str):
            tag, content = b"t", value.encode("utf-8", "surrogateescape")
        elif isinstance(value, bytes):
            tag, content = b"b", value
        elif isinstance(value, int):
            tag, content = b"i", b"%d" % value
        else:
            tag, content = b"f", struct.pack("<d", value)
        parts.append(b"%s%d:" % (tag, len(content)))
        parts.append(content)
    return blake2b(b"".join(parts), digest_size=DIGEST_BYTES).digest()


def dump(members: Mapping[str, Any] | None) -> str:
    """Return JSON text for our own tables."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def load(text: str | None) -> dict[str, Any]:
    """Return the object of JSON text from our own tables; no text, and null, are an empty one."""
    return (json.loads(text) or {}) if text else {}


def _key_value(value: Any) -> Value:
    """Return one value of a key; raises ValueError for NULL, and for a lone surrogate that an escape hid."""
    found = from_json(value)
    if found is None:
        raise ValueError("a key must not be NULL")
    if isinstance(found, str):
        found.encode()  # raises UnicodeEncodeError, a ValueError
    return found


def _integer(value: int) -> int:
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("an integer must have at most 64 bits")
    return value


def _is_decimal(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 19 and str(int(text)) == text


def _array(text: str) -> list[Any] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) else None
