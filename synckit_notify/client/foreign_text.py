"""Makes text of a server or of another device safe for a terminal, a log and an error message.

Text in, text out. Control characters become escapes, so that such text cannot move a terminal's cursor; secrets that a
server repeats are removed. Only foreign text needs this: messages of the SDK contain no secret.
"""

import re
from collections.abc import Iterable

KNOWN_SENTENCES = frozenset({"the API key, the e-mail or the password is wrong"})
"""Messages of the included backend that repeat no secret: they are shown even if the password is a word in them."""

COMMON_TEXT = re.compile(r"[^\W\d_]+|.{1,3}")
"""A secret of this form, such as the password "password", may be in a message by chance, which is not shown then."""


def printable(text: str) -> str:
    """Return the text on one line, with spaces for white space and escapes for characters that a terminal may obey."""
    line = " ".join(re.split(r"[\t\n\r]+", text))
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in line)


def redacted(text: str, secrets: Iterable[str]) -> str | None:
    """Return foreign text with these secrets replaced by ***, or None if it must not be shown."""
    if text in KNOWN_SENTENCES:
        return text
    for secret in secrets:
        if not secret or secret not in text:
            continue
        if COMMON_TEXT.fullmatch(secret):
            return None
        text = text.replace(secret, "***")
    return text
