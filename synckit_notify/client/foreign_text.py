"""Text that a server or another device wrote, made fit for a terminal, a log and an error's sentence.

Text in, text out. Control characters are shown as escapes, so that nobody moves a terminal's cursor; secrets that a
server repeats are left out. Only foreign text is treated so: a sentence of ours holds no secret.
"""

import re
from collections.abc import Iterable

KNOWN_SENTENCES = frozenset({"the API key, the e-mail or the password is wrong"})
"""What the included backend says about a log-in: it repeats nothing, whatever words a password consists of."""

WORDS = re.compile(r"[^\W\d_]+|.{1,3}")
"""A secret of this form may occur in a sentence by chance, as the password "password" does: replacing it garbles it."""


def printable(text: str) -> str:
    """Return the text in one line, with white space as blanks and all that a terminal might obey as escapes."""
    line = " ".join(re.split(r"[\t\n\r]+", text))
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in line)


def redacted(text: str, secrets: Iterable[str]) -> str | None:
    """Return foreign text without these secrets, None if it cannot be shown."""
    if text in KNOWN_SENTENCES:
        return text
    for secret in secrets:
        if not secret or secret not in text:
            continue
        if WORDS.fullmatch(secret):
            return None
        text = text.replace(secret, "***")
    return text
