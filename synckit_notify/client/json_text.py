"""The data of a change as JSON text, encoded and decoded within the same bounds.

So no device sends what another one cannot read: JSON by RFC 8259 (no NaN, no lone surrogates), nested at most 100
levels deep. Anything else is a ValueError. Pure functions.
"""

import json
import re
from typing import Any, NoReturn

MAX_NESTING = 100
"""Levels. Python's decoder fails below 1000, depending on the depth of the call stack; that of Rust's serde at 128."""

_STRUCTURE = re.compile(r'["\\\[\]{}]')


class NestedTooDeeply(ValueError):
    """Lists and objects are nested deeper than MAX_NESTING levels."""

    def __init__(self) -> None:
        super().__init__(f"must not be nested deeper than {MAX_NESTING} levels")


def encode(data: Any, *, separators: tuple[str, str] | None = None) -> str:
    """Return JSON text; raises ValueError or TypeError for a value that JSON cannot represent."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=separators)
    except RecursionError:
        raise NestedTooDeeply from None
    text.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    if is_nested_too_deeply(text):
        raise NestedTooDeeply
    return text


def decode(text: str) -> Any:
    """Return the value of JSON text; raises ValueError for text that is not JSON within the bounds."""
    if is_nested_too_deeply(text):
        raise NestedTooDeeply
    text.encode()
    value = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text or "\\uD" in text:  # an escape may hide a lone surrogate, which no app could store
        json.dumps(value, ensure_ascii=False).encode()
    return value


def is_nested_too_deeply(text: str) -> bool:
    """Return whether JSON text is nested deeper than MAX_NESTING; brackets inside strings do not count."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return False
    depth, inside_string, escaped = 0, False, -1
    for found in _STRUCTURE.finditer(text):
        character, at = found[0], found.start()
        if inside_string:
            if at != escaped:
                inside_string = character != '"'
                escaped = at + 1 if character == "\\" else -1
        elif character == '"':
            inside_string = True
        else:
            depth += 1 if character in "[{" else -1
            if depth > MAX_NESTING:
                return True
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
