"""HTTP to one server: requests with their responses, and subscriptions with their bytes as they arrive.

In: an httpx2 client. Out: responses, and connections with a time limit for each read that can be closed at any moment.
httpx2 fixes the time limit of reads when the body starts, and `close()` waits for a read in progress. So a thread reads
without a limit and passes the bytes on, and closing shuts down the socket under it. "No bytes yet" is a TimeoutError;
every failure of the network is a NetworkError. Only the session may use this file; thread-safe.

Each request runs in a thread of its own, so that `close()` ends all waits at once, the cancellation of one call ends
its own (cancellable.py), and a response that arrives too slowly is abandoned. Its socket is shut down then. The size of
a response is bounded after decompression, its time by its size.
"""

import contextlib
import json
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import httpx2

from .cancellable import on_cancel, raise_if_cancelled, start
from .environment import make_http_client, proxy_for
from .errors import NetworkError
from .foreign_text import printable
from .responses import HttpResponse, Redirect, error_message, read_content, redirect_of, refused_stream
from .transfer import Transfer, shut_down

LIMITS = httpx2.Timeout(30.0, connect=10.0)
STREAM_LIMITS = {"connect": 10.0, "write": 10.0, "pool": 10.0, "read": 10.0}
"""`read` applies to the headers only: a stream may be silent, and its reader watches for silence."""

MAX_CHUNKS = 64
"""Upper bound of the chunks that wait for a busy reader; beyond it the thread stops reading."""

MAX_TEXT_BYTES, TEXT_SECONDS = 8192, 5.0
CLOSING_SECONDS = 1.0

T = TypeVar("T")


class HttpClient:
    """Sends requests to one server; `close` closes `http` only if it was made here."""

    def __init__(self, server_url: str, http: httpx2.Client | None) -> None:
        self.url = normalize_url(server_url)
        self._owned = http is None
        self._http = make_http_client() if http is None else http
        self._connections: weakref.WeakSet[HttpEventConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
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
        transfer = self._transfer(len(content or ""))
        request = self._http.build_request(
            method,
            address,
            content=content,
            data=form,
            headers=headers,
            timeout=LIMITS,
            extensions={"trace": transfer.trace},
        )
        return self._wait(lambda: self._fetch(request, transfer, path), transfer)

    def subscribe(
        self, query: Mapping[str, str], token: str, secrets: Iterable[str], *, path: str = "/api/sync/subscribe"
    ) -> "HttpEventConnection":
        """Return the response to a subscription as soon as its headers have arrived.

        Raises NetworkError, ProtocolError for HTTP/2, and ServerError if the server has moved permanently.
        """
        limits: dict[str, float | None] = dict(STREAM_LIMITS)
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Authorization": f"Bearer {token}"}
        transfer = self._transfer()
        extensions = {"timeout": limits, "trace": transfer.trace}
        request = self._http.build_request("GET", self.url + path, params=query, headers=headers, extensions=extensions)

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
            with self._lock:
                opened = list(self._opened)
            for stream in opened:
                shut_down(stream)
            self._http.close()

    def _transfer(self, sent: int = 0) -> Transfer:
        def opened(stream: Any) -> None:
            with self._lock:
                self._opened.add(stream)
            if self._closed and self._owned:
                shut_down(stream)

        return Transfer(opened, sent)

    def _wait(
        self, call: Callable[[], T], transfer: Transfer, discard: Callable[[T], object] = lambda result: None
    ) -> T:
        """Run the call in a thread; abandon it when it is cancelled or too slow, or when the client is closed."""
        raise_if_cancelled()
        began, over = time.monotonic(), threading.Event()
        future = start(call, discard=discard)
        future.add_done_callback(lambda _: over.set())
        with self._lock:
            self._calls.add(future)
        if self._closed:
            future.cancel()
        try:
            with on_cancel(future.cancel):
                while not over.wait(transfer.seconds_left(time.monotonic() - began)):
                    pass
            return future.result()
        except CancelledError:
            raise_if_cancelled()
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
        shut_down(self._response.extensions.get("network_stream"))

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
