"""The other end of a stream: seen at once when it goes, and bounded in its silence.

A WSGI server learns of a client's end only when it writes, one or two keepalives later. So one epoll of the process
watches the sockets of all streams for the peer's FIN or reset, and the kernel is told to give up on a peer that
acknowledges nothing. Linux only: elsewhere the next write tells, as before.

    watch ──▶ [the peer goes]      ──▶ wait returns ──▶ look names the stream and how it went
          └─▶ [the peer stops reading] ──▶ cut_stalled, asked every second, breaks the connection

The kernel and this file know a connection by its descriptor, a number that belongs to somebody else as soon as the
server has closed it. So a stream keeps the server's socket object, which knows whether it is closed, and nothing is
done to a number before that object has been asked.
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
"""How long sent bytes may stay unacknowledged, a closed window included: a peer that vanished, or one that stopped
reading and whose buffers are full, is gone so long after the next keepalive."""

SEND_BUFFER = 16 * 1024
"""Bytes; the kernel would grow it to 4 MB for each peer that does not read. Sixteen joined frames are 352 bytes."""

TCP_USER_TIMEOUT = 18  # tcp(7); not a constant of the socket module on every Python

# epoll_ctl(2); the select module has them on Linux only, and this file is read everywhere.
_OUT, _ERR, _HUP, _RDHUP, _ONESHOT = 0x004, 0x008, 0x010, 0x2000, 1 << 30


def set_socket_limits(sock: socket.socket) -> None:
    """Bound the send buffer, and how long sent data may stay unacknowledged."""
    with suppress(OSError):  # a Unix socket, or another system
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)


def shutdown_read(sock: "socket.SocketType") -> None:
    """Make the server's next read an end of file, so that it closes a connection it would keep for another request.

    Not for TLS: the peer would take it for an error of the protocol.
    """
    if not hasattr(sock, "unwrap"):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RD)


class PeerWatch:
    """Knows the sockets of all open streams of this process.

    Calls `gone(stream, how)` when a peer leaves, and `room(stream)` when one that was waited for reads again.
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
        """Begin for the stream's socket; a peer that has gone already is noticed too."""
        if stream.socket is None:
            return
        with self._lock:
            stream.number = stream.socket.fileno()
            self._watched[stream.number] = stream
            self._arm(stream.number, _RDHUP)

    def forget(self, stream: Stream) -> None:
        """End, whether the socket is still open or not; a second call does nothing."""
        with self._lock:
            if self._watched.get(stream.number) is not stream:
                return
            del self._watched[stream.number]
            if self._epoll is not None and _is_open(stream):
                with suppress(OSError):
                    self._epoll.unregister(stream.number)

    def await_room(self, stream: Stream) -> None:
        """Ring for a parked stream as soon as its socket takes bytes again."""
        with self._lock:
            self._arm(stream.number, _RDHUP | _OUT)

    def wait(self, seconds: float) -> None:
        """Sleep until a peer leaves, at most so long. Cooperative where gevent has patched `select`."""
        if self._epoll is None:
            time.sleep(seconds)
            return
        waiting = select.poll()
        waiting.register(self._epoll.fileno(), select.POLLIN)
        waiting.poll(seconds * 1000)

    def look(self) -> None:
        """Tell of every peer that has left since the last look, and of every socket that has room again."""
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
        """Break the connections of peers that read no more, so that whoever is writing to them gets an error."""
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
    """Return whether the number that the stream is watched under is still its own."""
    return stream.socket is not None and stream.socket.fileno() == stream.number


def _how(stream: Stream, mask: int) -> EndReason:
    """Return how the peer left.

    After a reset the error is taken from the socket, so that the server's next write fails as on any connection that
    is closed, whatever the error was: gunicorn logs a timeout of the connection (ETIMEDOUT) with a traceback.
    """
    if not mask & (_ERR | _HUP):
        return EndReason.CLOSED
    if stream.socket is not None:
        with suppress(OSError):
            stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return EndReason.RESET
