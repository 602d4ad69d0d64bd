"""Clients that hide nothing: the bytes of an event stream frame by frame, and the end of the body.

`Frames` reads frames from whatever brings bytes; `Listener` is one over a raw socket.
"""

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

CONNECTED = b": connected\n\n"
CHANGED = b"event: changed\ndata:\n\n"
KEEPALIVE = b": keepalive\n\n"


class Frames:
    """A body that is arriving, and its frames."""

    def __init__(self) -> None:
        self.body = b""
        self.ended_cleanly = False
        self._read_frames = 0

    def receive(self, timeout: float) -> None:
        """Add to the body what comes within so many seconds, or note its clean end; a cut raises ConnectionError."""
        raise NotImplementedError

    def next_frame(self, timeout: float = 20.0) -> bytes:
        """Return the next frame; TimeoutError if none comes, EOFError after the end of the body."""
        until = time.monotonic() + timeout
        while (end := self.body.find(b"\n\n", self._read_frames)) < 0:
            if self.ended_cleanly:
                raise EOFError("the body has ended")
            self.receive(until - time.monotonic())
        frame, self._read_frames = self.body[self._read_frames : end + 2], end + 2
        return frame

    def next_news(self, timeout: float = 20.0) -> bytes:
        """Return the next frame that is no keepalive."""
        while (frame := self.next_frame(timeout)) == KEEPALIVE:
            pass
        return frame

    def read_to_end(self, timeout: float = 30.0) -> bytes:
        """Return the whole decoded body once it has ended cleanly."""
        until = time.monotonic() + timeout
        while not self.ended_cleanly:
            self.receive(until - time.monotonic())
        return self.body


class Listener(Frames):
    """One open subscription over HTTP/1.1; `body` collects the decoded bytes, `raw` those of the wire."""

    def __init__(
        self,
        port: int,
        path: str,
        token: str | None,
        *,
        host: str = "127.0.0.1",
        method: str = "GET",
        headers: str = "",
        version: str = "HTTP/1.1",
        receive_buffer: int | None = None,
    ) -> None:
        super().__init__()
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)  # a worker may still be loading its application
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        request = f"{method} {path} {version}\r\nHost: 127.0.0.1\r\n{authorization}{headers}\r\n"
        try:
            self.socket.connect((host, port))
            self.socket.sendall(request.encode())
            head, self.raw = self._read_head()
        except BaseException:  # else an unclosed socket fails a later test
            self.socket.close()
            raise
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        self._undecoded = self.raw
        self._decode()

    def receive(self, timeout: float) -> None:
        if timeout <= 0:
            raise TimeoutError("nothing came in time")
        self.socket.settimeout(timeout)
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the body was cut without its end")
        self.raw += data
        self._undecoded += data
        self._decode()

    def is_closed_by_server(self, within: float) -> bool:
        """Return whether the server ends the connection itself in time."""
        self.socket.settimeout(within)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False

    def json(self) -> Any:
        """Return the JSON body of an answer that is no stream."""
        while len(self.raw) < int(self.headers["content-length"]):
            self.receive(30.0)
        return json.loads(self.raw)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset, as a crashing client's kernel does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_head(self) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"no answer: {received!r}")
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        return head, rest

    def _decode(self) -> None:
        while self.headers.get("transfer-encoding") == "chunked" and not self.ended_cleanly:
            line, separator, rest = self._undecoded.partition(b"\r\n")
            size = int(line, 16) if separator else 0
            if not separator or len(rest) < size + 2:
                return
            self.body += rest[:size]
            self._undecoded = rest[size + 2 :]
            self.ended_cleanly = size == 0


WAYS_TO_DISCONNECT: dict[str, Callable[[Listener], object]] = {
    "close": Listener.close,
    "reset": Listener.reset,
    "half-close": lambda listener: listener.socket.shutdown(socket.SHUT_WR),
}
