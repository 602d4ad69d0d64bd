"""The load generator: thousands of event streams and a few pushing connections on one epoll, one thread.

    load = Load(port, key)
    load.open(users, on_changed)    connect, until the first bytes `: connected` have come; distinct JWTs
    load.push(user)                 POST, without waiting for the answer
    load.turn(timeout)              read what is there: on_changed(stream, frames) for every read with frames in it

Sockets are raw and carry HTTP written by hand, so that the generator stays far below one core. Frames are counted by
their first line; should a read ever cut that line in two, a delivery would be missing and the run would say so.
Everything unexpected raises: an answer that is no 200, a stream that ends, silence.
"""

import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import jwt

APP = "bench"
AT_ONCE = 64
"""How many streams connect at the same time; far below every backlog."""

SOURCES = [f"127.0.0.{n}" for n in range(2, 10)]
"""With one address alone the kernel hunts for a free port ever longer, from some ten thousand streams on."""

SILENCE_SECONDS = 10.0
"""Nothing at all from the server for so long is a failure."""

_CHANGED = b"event: changed\n"
_CONNECTED = b": connected\n\n"
_BIND_ADDRESS_NO_PORT = 24  # ip(7); the port is chosen at connect, by both addresses
_READ = 4096  # sixteen buffered frames are 352 bytes


class Stream:
    """One open event stream of a user."""

    __slots__ = ("_head", "_load", "on_changed", "sock", "user")

    def __init__(self, load: "Load", user: str, sock: socket.socket, on_changed: "OnChanged") -> None:
        self.user = user
        self.sock = sock
        self.on_changed = on_changed
        self._load = load
        self._head: bytes | None = b""

    def read(self) -> None:
        """Take what has come: the head of the answer first, then frames."""
        data = self.sock.recv(_READ)
        if not data:
            raise RuntimeError(f"a stream of {self.user} ended: {self._head!r}")
        if self._head is not None:
            self._begin(data)
        elif frames := data.count(_CHANGED):
            self.on_changed(self, frames)

    def _begin(self, data: bytes) -> None:
        head = (self._head or b"") + data
        self._head = head
        if _CONNECTED in head:
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"the server refused a stream: {head!r}")
            self._head = None
            self._load.connected += 1


class Pusher:
    """One kept connection for pushes."""

    __slots__ = ("_load", "sock")

    def __init__(self, load: "Load", sock: socket.socket) -> None:
        self.sock = sock
        self._load = load

    def read(self) -> None:
        """Take an answer; from then on the connection is free again."""
        data = self.sock.recv(_READ)
        if not data.startswith(b"HTTP/1.1 204 "):
            raise RuntimeError(f"a push failed: {data!r}")
        self._load.idle_pushers.append(self)


OnChanged = Callable[[Stream, int], None]
End = TypeVar("End", Stream, Pusher)


class Load:
    """All connections of the generator to one server; a context manager that closes them."""

    def __init__(self, port: int, key: str) -> None:
        self.connected = 0
        self.idle_pushers: list[Pusher] = []
        self._address = ("127.0.0.1", port)
        self._key = key
        self._epoll = select.epoll()
        self._ends: dict[int, Stream | Pusher] = {}

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends.values():
            end.sock.close()
        self._epoll.close()

    def requests(self, users: Iterable[str], devices_each: int) -> list[tuple[str, bytes]]:
        """Return (user, request) for every device of every user; signing is no part of a measurement."""
        port, key = self._address[1], self._key
        return [(user, subscription(port, key, user, n)) for user in users for n in range(devices_each)]

    def open(self, requests: Sequence[tuple[str, bytes]], on_changed: OnChanged) -> None:
        """Open a stream for every request and return when all have received their first frame."""
        before = self.connected
        for started, (user, request) in enumerate(requests):
            stream = Stream(self, user, self._connect(), on_changed)
            self._add(stream)
            stream.sock.send(request)
            while started - (self.connected - before) >= AT_ONCE:
                self.turn(SILENCE_SECONDS, must_hear=True)
        while self.connected - before < len(requests):
            self.turn(SILENCE_SECONDS, must_hear=True)

    def push(self, user: str) -> None:
        """Send a push for a user on an idle connection, or on a new one."""
        pusher = self.idle_pushers.pop() if self.idle_pushers else self._add(Pusher(self, self._connect()))
        pusher.sock.send(f"POST /push/{APP}/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())

    def turn(self, timeout: float, *, must_hear: bool = False) -> None:
        """Read from everything that has something, waiting at most `timeout` seconds for the first."""
        ends = self._ends
        events = self._epoll.poll(timeout)
        if must_hear and not events:
            raise RuntimeError(f"nothing came from the server for {timeout:g} s")
        for descriptor, _ in events:
            ends[descriptor].read()

    def _connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((SOURCES[len(self._ends) % len(SOURCES)], 0))
        sock.connect(self._address)  # the kernel answers, however busy the server is: see AT_ONCE
        sock.setblocking(False)
        return sock

    def _add(self, end: End) -> End:
        self._ends[end.sock.fileno()] = end
        self._epoll.register(end.sock, select.EPOLLIN)
        return end


def subscription(port: int, key: str, user: str, device: int, query: str = "") -> bytes:
    """Return a request for a stream with a token of its own and the headers an HTTP client sends."""
    now = int(time.time())
    claims = {"sub": user, "app": APP, "device": f"device-{device}", "iat": now, "exp": now + 3600}
    token = jwt.encode(claims, key, algorithm="HS256")
    return (
        f"GET /api/sync/subscribe?app_id={APP}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        f"User-Agent: synckit-notify/0.1\r\nCache-Control: no-store\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
