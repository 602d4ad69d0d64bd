"""The way to a server: one request and its answer, or one subscription and its bytes as they come.

In: an httpx2 client. Out: responses, and connections whose every read has its own time limit and whose end is at once.
httpx2 fixes the limit of a read when the body begins, and waits it out in `close()`; so a thread reads without a limit
and hands the bytes over, and closing shuts the socket down under it. "Nothing yet" is a TimeoutError. Every failure on
the way is a NetworkError. Only the session may call this; any thread.
"""

import contextlib
import json
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2

from .errors import NetworkError, ProtocolError

LIMITS = httpx2.Timeout(30.0, connect=10.0)
STREAM_LIMITS = {"connect": 10.0, "write": 10.0, "pool": 10.0, "read": 10.0}
"""`read` is for the headers alone: a stream may be silent, and its watchdog is the reader's."""

MOST_PIECES = 64
"""So many are held for a reader that is busy; then the thread, and with it the server, waits."""

LONGEST_TEXT, TEXT_SECONDS = 8192, 5.0
LONGEST_WORDS = 300
CLOSING_SECONDS = 1.0


class Line:
    """Sends requests to one server; `http` is left open at the end, unless it was made here."""

    def __init__(self, server_url: str, http: httpx2.Client | None) -> None:
        self.url = checked(server_url)
        self._owned = http is None
        self._http = httpx2.Client() if http is None else http
        self._connections: weakref.WeakSet[HttpEventConnection] = weakref.WeakSet()
        self._closed = False

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> httpx2.Response:
        """Return the whole answer, whatever its status."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        content = None if body is None else json.dumps(body, separators=(",", ":"))
        if content is not None:
            headers["Content-Type"] = "application/json"
        address = self.url + path
        request = self._http.build_request(method, address, content=content, data=form, headers=headers, timeout=LIMITS)
        return self._deliver(request)

    def subscribe(self, query: Mapping[str, str], token: str, secrets: Iterable[str]) -> "HttpEventConnection":
        """Return the answer to a subscription as soon as its headers are there."""
        limits: dict[str, float | None] = dict(STREAM_LIMITS)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Authorization": f"Bearer {token}"}
        request = self._http.build_request(
            "GET", f"{self.url}/api/sync/subscribe", params=query, headers=headers, extensions={"timeout": limits}
        )
        response = self._deliver(request, stream=True)
        limits["read"] = None  # httpx2 looks again when the body begins
        if response.http_version == "HTTP/2":
            response.close()
            raise ProtocolError("the HTTP client speaks HTTP/2, where a stream has no socket of its own to shut down")
        connection = HttpEventConnection(response, secrets)
        self._connections.add(connection)
        return connection

    def close(self) -> None:
        """End all connections; whatever is sent after is a NetworkError."""
        self._closed = True
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.join(CLOSING_SECONDS)
        if self._owned:
            self._http.close()

    def _deliver(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response:
        if self._closed:
            raise NetworkError("the client is closed")
        try:
            return self._http.send(request, stream=stream)
        except httpx2.HTTPError as error:
            # Not chained: the error holds the request, with all that is secret in it.
            raise NetworkError(reason(error)) from None
        except RuntimeError:
            if self._closed or self._http.is_closed:
                raise NetworkError("the client is closed") from None
            raise


class HttpEventConnection:
    """See EventConnection in stream.py; one thread reads, any thread may close."""

    def __init__(self, response: httpx2.Response, secrets: Iterable[str] = ()) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._secrets = tuple(secrets)
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = self._closed = False
        self._failure = ""
        self._thread = threading.Thread(target=self._receive, name="synckit-stream", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            response.close()
            raise NetworkError(f"no thread can be started to read the stream: {error}") from None

    def read(self, timeout: float) -> bytes:
        """Return the next bytes, b"" at the clean end; raises TimeoutError, NetworkError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._pieces or self._ended, timeout):
                raise TimeoutError
            if self._closed:
                raise NetworkError("the connection was closed")
            if self._pieces:
                self._changed.notify_all()
                return self._pieces.popleft()
            if self._failure:
                raise NetworkError(self._failure)
            return b""

    def text(self) -> str:
        """Return the server's words of an answer that is no stream, as much as comes in a few seconds."""
        content, until = b"", time.monotonic() + TEXT_SECONDS
        with contextlib.suppress(TimeoutError, NetworkError):
            while len(content) < LONGEST_TEXT and (piece := self.read(max(0.0, until - time.monotonic()))):
                content += piece
        return words(self.status, content[:LONGEST_TEXT], self._secrets)

    def close(self) -> None:
        """Shut the socket down; any thread, any number of times."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        stream = self._response.extensions.get("network_stream")
        raw = stream.get_extra_info("socket") if stream is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):
                # Not the SSLSocket's own, which takes the TLS state away from the thread that is reading.
                socket.socket.shutdown(raw, socket.SHUT_RDWR)

    def join(self, seconds: float) -> None:
        """Wait until the thread of a closed connection has let go of it."""
        self._thread.join(seconds)

    def _receive(self) -> None:
        try:
            for piece in self._response.iter_raw():
                if piece and not self._hand_over(piece):
                    break
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            self._failure = reason(error)
        except Exception as error:  # of a transport that is not httpx2's own
            self._failure = f"the connection broke ({type(error).__name__})"
        finally:
            with contextlib.suppress(Exception):
                self._response.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, piece: bytes) -> bool:
        """Wait for room; False if nobody wants more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._pieces) < MOST_PIECES)
            self._pieces.append(piece)
            self._changed.notify_all()
            return not self._closed


def reason(error: Exception) -> str:
    """Return why no answer came, in words that cannot hold what was sent: an illegal header would be quoted."""
    told = str(error) if isinstance(error, httpx2.ConnectError) else ""
    return f"no answer from the server: {told or type(error).__name__}"


def words(status: int, content: bytes, secrets: Iterable[str]) -> str:
    """Return the server's sentence about an error, bounded and without secrets; its status where it says nothing."""
    answer = parsed(content)
    said = answer.get("error_description") or answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(said, str) or not said.strip():
        return f"the server answered {status}"
    for secret in secrets:
        said = said.replace(secret, "***") if secret else said
    return "".join(character if character.isprintable() else " " for character in said.strip())[:LONGEST_WORDS]


def checked(server_url: str) -> str:
    """Return an address without a slash at its end; raises ValueError."""
    try:
        url = httpx2.URL(server_url)
    except (httpx2.InvalidURL, TypeError):
        raise ValueError("server_url: is no address") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ValueError("server_url: like https://sync.example.org, without user, query or fragment")
    return str(url).rstrip("/")


def parsed(content: bytes) -> Any:
    """Return the JSON value of a body, None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
