"""The protocol between a stream and the network: one response to a subscription, as its bytes arrive.

Implemented by connection.py, and by the fakes of tests. Nothing here does anything.
"""

from collections.abc import Mapping
from typing import Protocol


class EventConnection(Protocol):
    """One response to a subscription; the keys of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]

    def read(self, timeout: float) -> bytes:
        """Return the next bytes, or b"" at the clean end of the body.

        Raises TimeoutError if none arrive within `timeout` seconds, after which it may be called again; a timeout of 0
        returns what has already arrived. Raises NetworkError if the connection broke.
        """

    def text(self) -> str:
        """Return the error message of a response that is not a stream."""

    def close(self) -> None:
        """Shut the socket down; a read in another thread raises NetworkError at once. May be called more than once."""
