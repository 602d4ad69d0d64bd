"""A load generator in Python: thousands of event streams and a few pushing connections on one epoll, one thread.

    load = Load(port, key)
    load.open(requests, on_changed)   connect, and wait for `: connected` on every stream
    load.push(user)                   POST on a kept connection, without waiting for the response
    load.call(request, on_answer)     any other request, on a connection of its own
    load.poll(timeout)                read; on_changed(stream, frames) is called for every read with frames

It writes HTTP to raw sockets, so it needs far less than one core. Frames are counted by their first line; if a read cut
that line in two, a delivery would be missing and the run would report it. Everything unexpected raises RuntimeError: a
response other than 200, a stream that clients, a silent server.
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
"""The maximum of connects in flight, far below every backlog."""

SOURCES = [f"127.0.0.{n}" for n in range(2, 10)]
"""With a single address, from about ten thousand streams on, the kernel takes longer and longer to find a free port."""

REUSE_SECONDS = 1.0
"""An idle connection is used again within this time: the server closes it after two, and would not answer."""

SILENCE_SECONDS = 10.0
"""A server that sends nothing for so long has failed."""

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
        """Read what has arrived: first the head of the response, then frames."""
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
    """One connection for ordinary requests, one after the other."""

    __slots__ = ("_answer", "_load", "_on_answer", "_unsent", "sock")

    def __init__(self, load: "Load", sock: socket.socket) -> None:
        self.sock = sock
        self._load = load
        self._unsent = self._answer = b""
        self._on_answer: OnAnswer | None = None

    def send(self, request: bytes, on_answer: "OnAnswer") -> None:
        """Send a request; `on_answer(caller, answer)` is called with the response, incomplete if cut."""
        self._unsent, self._answer, self._on_answer = request, b"", on_answer
        self._load.watch(self, select.EPOLLIN | select.EPOLLOUT)

    def handle(self) -> None:
        """Send, or read a part of the response."""
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
        if self._on_answer is None:  # closed by gunicorn after its keep-alive time
            self._load.forget(self)
        elif not data or self._is_complete():
            on_answer, self._on_answer = self._on_answer, None
            on_answer(self, self._answer)

    def _is_complete(self) -> bool:
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        return bool(end) and len(body) >= (int(length[1]) if length else 0)


class Client(Protocol):
    """Anything with a connection of its own; `handle` is called when the connection is ready."""

    sock: socket.socket

    def handle(self) -> None: ...


OnChanged = Callable[[Stream, int], None]
OnKeepalive = Callable[[Stream], None]
OnAnswer = Callable[[Caller, bytes], None]
AnyClient = TypeVar("AnyClient", bound=Client)


def ignore(*_: object) -> None:
    """Do nothing."""


def bare_push(user: str) -> bytes:
    """Return a push to the minimal application."""
    return f"POST /push/{APP}/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()


class Load:
    """All connections to one server; a context manager that closes them."""

    def __init__(self, port: int, key: str, push_of: Callable[[str], bytes] = bare_push) -> None:
        self.connected = 0
        self._idle_pushers: dict[Caller, float] = {}
        self._address = ("127.0.0.1", port)
        self._key = key
        self._push_of = push_of
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.sock.close()
        self._epoll.close()

    def requests(self, users: Iterable[str], devices_each: int) -> list[tuple[str, bytes]]:
        """Return (user, request) for every device of every user, each with a signed token."""
        port, key = self._address[1], self._key
        return [(user, subscription(port, key, user, n)) for user in users for n in range(devices_each)]

    def open(
        self, requests: Sequence[tuple[str, bytes]], on_changed: OnChanged, on_keepalive: OnKeepalive = ignore
    ) -> None:
        """Open a stream for every request, and return when all have received their first frame."""
        before = self.connected
        for started, (user, request) in enumerate(requests):
            stream = self.add(Stream(self, user, self.connect(), on_changed, on_keepalive))
            stream.sock.send(request)
            while started - (self.connected - before) >= AT_ONCE:
                self.poll(SILENCE_SECONDS, must_hear=True)
        while self.connected - before < len(requests):
            self.poll(SILENCE_SECONDS, must_hear=True)

    def push(self, user: str) -> None:
        """Push to a user on an idle connection, or on a new one."""
        self._pusher().send(self._push_of(user), self._pushed)

    def call(self, request: bytes, on_answer: OnAnswer) -> None:
        """Send a request on a new connection, which is closed after the response."""

        def answered(caller: Caller, answer: bytes) -> None:
            self.forget(caller)
            on_answer(caller, answer)

        self.add(Caller(self, self.connect())).send(request, answered)

    def connect(self) -> socket.socket:
        """Return a connection without waiting until it is established."""
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((SOURCES[len(self._clients) % len(SOURCES)], 0))
        sock.setblocking(False)
        sock.connect_ex(self._address)  # at once, unless the server's backlog is full: see AT_ONCE
        return sock

    def add(self, client: AnyClient) -> AnyClient:
        """Poll a client's connection from now on."""
        self._clients[client.sock.fileno()] = client
        self._epoll.register(client.sock, select.EPOLLIN)
        return client

    def forget(self, client: Client) -> None:
        """Close a client's connection."""
        del self._clients[client.sock.fileno()]
        client.sock.close()
        if isinstance(client, Caller):
            self._idle_pushers.pop(client, None)

    def watch(self, client: Client, events: int) -> None:
        """Set the events that a client waits for."""
        self._epoll.modify(client.sock, events)

    def poll(self, timeout: float, *, must_hear: bool = False) -> None:
        """Let every ready client handle its connection; wait at most `timeout` seconds for the first."""
        clients = self._clients
        events = self._epoll.poll(timeout)
        if must_hear and not events:
            raise RuntimeError(f"the server sent nothing for {timeout:g} s")
        for descriptor, _ in events:
            if (client := clients.get(descriptor)) is not None:  # one client may have closed another's connection
                client.handle()

    def _pusher(self) -> Caller:
        """Return a connection for a push; close those that have been idle for too long."""
        while self._idle_pushers:
            pusher, idle_since = self._idle_pushers.popitem()
            if time.perf_counter() - idle_since <= REUSE_SECONDS:
                return pusher
            self.forget(pusher)
        return self.add(Caller(self, self.connect()))

    def _pushed(self, pusher: Caller, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"a push failed: {answer!r}")
        self._idle_pushers[pusher] = time.perf_counter()


def subscription(port: int, key: str, user: str, device: int, query: str = "", *, life: int = 3600) -> bytes:
    """Return a request for a stream, with its own token and the headers that an HTTP client sends."""
    return (
        f"GET /api/sync/subscribe?app_id={APP}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        "User-Agent: synckit-notify/0.1\r\nCache-Control: no-store\r\n"
        f"Authorization: Bearer {make_token(key, user, f'device-{device}', life=life)}\r\n\r\n"
    ).encode()


def make_token(key: str, user: str, device: str | None = None, *, life: int = 3600) -> str:
    """Return a valid token; an expired one if `life` is negative."""
    now = int(time.time())
    claims = {"sub": user, "app": APP, "iat": now, "exp": now + life} | ({"device": device} if device else {})
    return jwt.encode(claims, key, algorithm="HS256")
