"""An attacker's connections: any number of them on one epoll, to the loopback only; responses are counted, not kept.

    connections = AttackConnections(port)
    connection = connections.open(b"GET / ...")     connects and sends, as fast as the server reads
    connection.send(data)                           sends more
    for connection in connections.poll(0.1): ...    those that were answered or closed meanwhile

A connection that the server closed is returned once by `poll`, with `open` false. Closing on this side is always a
reset, so that no port stays in use.
"""

import re
import select
import socket
import struct
from collections import Counter

SOURCES = [f"127.0.0.{n}" for n in range(10, 40)]
"""Other addresses than those of the well-behaved clients; enough of them that ports do not run out."""

_BIND_ADDRESS_NO_PORT = 24  # ip(7); the port is chosen at connect, by both addresses
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_RESET = struct.pack("ii", 1, 0)
_READ = 65536


class Connection:
    """One connection; `answers` is the number of response heads in the last poll. One that is `deaf` never reads."""

    __slots__ = ("_all", "answers", "deaf", "open", "sock", "unsent")

    def __init__(self, connections: "AttackConnections", sock: socket.socket, deaf: bool) -> None:
        self.sock = sock
        self.deaf = deaf
        self.open = True
        self.answers = 0
        self.unsent = b""
        self._all = connections

    def send(self, data: bytes) -> None:
        """Send now what the server takes, and the rest later."""
        self.unsent += data
        self._all.watch(self)

    def reset(self) -> None:
        """Reset the connection."""
        if self.open:
            self._all.forget(self)


class AttackConnections:
    """All connections of one attack; a context manager that resets them."""

    def __init__(self, port: int) -> None:
        self.opened = 0
        self.sent_bytes = 0
        self.closed_on = 0
        self.answers: Counter[str] = Counter()
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}

    def __enter__(self) -> "AttackConnections":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self._connections.values()):
            connection.reset()
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._connections)

    def open(self, data: bytes, *, deaf: bool = False) -> Connection:
        """Connect without waiting for the server, and send."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the smallest one: soon full
        sock.bind((SOURCES[self.opened % len(SOURCES)], 0))
        sock.connect_ex(self._address)
        self.opened += 1
        connection = Connection(self, sock, deaf)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock)
        connection.send(data)
        return connection

    def poll(self, seconds: float) -> list[Connection]:
        """Send and receive; return the connections that were answered or closed."""
        seen = []
        for descriptor, events in self._epoll.poll(seconds):
            connection = self._connections[descriptor]
            connection.answers = 0
            try:
                self._handle(connection, events)
            except OSError:  # refused, reset
                self._closed(connection)
            if connection.answers or not connection.open:
                seen.append(connection)
        return seen

    def watch(self, connection: Connection) -> None:
        """Wait for the events that a connection needs now."""
        events = (0 if connection.deaf else select.EPOLLIN) | (select.EPOLLOUT if connection.unsent else 0)
        self._epoll.modify(connection.sock, events)

    def forget(self, connection: Connection) -> None:
        """Close a connection on this side."""
        connection.open = False
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def _handle(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT and connection.unsent:
            sent = connection.sock.send(connection.unsent)
            self.sent_bytes += sent
            connection.unsent = connection.unsent[sent:]
            if not connection.unsent:
                self.watch(connection)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            data = connection.sock.recv(_READ)
            if not data:
                self._closed(connection)
            for status in _STATUS.findall(data):
                self.answers[status.decode()] += 1
                connection.answers += 1

    def _closed(self, connection: Connection) -> None:
        if connection.open:
            self.closed_on += 1
            self.forget(connection)
