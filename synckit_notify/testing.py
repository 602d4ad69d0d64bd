"""For the tests of an application that mounts the Notifier: a stream through the Flask test client.

    with open_stream(app.test_client(), "notes", token) as stream:
        assert stream.next_frame() == CONNECTED
        client.post("/push", ...)
        assert stream.next_frame() == CHANGED

It runs the whole extension, from the route to the last byte, in the calling thread. It reads on only when the stream
has something to say, so a frame that never comes is a TimeoutError and not a test that hangs.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import cast

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from . import sse
from .app_state import EXTENSION_NAME, AppState
from .blueprint import stream_opened
from .streams.stream import Stream

__all__ = ["CHANGED", "CONNECTED", "KEEPALIVE", "OpenStream", "open_stream"]

CONNECTED, CHANGED, KEEPALIVE = sse.CONNECTED, sse.CHANGED, sse.KEEPALIVE


def open_stream(
    client: FlaskClient,
    app_id: str,
    token: str,
    *,
    device_id: str | None = None,
    headers: dict[str, str] | None = None,
) -> "OpenStream":
    """Subscribe; the first frame to read is CONNECTED.

    Raises ConnectionRefusedError with the answer if that is no stream.
    """
    app_state: AppState = client.application.extensions[EXTENSION_NAME]
    streams: list[Stream] = []
    thread = threading.get_ident()

    def opened(_: Flask, stream: Stream) -> None:
        if threading.get_ident() == thread:  # another thread of the test may open one too
            streams.append(stream)

    with stream_opened.connected_to(opened):
        response = client.get(
            f"{app_state.settings.url_prefix}/subscribe",
            query_string={"app_id": app_id} | ({"device_id": device_id} if device_id else {}),
            headers={"Authorization": f"Bearer {token}"} | (headers or {}),
            buffered=False,
        )
    if not streams:
        raise ConnectionRefusedError(f"{response.status}: {response.get_data(as_text=True).strip()}")
    return OpenStream(streams[0], response, app_state)


class OpenStream:
    """An open subscription; a context manager that closes it and leaves no thread behind."""

    def __init__(self, stream: Stream, response: TestResponse, app_state: AppState) -> None:
        self.response = response
        self._stream = stream
        self._chunks = cast(Iterator[bytes], iter(response.response))
        self._app_state = app_state
        # Werkzeug's client reads up to the first bytes before it returns.
        self._unread = deque(_frames(next(self._chunks, b"")))

    def next_frame(self, timeout: float = 1.0) -> bytes:
        """Return the next frame with its empty line.

        Raises TimeoutError if none comes within `timeout` seconds, EOFError after the last one.
        """
        if not self._unread:
            self._wait(timeout)
            self._unread.extend(_frames(next(self._chunks, b"")))
        if not self._unread:
            raise EOFError("the stream has ended")
        return self._unread.popleft()

    def close(self) -> None:
        """End the stream as a client does that goes away."""
        self.response.close()
        self._app_state.node().join_idle()

    def __enter__(self) -> "OpenStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _wait(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not self._stream.needs_poll(now := time.monotonic()):
            if now >= until:
                raise TimeoutError(f"no frame within {timeout:g} s")
            self._stream.wait(until)


def _frames(chunk: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in chunk.split(b"\n\n")[:-1]]
