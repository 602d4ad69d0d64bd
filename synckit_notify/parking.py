"""Streams without a greenlet: a socket, a few numbers, and one thread that writes for all of them (SYNCKIT_PARKING).

    gunicorn writes the head and the first frames ──▶ its socket is taken from it ──▶ its greenlet ends

    a push, an end ── ring ──┐
    the wheel: a deadline ───┼──▶ Stream.poll ──▶ write what fits ──▶ over? close
    room in the socket ──────┘

The rules are those of `stream`, the buffers those of `registry`; only the waiting is another. For plain HTTP/1.1 under
gunicorn's gevent worker; everything else keeps its generator. The last greenlet that came stays until the next one
comes or no stream is left: a stopping worker waits for its greenlets, and so for the parked streams' last bytes.
"""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from . import native, process
from .channel import End
from .peer import PeerWatch
from .periodic import Periodic
from .registry import Registry
from .stream import Stream

TICK_SECONDS = 0.25
"""How late a keepalive may be: the wheel's step."""

_LAST_CHUNK = b"0\r\n\r\n"


class Parked:
    """A stream, and the descriptor it is written to; -1 once that is closed."""

    __slots__ = ("number", "stream", "unsent")

    def __init__(self, stream: Stream, number: int) -> None:
        self.stream = stream
        self.number = number
        self.unsent = b""


class Wheel:
    """Who is to be looked at when, in steps of one tick: adding costs an append, and nothing is ever moved."""

    def __init__(self, tick: float, now: float) -> None:
        self._tick = tick
        self._next = int(now / tick)
        self._slots: dict[int, list[Parked]] = {}

    def add(self, parked: Parked, at: float) -> None:
        """Look at it in the first step that is not before this moment."""
        self._slots.setdefault(max(self._next, int(at / self._tick) + 1), []).append(parked)

    def due(self, now: float) -> list[Parked]:
        """Take out whom it is time for."""
        began, self._next = self._next, int(now / self._tick) + 1
        return [parked for step in range(began, self._next) for parked in self._slots.pop(step, ())]


def works_here() -> bool:
    """Whether this process's server lets go of a socket: gunicorn's gevent worker does."""
    worker = process.gunicorn_worker()
    return worker is not None and worker.cfg.worker_class_str == "gevent" and native.is_patched()


def can_park(environ: Mapping[str, Any], sock: socket.socket) -> bool:
    """Whether this request's connection can be written to without its server."""
    return not hasattr(sock, "unwrap") and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"


class Parking:
    """All parked streams of one process; `closed(stream)` is called when one has ended."""

    def __init__(self, registry: Registry, peers: PeerWatch, closed: Callable[[Stream], None], tick: float) -> None:
        self._registry = registry
        self._peers = peers
        self._closed = closed
        self._wheel = Wheel(tick, time.monotonic())
        self._due: list[Parked] = []
        self._look = threading.Event()
        self._streams = 0
        self._sentinel = _taken_lock()
        self._thread = Periodic("synckit-parking", tick, self._work, lambda: self._streams > 0, pause=self._pause)
        registry.ring = self.ring

    def frames_then_park(self, stream: Stream, sock: socket.socket) -> Iterator[bytes]:
        """Yield the first bytes, then take the socket from the server.

        Ends as if the connection broke, which makes a server forget it without writing the end of the body.
        """
        yield stream.poll(time.monotonic())
        if not stream.over:
            self._park(stream, sock)
            raise ConnectionResetError(errno.ECONNRESET, "the connection is served elsewhere")

    def ring(self, parked: list[Parked]) -> None:
        """Look at these soon. Called under the registry's lock: only remembers and wakes."""
        self._due += parked
        self._look.set()

    def _park(self, stream: Stream, sock: socket.socket) -> None:
        """Take over, and return when another stream has, or when none is left."""
        parked = Parked(stream, sock.detach())
        stream.writing = False
        mine = _taken_lock()
        self._let_sentinel_go(mine)
        self._streams += 1
        self._wheel.add(parked, stream.look_again)
        self._registry.park(stream.subscriber, parked)
        self._thread.ensure()
        mine.acquire()

    def _pause(self, seconds: float) -> None:
        self._look.wait(seconds)
        self._look.clear()

    def _work(self) -> None:
        now = time.monotonic()
        due, self._due = self._due, []
        for parked in due:
            self._turn(parked, now)
        for parked in self._wheel.due(now):
            if parked.number >= 0:
                self._turn(parked, now)
                self._wheel.add(parked, parked.stream.look_again)

    def _turn(self, parked: Parked, now: float) -> None:
        """Write what there is to write, and close what is over."""
        if parked.number < 0:
            return
        stream = parked.stream
        while parked.unsent or (stream.due(now) and not stream.over):
            if not parked.unsent:
                parked.unsent = _chunk(stream.poll(now)) + (_LAST_CHUNK if stream.over else b"")
            self._write(parked)
            if parked.unsent:  # its room is waited for; what comes meanwhile is buffered
                break
        end = stream.subscriber.end
        if (stream.over and not parked.unsent) or (end is not None and end.peer_is_gone):
            self._close(parked)

    def _write(self, parked: Parked) -> None:
        try:
            sent = os.write(parked.number, parked.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # whatever it was to end for: nothing can be written any more
            self._registry.end_one(parked.stream.subscriber, End.RESET)
            parked.unsent, parked.stream.over = b"", True
            return
        parked.unsent = parked.unsent[sent:]
        parked.stream.writing = bool(parked.unsent)
        if parked.unsent:
            self._peers.await_room(parked.number)

    def _close(self, parked: Parked) -> None:
        number, parked.number = parked.number, -1
        self._peers.forget(number, parked.stream.subscriber)
        os.close(number)
        self._streams -= 1
        if not self._streams:
            self._let_sentinel_go(_taken_lock())
        self._closed(parked.stream)

    def _let_sentinel_go(self, successor: threading.Lock) -> None:
        before, self._sentinel = self._sentinel, successor
        before.release()


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@lru_cache(maxsize=64)
def _chunk(data: bytes) -> bytes:
    """Return data in the chunked coding of the head that gunicorn wrote (RFC 9112 section 7.1); nothing for nothing."""
    return b"%X\r\n%b\r\n" % (len(data), data) if data else b""
