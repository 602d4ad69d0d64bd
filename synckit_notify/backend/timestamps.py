"""The timestamps of changes and of filters: RFC 3339 in, microseconds out."""

import re
from datetime import datetime, timedelta

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_ZERO = datetime(1970, 1, 1)


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
