"""A request in progress: how long it may take, and how to end it while another thread waits for its answer.

The time that a request may take grows with the bytes that were transferred, so that a slow line is not taken for a
server that hangs. Used by the connection; thread-safe.
"""

import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from .errors import NetworkError
from .responses import MAX_RESPONSE_BYTES

RESPONSE_SECONDS, MIN_BYTES_PER_SECOND = 60.0, 1024
"""A request may take this long, and longer only while request and response bodies move at this rate on average."""


class Transfer:
    """A request in progress: how many bytes of it and of its response were transferred, and how to abandon it.

    `opened` receives each connection that is opened for the request.
    """

    def __init__(self, opened: Callable[[Any], object], sent: int = 0) -> None:
        self._opened = opened
        self._sent = sent
        self._response: httpx2.Response | None = None
        self._stream: Any = None
        self.given_up = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Keep a connection that was opened for this request: httpx2's extension `trace` calls this.

        Until the headers of the response arrive, nothing else tells which socket the request uses.
        """
        stream = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            self._stream = stream
            self._opened(stream)
            if self.given_up:
                shut_down(stream)

    def seconds_left(self, seconds: float) -> float:
        """Return how much longer it may take after these seconds; raises NetworkError if its time is over."""
        response = self._response
        moved = self._sent + (0 if response is None else response.num_bytes_downloaded)
        left = RESPONSE_SECONDS + moved / MIN_BYTES_PER_SECOND - seconds
        if left <= 0 or moved > self._sent + MAX_RESPONSE_BYTES:
            raise NetworkError(f"no complete answer from the server after {seconds:.0f} s")
        return left

    def answered(self, response: httpx2.Response) -> None:
        """Keep the response, whose headers have arrived, so that its socket can be shut down."""
        self._response, self._stream = response, response.extensions.get("network_stream")
        if self.given_up:
            shut_down(self._stream)

    def give_up(self) -> None:
        """Shut down the connection, now or as soon as it is known."""
        self.given_up = True
        shut_down(self._stream)


def shut_down(stream: Any) -> None:
    """Shut down a connection of httpx2, or of a transport in memory, even while another thread reads from it."""
    if stream is None:
        return
    raw = stream.get_extra_info("socket")
    if raw is None:
        (stream.get_extra_info("shut_down") or (lambda: None))()
        return
    with contextlib.suppress(OSError):
        # The method of the plain socket: that of SSLSocket would discard the TLS state of the thread that reads.
        socket.socket.shutdown(raw, socket.SHUT_RDWR)
