"""HTTP to one server: requests with their responses, and subscriptions with their bytes as they arrive.

In: an httpx2 client. Out: responses, and connections with a time limit for each read that can be closed at any moment.
httpx2 fixes the time limit of reads when the body starts, and `close()` waits for a read in progress. So a thread reads
without a limit and passes the bytes on, and closing shuts down the socket under it. "No bytes yet" is a TimeoutError;
every failure of the network is a NetworkError. Only the session may use this file; thread-safe.

Each request runs in a thread of its own, so that `close()` ends all waits at once and a response that arrives too
slowly is abandoned. The size of a response is bounded after decompression, its time by its size.
"""

import contextlib
import json
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import httpx2

from .cancellable import start
from .environment import make_http_client, proxy_for
from .errors import NetworkError
from .foreign_text import printable
from .responses import (
    MAX_RESPONSE_BYTES,
    HttpResponse,
    Redirect,
    error_message,
    read_content,
    redirect_of,
    refused_stream,
)

LIMITS = httpx2.Timeout(30.0, connect=10.0)
STREAM_LIMITS = {"connect": 10.0, "write": 10.0, "pool": 10.0, "read": 10.0}
"""`read` applies to the headers only: a stream may be silent, and its reader watches for silence."""

MAX_CHUNKS = 64
"""Upper bound of the chunks that wait for a busy reader; beyond it the thread stops reading."""

MAX_TEXT_BYTES, TEXT_SECONDS = 8192, 5.0
CLOSING_SECONDS = 1.0

RESPONSE_SECONDS, MIN_BYTES_PER_SECOND = 60.0, 1024
"""A request may take this long, and longer only while request and response bodies move at this rate on average."""

T = TypeVar("T")


class Transfer:
    """A request in progress: how many bytes of it and of its response were transferred, and how to abandon it."""

    def __init__(self, sent: int = 0) -> None:
        self._sent = sent
        self._response: httpx2.Response | None = None
        self.given_up = False

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
        self._response = response
        if self.given_up:
            shut_down(response)

    def give_up(self) -> None:
        """Shut down the connection, now or as soon as its response is known."""
        self.given_up = True
        if self._response is not None:
            shut_down(self._response)


class HttpClient:
    """Sends requests to one server; `close` closes `http` only if it was made here."""

    def __init__(self, server_url: str, http: httpx2.Client | None) -> None:
        self.url = normalize_url(server_url)
        self._owned = http is None
        self._http = make_http_client() if http is None else http
        self._connections: weakref.WeakSet[HttpEventConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._closed = False

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> HttpResponse:
        """Return the complete response, whatever its status; raises NetworkError, ProtocolError if it is too large."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        content = None if body is None else json.dumps(body, separators=(",", ":"))
        if content is not None:
            headers["Content-Type"] = "application/json"
        address = self.url + path
        request = self._http.build_request(method, address, content=content, data=form, headers=headers, timeout=LIMITS)
        transfer = Transfer(len(content or ""))
        return self._wait(lambda: self._fetch(request, transfer, path), transfer)

    def subscribe(
        self, query: Mapping[str, str], token: str, secrets: Iterable[str], *, path: str = "/api/sync/subscribe"
    ) -> "HttpEventConnection":
        """Return the response to a subscription as soon as its headers have arrived.

        Raises NetworkError, ProtocolError for HTTP/2, and ServerError if the server has moved permanently.
        """
        limits: dict[str, float | None] = dict(STREAM_LIMITS)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Authorization": f"Bearer {token}"}
        request = self._http.build_request(
            "GET", self.url + path, params=query, headers=headers, extensions={"timeout": limits}
        )
        transfer = Transfer()

        def connect() -> HttpEventConnection:
            response = self._send(request)
            transfer.answered(response)
            limits["read"] = None  # httpx2 reads this again when the body starts
            problem = refused_stream(response, path, secrets)
            if problem is not None:
                response.close()
                raise problem
            return HttpEventConnection(response, secrets, redirect_of(response, path))

        connection = self._wait(connect, transfer, discard=lambda connection: connection.close())
        self._connections.add(connection)
        if self._closed:
            connection.close()
        return connection

    def close(self) -> None:
        """End all connections and waits; later requests raise NetworkError."""
        self._closed = True
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.join(CLOSING_SECONDS)
        if self._owned:
            self._http.close()

    def _wait(
        self, call: Callable[[], T], transfer: Transfer, discard: Callable[[T], object] = lambda result: None
    ) -> T:
        """Run the call in a thread; abandon it when the client is closed or the transfer is too slow."""
        began, over = time.monotonic(), threading.Event()
        future = start(call, discard=discard)
        future.add_done_callback(lambda _: over.set())
        with self._lock:
            self._calls.add(future)
        if self._closed:
            future.cancel()
        try:
            while not over.wait(transfer.seconds_left(time.monotonic() - began)):
                pass
            return future.result()
        except CancelledError:
            raise NetworkError("the client is closed") from None
        finally:
            if future.cancel() or future.cancelled():
                transfer.give_up()
            with self._lock:
                self._calls.discard(future)

    def _fetch(self, request: httpx2.Request, transfer: Transfer, path: str) -> HttpResponse:
        response = self._send(request)
        transfer.answered(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        try:
            return HttpResponse(response.status_code, headers, read_content(response), redirect_of(response, path))
        except httpx2.HTTPError as error:
            raise NetworkError(self._reason(error)) from None
        finally:
            response.close()

    def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as its headers have arrived."""
        if self._closed:
            raise NetworkError("the client is closed")
        try:
            return self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            # Not chained: the error references the request, which contains secrets.
            raise NetworkError(self._reason(error)) from None
        except RuntimeError:
            if self._closed or self._http.is_closed:
                raise NetworkError("the client is closed") from None
            raise

    def _reason(self, error: httpx2.HTTPError) -> str:
        """Return why no response arrived; the proxy of the environment is named, since it may be the cause."""
        url = httpx2.URL(self.url)
        proxy = proxy_for(url.scheme, url.host) if self._owned else ""
        return reason(error) + (f" (through the proxy {proxy})" if proxy else "")


class HttpEventConnection:
    """A response to a subscription, as EventConnection says; one thread reads, any thread may close."""

    def __init__(
        self, response: httpx2.Response, secrets: Iterable[str] = (), redirect: Redirect | None = None
    ) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._secrets = tuple(secrets)
        self._redirect = redirect
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = self._closed = False
        self._failure = ""
        self._thread = threading.Thread(target=self._receive, name="synckit-stream", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            response.close()
            raise NetworkError(f"cannot start a thread to read the stream: {error}") from None

    def read(self, timeout: float) -> bytes:
        """Return the next bytes, or b"" at the clean end; raises TimeoutError and NetworkError."""
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
        """Return the error message of a response that is not a stream, from what arrives within TEXT_SECONDS."""
        if self._redirect is not None:
            return self._redirect.message(self._secrets)
        content, until = b"", time.monotonic() + TEXT_SECONDS
        with contextlib.suppress(TimeoutError, NetworkError):
            while len(content) < MAX_TEXT_BYTES and (piece := self.read(max(0.0, until - time.monotonic()))):
                content += piece
        return error_message(self.status, content[:MAX_TEXT_BYTES], self._secrets)

    def close(self) -> None:
        """Shut the socket down; may be called more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        shut_down(self._response)

    def join(self, seconds: float) -> None:
        """Wait until the thread of a closed connection has ended."""
        self._thread.join(seconds)

    def _receive(self) -> None:
        try:
            for piece in self._response.iter_raw():
                if piece and not self._pass_on(piece):
                    break
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            self._failure = reason(error)
        except Exception as error:  # raised by a transport that is not part of httpx2
            self._failure = f"the connection broke ({type(error).__name__})"
        finally:
            with contextlib.suppress(Exception):
                self._response.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _pass_on(self, piece: bytes) -> bool:
        """Queue a chunk, waiting for room; return False if the connection was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._pieces) < MAX_CHUNKS)
            self._pieces.append(piece)
            self._changed.notify_all()
            return not self._closed


def shut_down(response: httpx2.Response) -> None:
    """Shut down the connection of a response, even while another thread reads from it."""
    stream = response.extensions.get("network_stream")
    raw = stream.get_extra_info("socket") if stream is not None else None
    if raw is not None:
        with contextlib.suppress(OSError):
            # The method of the plain socket: that of SSLSocket would discard the TLS state of the thread that reads.
            socket.socket.shutdown(raw, socket.SHUT_RDWR)


def reason(error: Exception) -> str:
    """Return why no response arrived; the text of most errors is left out, since it may quote the request."""
    detail = str(error) if isinstance(error, httpx2.ConnectError | httpx2.ProxyError) else ""
    return f"no answer from the server: {printable(detail) or type(error).__name__}"


def normalize_url(server_url: str, name: str = "server_url") -> str:
    """Return a URL without a slash or `/api/sync` at its end; raises ValueError with the name of the argument."""
    try:
        url = httpx2.URL(server_url)
    except (httpx2.InvalidURL, TypeError):
        raise ValueError(f"{name} must be an http or https URL, such as https://sync.example.org") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ValueError(
            f"{name} must be an http or https URL without user, query or fragment, such as https://sync.example.org"
        )
    return str(url).rstrip("/").removesuffix("/api/sync").rstrip("/")
