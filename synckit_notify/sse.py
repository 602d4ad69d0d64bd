"""Frames of `text/event-stream` (WHATWG HTML, section 9.2): values in, bytes out.

A frame is one block that ends with an empty line. It is built whole and written whole, LF only. What could
break out of its line is refused here, on the way out, whoever calls.
"""

_FORBIDDEN = frozenset("\r\n\0")


def comment(text: str) -> bytes:
    """Return a comment block, which every conforming client ignores."""
    return f": {_line(text)}\n\n".encode()


def event(name: str) -> bytes:
    """Return an event without payload.

    The `data:` line must be there: without it conforming clients dispatch nothing.
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
