"""The load generator: thousands of event streams and a few pushing connections on one epoll, one thread.

    load = Load(port, key)
    load.open(requests, on_changed)   connect, until the first bytes `: connected` have come; distinct JWTs
    load.push(user)                   POST on a kept connection, without waiting for the answer
    load.call(request, on_answer)     any other request, on a connection of its own
    load.turn(timeout)                read what is there: on_changed(stream, frames) for every read with frames in it

Sockets are raw and carry HTTP written by hand, so that the generator stays far below one core. Frames are counted by
their first line; should a read ever cut that line in two, a delivery would be missing and the run would say so.
Everything unexpected raises: an answer that is no 200, a stream that ends, silence.
"""

import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import jwt

APP = "bench"
AT_ONCE = 64
"""How many streams connect at the same time; far below every backlog."""

SOURCES = [f"127.0.0.{n}" for n in range(2, 10)]
"""With one address alone the kernel hunts for a free port ever longer, from some ten thousand streams on."""

SILENCE_SECONDS = 10.0
"""Nothing at all from the server for so long is a failure."""

_CHANGED = b"event: changed\n"
_KEEPALIVE = b": keepalive\n"
_CONNECTED = b": connected\n\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_BIND_ADDRESS_NO_PORT = 24  # ip(7); the port is chosen at connect, by both addresses
_READ = 4096  # sixteen buffered frames are 352 bytes


class Stream:
    """One open event stream of a user."""

    __slots__ = ("_head", "_load", "on_changed", "on_keepalive", "sock", "user")

    def __init__(
        self, load: "Load", user: str, sock: socket.socket, on_changed: "OnChanged", on_keepalive: "OnKeepalive"
    ) -> None:
        self.user = user
        self.sock = sock
        self.on_changed = on_changed
        self.on_keepalive = on_keepalive
        self._load = load
        self._head: bytes | None = b""

    def handle(self) -> None:
        """Take what has come: the head of the answer first, then frames."""
        data = self.sock.recv(_READ)
        if not data:
            raise RuntimeError(f"a stream of {self.user} ended: {self._head!r}")
        if self._head is not None:
            self._begin(data)
            return
        if frames := data.count(_CHANGED):
            self.on_changed(self, frames)
        if _KEEPALIVE in data:
            self.on_keepalive(self)

    def _begin(self, data: bytes) -> None:
        head = (self._head or b"") + data
        self._head = head
        if _CONNECTED in head:
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"the server refused a stream: {head!r}")
            self._head = None
            self._load.connected += 1


class Caller:
    """One connection for requests that are answered at once, one after the other."""

    __slots__ = ("_answer", "_load", "_on_answer", "_unsent", "sock")

    def __init__(self, load: "Load", sock: socket.socket) -> None:
        self.sock = sock
        self._load = load
        self._unsent = self._answer = b""
        self._on_answer: OnAnswer | None = None

    def send(self, request: bytes, on_answer: "OnAnswer") -> None:
        """Send as soon as the connection allows; `on_answer(caller, answer)` when all of it has come, or it broke."""
        self._unsent, self._answer, self._on_answer = request, b"", on_answer
        self._load.watch(self, select.EPOLLIN | select.EPOLLOUT)

    def handle(self) -> None:
        """Send, or take a part of the answer."""
        if self._unsent:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
            if not self._unsent:
                self._load.watch(self, select.EPOLLIN)
            return
        try:
            data = self.sock.recv(_READ)
        except OSError:
            data = b""
        self._answer += data
        if self._on_answer is None:  # closed after gunicorn's keep-alive time
            self._load.forget(self)
        elif not data or self._is_complete():
            on_answer, self._on_answer = self._on_answer, None
            on_answer(self, self._answer)

    def _is_complete(self) -> bool:
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        return bool(end) and len(body) >= (int(length[1]) if length else 0)


class EndReason(Protocol):
    """Anything with a connection of its own; `handle` is called when the connection has what the end waits for."""

    sock: socket.socket

    def handle(self) -> None: ...


OnChanged = Callable[[Stream, int], None]
OnKeepalive = Callable[[Stream], None]
OnAnswer = Callable[[Caller, bytes], None]
AnyEnd = TypeVar("AnyEnd", bound=EndReason)


def ignore(*_: object) -> None:
    """Nobody waits for this."""


def bare_push(user: str) -> bytes:
    """A push to the bare host."""
    return f"POST /push/{APP}/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()


class Load:
    """All connections of the generator to one server; a context manager that closes them."""

    def __init__(self, port: int, key: str, push_of: Callable[[str], bytes] = bare_push) -> None:
        self.connected = 0
        self._idle_pushers: list[Caller] = []
        self._address = ("127.0.0.1", port)
        self._key = key
        self._push_of = push_of
        self._epoll = select.epoll()
        self._ends: dict[int, EndReason] = {}

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

    def open(
        self, requests: Sequence[tuple[str, bytes]], on_changed: OnChanged, on_keepalive: OnKeepalive = ignore
    ) -> None:
        """Open a stream for every request and return when all have received their first frame."""
        before = self.connected
        for started, (user, request) in enumerate(requests):
            stream = self.add(Stream(self, user, self.connect(), on_changed, on_keepalive))
            stream.sock.send(request)
            while started - (self.connected - before) >= AT_ONCE:
                self.turn(SILENCE_SECONDS, must_hear=True)
        while self.connected - before < len(requests):
            self.turn(SILENCE_SECONDS, must_hear=True)

    def push(self, user: str) -> None:
        """Send a push for a user on an idle connection, or on a new one."""
        pusher = self._idle_pushers.pop() if self._idle_pushers else self.add(Caller(self, self.connect()))
        pusher.send(self._push_of(user), self._pushed)

    def call(self, request: bytes, on_answer: OnAnswer) -> None:
        """Send a request on a new connection, which is closed when the answer has come."""

        def answered(caller: Caller, answer: bytes) -> None:
            self.forget(caller)
            on_answer(caller, answer)

        self.add(Caller(self, self.connect())).send(request, answered)

    def connect(self) -> socket.socket:
        """Return a connection, without waiting for it."""
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((SOURCES[len(self._ends) % len(SOURCES)], 0))
        sock.setblocking(False)
        sock.connect_ex(self._address)  # done at once by the kernel, unless the server's backlog is full: see AT_ONCE
        return sock

    def add(self, end: AnyEnd) -> AnyEnd:
        """Look after an end from now on."""
        self._ends[end.sock.fileno()] = end
        self._epoll.register(end.sock, select.EPOLLIN)
        return end

    def forget(self, end: EndReason) -> None:
        """Close an end's connection."""
        del self._ends[end.sock.fileno()]
        end.sock.close()
        if end in self._idle_pushers:
            self._idle_pushers.remove(end)

    def watch(self, end: EndReason, events: int) -> None:
        """Tell what an end waits for."""
        self._epoll.modify(end.sock, events)

    def turn(self, timeout: float, *, must_hear: bool = False) -> None:
        """Read from everything that has something, waiting at most `timeout` seconds for the first."""
        ends = self._ends
        events = self._epoll.poll(timeout)
        if must_hear and not events:
            raise RuntimeError(f"nothing came from the server for {timeout:g} s")
        for descriptor, _ in events:
            if (end := ends.get(descriptor)) is not None:  # an end may have closed another's connection
                end.handle()

    def _pushed(self, pusher: Caller, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"a push failed: {answer!r}")
        self._idle_pushers.append(pusher)


def subscription(port: int, key: str, user: str, device: int, query: str = "", *, life: int = 3600) -> bytes:
    """Return a request for a stream with a token of its own and the headers an HTTP client sends."""
    return (
        f"GET /api/sync/subscribe?app_id={APP}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        "User-Agent: synckit-notify/0.1\r\nCache-Control: no-store\r\n"
        f"Authorization: Bearer {make_token(key, user, f'device-{device}', life=life)}\r\n\r\n"
    ).encode()


def make_token(key: str, user: str, device: str | None = None, *, life: int = 3600) -> str:
    """Return a token that counts, unless its life is over already."""
    now = int(time.time())
    claims = {"sub": user, "app": APP, "iat": now, "exp": now + life} | ({"device": device} if device else {})
    return jwt.encode(claims, key, algorithm="HS256")
