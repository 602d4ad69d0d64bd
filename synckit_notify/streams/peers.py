"""The peers: notice at once when a client disconnects, and disconnect one that stops reading.

A WSGI server notices that a client has left only when it writes, one or two keepalives later. So one epoll of the
process watches the sockets of all streams for the peer's FIN or reset, and the kernel is told to give up on a peer that
acknowledges nothing. Linux only: elsewhere the next write fails, as without this file.

    watch ──▶ [the peer leaves]        ──▶ wait returns ──▶ look reports the stream and how it ended
          └─▶ [the peer stops reading] ──▶ cut_stalled, called every second, breaks the connection

The kernel knows a connection by its descriptor, and that number may belong to another connection as soon as the server
has closed the first. So a stream keeps the server's socket object, which knows whether it is closed, and a number is
used only after that object was asked.
"""

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..runtime import gevent_compat
from .channel import EndReason
from .stream import STALL_SECONDS, Stream

SILENCE_MILLISECONDS = 20_000
"""How long sent bytes may stay unacknowledged, a closed window included (tcp(7), TCP_USER_TIMEOUT).

A peer that vanished, or stopped reading and has full buffers, is given up this long after the next keepalive.
"""

SEND_BUFFER = 16 * 1024
"""Bytes. The kernel would grow it to 4 MB for each peer that does not read; sixteen joined frames take 352 bytes."""

TCP_USER_TIMEOUT = 18  # tcp(7); not a constant of the socket module on every Python

# epoll_ctl(2); the select module has them on Linux only, and this file is read everywhere.
_OUT, _ERR, _HUP, _RDHUP, _ONESHOT = 0x004, 0x008, 0x010, 0x2000, 1 << 30


def set_socket_limits(sock: socket.socket) -> None:
    """Bound the send buffer, and how long sent data may stay unacknowledged."""
    with suppress(OSError):  # a Unix socket, or another system
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)


def shutdown_read(sock: "socket.SocketType") -> None:
    """Make the server's next read return an end of file, so that it closes a connection that it would keep alive.

    Not for TLS: the peer would see a protocol error.
    """
    if not hasattr(sock, "unwrap"):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RD)


class PeerWatch:
    """Knows the sockets of all open streams of this process.

    Calls `gone(stream, reason)` when a peer leaves, and `room(stream)` when an awaited socket can be written again.
    """

    def __init__(
        self, gone: Callable[[Stream, EndReason], object], room: Callable[[Stream], object] = lambda _: None
    ) -> None:
        self._gone = gone
        self._room = room
        self._epoll = gevent_compat.epoll()
        self._lock = threading.Lock()
        self._watched: dict[int, Stream] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, stream: Stream) -> None:
        """Start watching the stream's socket; a peer that has left already is noticed too."""
        if stream.socket is None:
            return
        with self._lock:
            stream.number = stream.socket.fileno()
            self._watched[stream.number] = stream
            self._arm(stream.number, _RDHUP)

    def forget(self, stream: Stream) -> None:
        """Stop watching, whether the socket is still open or not; a second call does nothing."""
        with self._lock:
            if self._watched.get(stream.number) is not stream:
                return
            del self._watched[stream.number]
            if self._epoll is not None and _is_open(stream):
                with suppress(OSError):
                    self._epoll.unregister(stream.number)

    def await_room(self, stream: Stream) -> None:
        """Call `room` once, as soon as the stream's socket can be written again."""
        with self._lock:
            self._arm(stream.number, _RDHUP | _OUT)

    def wait(self, seconds: float) -> None:
        """Sleep until a peer leaves, for `seconds` at most. Cooperative where gevent has patched `select`."""
        if self._epoll is None:
            time.sleep(seconds)
            return
        waiting = select.poll()
        waiting.register(self._epoll.fileno(), select.POLLIN)
        waiting.poll(seconds * 1000)

    def look(self) -> None:
        """Report every peer that has left since the last call, and every awaited socket that can be written again."""
        with self._lock:
            events = self._epoll.poll(0) if self._epoll is not None else []
            seen = [(self._watched.get(number), mask) for number, mask in events]
            for number, mask in events:
                if mask == _OUT:
                    self._arm(number, _RDHUP)
        for stream, mask in seen:
            if stream is not None and mask == _OUT:
                self._room(stream)
            elif stream is not None:
                self._gone(stream, _how(stream, mask))

    def cut_stalled(self, now: float, patience: float = STALL_SECONDS) -> None:
        """Break the connections of peers that have stopped reading, so that the blocked writer gets an error."""
        with self._lock:
            writing = [stream for stream in self._watched.values() if stream.writing]  # few of thousands
        for stream in writing:
            if stream.stalled(now, patience):
                self._gone(stream, EndReason.STALLED)
                if stream.socket is not None:
                    gevent_compat.shut_down(stream.socket)

    def _arm(self, number: int, mask: int) -> None:
        if self._epoll is None:
            return
        with suppress(OSError, ValueError):  # closed meanwhile: the first write will tell
            try:
                self._epoll.register(number, mask | _ONESHOT)
            except FileExistsError:
                self._epoll.modify(number, mask | _ONESHOT)


def _is_open(stream: Stream) -> bool:
    """Return whether the watched descriptor still belongs to the stream."""
    return stream.socket is not None and stream.socket.fileno() == stream.number


def _how(stream: Stream, mask: int) -> EndReason:
    """Return how the peer left; after a reset the server's next write fails as on any closed connection."""
    if not mask & (_ERR | _HUP):
        return EndReason.CLOSED
    stream.clear_error()
    return EndReason.RESET
