"""One GET of a small JSON document: with a deadline, a limit of size, and no redirect to another origin.

It blocks its thread, so under gevent it runs in a native one. There it must not touch what gevent has patched, which
would make a second hub: the socket is the kernel's, and TLS runs in memory. Nothing is read from the environment but
the certificate authorities (SSL_CERT_FILE); there is no proxy.
"""

import ipaddress
import ssl
import time
from _socket import SOCK_STREAM, getaddrinfo  # those of the module socket may be gevent's
from _socket import socket as KernelSocket
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from io import BufferedReader, RawIOBase
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

MAX_SECONDS = 5.0
"""For one download in all, redirects included. Only the system's name resolution may take longer."""

MAX_BYTES = 256 * 1024
MAX_REDIRECTS = 3

_DEFAULT_PORTS = {"http": 80, "https": 443}
_REQUEST = (
    "GET {target} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    "Accept: application/jwk-set+json, application/json\r\n"
    "Accept-Encoding: identity\r\n"
    "User-Agent: synckit-notify\r\n"
    "Connection: close\r\n\r\n"
)


class DownloadFailed(Exception):
    """Nothing usable came; the message says why, without the URL."""


def check_url(url: str) -> str:
    """Return the URL; raises ValueError with the rule that it breaks."""
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname:
        raise ValueError("must be a URL of printable ASCII characters with a host name")
    if parts.username is not None or parts.fragment:
        raise ValueError("must not contain a user name or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError("must be an https URL; http is accepted for a loopback address only")
    return url


def download(url: str, *, clock: Callable[[], float] = time.monotonic) -> bytes:
    """Return the body of a 200 answer; raises DownloadFailed."""
    deadline = _Deadline(clock)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            body, location = _get(urlsplit(url), deadline)
            if location is None:
                return body
            url = _redirected(url, location)
    except TimeoutError as error:
        raise DownloadFailed(f"no complete answer came in {MAX_SECONDS:g} s") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadFailed(f"{type(error).__name__}: {error}"[:200]) from error
    raise DownloadFailed(f"it redirects more than {MAX_REDIRECTS} times")


def _redirected(url: str, location: str) -> str:
    """Return the target of a redirect; raises DownloadFailed for one that may not be followed."""
    try:
        target = check_url(urljoin(url, location))
    except ValueError as error:
        raise DownloadFailed(f"it redirects to a URL that {error}") from error
    if _origin(urlsplit(target)) != _origin(urlsplit(url)):
        raise DownloadFailed("it redirects to another origin")
    return target


class _Deadline:
    """The moment when a download has failed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock() + MAX_SECONDS

    def seconds_left(self) -> float:
        """Return the time left, in seconds; raises TimeoutError when there is none."""
        left = self._at - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


def _get(parts: SplitResult, deadline: _Deadline) -> tuple[bytes, str | None]:
    """Return the body of a 200 answer, or the target of a redirect."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with _Connection(_connected(str(parts.hostname), _port(parts), deadline), deadline) as connection:
        if parts.scheme == "https":
            connection.start_tls(str(parts.hostname))
        connection.send(_REQUEST.format(target=target, host=parts.netloc).encode())
        with HTTPResponse(connection) as response:  # type: ignore[arg-type]  # it needs only makefile
            response.begin()
            if response.status in (301, 302, 303, 307, 308):
                return b"", response.headers.get("Location", "")
            if response.status != 200:
                raise DownloadFailed(f"it answers {response.status}")
            return _body(response), None


def _body(response: HTTPResponse) -> bytes:
    body = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise DownloadFailed(f"it has more than {MAX_BYTES // 1024} KiB")
    if response.length:
        raise DownloadFailed("the answer was cut")
    return body


class _Connection(RawIOBase):
    """A connection that http.client reads an answer from; every wait ends at the deadline."""

    def __init__(self, sock: KernelSocket, deadline: _Deadline) -> None:
        self._socket = sock
        self._deadline = deadline
        self._tls: ssl.SSLObject | None = None

    def start_tls(self, host: str) -> None:
        """Speak TLS from here on, with a server whose certificate names the host."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._run(tls.do_handshake)
        self._tls = tls

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        if self._tls is None:
            self._send_bytes(data)
        else:
            tls = self._tls
            self._run(lambda: tls.write(data))

    def makefile(self, mode: str) -> BufferedReader:
        """Return a reader of what the server sends."""
        return BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._tls is None:
            self._socket.settimeout(self._deadline.seconds_left())
            return self._socket.recv_into(buffer)
        tls = self._tls
        try:
            data = self._run(lambda: tls.read(len(buffer)))
        except ssl.SSLZeroReturnError:
            return 0
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._socket.close()
        super().close()

    def _run(self, step: Callable[[], Any]) -> Any:
        """Return what a step of TLS returns, once its bytes have come and gone."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send_bytes(self._outgoing.read())
                self._receive()
            else:
                self._send_bytes(self._outgoing.read())
                return result

    def _receive(self) -> None:
        self._socket.settimeout(self._deadline.seconds_left())
        data = self._socket.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _send_bytes(self, data: bytes) -> None:
        if data:
            self._socket.settimeout(self._deadline.seconds_left())
            self._socket.sendall(data)


def _connected(host: str, port: int, deadline: _Deadline) -> KernelSocket:
    """Return a socket connected to the first address that answers; each gets its share of the time."""
    addresses = getaddrinfo(host, port, 0, SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        last = number == len(addresses) - 1
        sock = KernelSocket(family, kind, protocol)
        try:
            sock.settimeout(deadline.seconds_left() / (len(addresses) - number))
            sock.connect(address)
        except OSError:
            sock.close()
            if last:
                raise
        else:
            return sock
    raise OSError("the host name has no address")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _port(parts: SplitResult) -> int:
    return parts.port or _DEFAULT_PORTS[parts.scheme]


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, _port(parts)
