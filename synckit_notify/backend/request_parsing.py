"""A request's body in, a dictionary out. No I/O.

`parse(body)` returns the members of one JSON object, `parse_form(body)` the parameters of a form or of a query string.
A body that is neither raises MalformedBody (400). What the dictionary holds is checked in `request_fields.py`.
"""

import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from .errors import MalformedBody

MAX_PARAMETERS = 20
"""Parameters of a form. OAuth requests have six at most."""

MAX_NESTING = 64
"""Levels of JSON in a body; ours have three. Whether Python's parser accepts much deeper JSON depends on its stack."""

TOO_DEEP = f"the JSON must not be nested deeper than {MAX_NESTING} levels"


def parse(body: bytes) -> dict[str, Any]:
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
    return values


def parse_form(body: bytes) -> dict[str, Any]:
    """Return the parameters of a form; one without a value counts as absent (RFC 6749, section 3.2)."""
    try:
        pairs = parse_qsl(body.decode(), errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise MalformedBody("the body is not a valid form") from error
    values = dict(pairs)
    if len(values) < len(pairs):
        raise MalformedBody("a parameter is given twice")
    return dict(values)


def _is_nested_beyond(value: dict[str, Any], most: int) -> bool:
    """Return whether there are more levels of lists and objects than allowed, without recursion."""
    level: list[Any] = [value]
    for _ in range(most):
        members = [member for outer in level for member in (outer.values() if isinstance(outer, dict) else outer)]
        level = [member for member in members if isinstance(member, dict | list)]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
