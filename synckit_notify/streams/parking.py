"""Parked streams: they have a socket and a few numbers, and one thread writes for all of them (SYNCKIT_PARKING).

    gunicorn writes the head and the first frames ──▶ its connection is taken from it ──▶ its greenlet ends

    a push, an end, a deadline, room in the socket ──▶ Wakeups ──▶ a wave: each stream once
                                                                        └──▶ Stream.advance ──▶ write ──▶ close

The rules are those of `stream`, the buffers those of `registry`; only the waiting differs. It works for plain HTTP/1.1
under gunicorn's gevent worker; everything else keeps its generator. One greenlet, the anchor, stays until another takes
its place or no stream is left: a stopping worker waits for its greenlets, and so for the parked streams' last bytes.
Nothing in a wave waits, logs or calls a host's code: that is done when the wave is over.
"""

import errno
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..runtime import gevent_compat
from ..runtime.background import Periodic
from ..runtime.logs import log
from .channel import EndReason, Subscriber
from .peers import PeerWatch
from .registry import Registry
from .stream import Deadline, Stream
from .timer_wheel import NEVER, round_up
from .wakeups import Wakeable

if TYPE_CHECKING:
    from socket import SocketType

REST_SECONDS = 1.0
"""How often the thread checks whether it is still needed; a push, an end or a deadline wakes it at once."""

TICK_SECONDS = 0.25
"""How late a keepalive may be: the deadlines of parked streams are rounded up to this, so that a wave has many."""

HANDOVER_SECONDS = 0.25
"""How often, at most, a new connection takes over from the greenlet that stays; a storm of connects needs no more."""

_LAST_CHUNK = b"0\r\n\r\n"


class ParkedStream(Stream):
    """A stream that is written to without a thread of its own, from the moment when its connection is taken."""

    __slots__ = ("unsent",)

    def __init__(self, subscriber: Subscriber, *, keepalive: float, ends: Deadline) -> None:
        super().__init__(subscriber, keepalive=keepalive, ends=ends)
        self.unsent = b""
        """What of its last bytes the socket had no room for."""

    def due(self, now: float, woken: list[Wakeable]) -> float:
        """Add the stream to `woken` if its deadline has come; return the next deadline, rounded up.

        A push moves the deadline and leaves the stream where it is in the wheel.
        """
        if self.socket is None:
            return NEVER
        at = self._last_bytes_at + self._keepalive
        if at <= now or self._ends_at <= now:
            woken.append(self)
            at = now + self._keepalive
        if now < self._ends_at < at:
            at = self._ends_at
        return round_up(at, TICK_SECONDS)


class Parking:
    """All parked streams of one process.

    `claim(stream)` takes over the duty to close a stream from its server. `ended(streams)` is called after a wave
    in which some have ended; call `left` once for each of them when it is closed.
    """

    def __init__(
        self,
        registry: Registry,
        peers: PeerWatch,
        claim: Callable[[Stream], bool],
        ended: Callable[[list[Stream]], object],
    ) -> None:
        self._registry = registry
        self._peers = peers
        self._claim = claim
        self._tell_ended = ended
        self._ended: list[Stream] = []
        self._errors: list[Exception] = []
        self._streams = 0
        self._anchor = _taken_lock()
        self._handover_at = -math.inf
        needed, pause = lambda: self._streams > 0, self._pause
        self._thread = Periodic("synckit-parking", REST_SECONDS, self._work, needed, pause=pause)

    def frames_then_park(self, stream: ParkedStream, sock: socket.socket) -> Iterator[bytes]:
        """Yield the first bytes, then take the connection from the server, which sees the end of the response.

        What it still writes fails as if the client had left, below the host's code, and it forgets the connection.
        """
        yield stream.poll(time.monotonic())
        if not stream.over and self._claim(stream):
            self._park(stream, sock)

    def left(self) -> None:
        """Count out a stream that was given to `ended`; with the last one the anchor's greenlet may end too."""
        self._streams -= 1
        if not self._streams:
            self._handover_at = -math.inf
            self._release_anchor(_taken_lock())

    def _park(self, stream: ParkedStream, sock: socket.socket) -> None:
        """Take the socket over. Now and then a new connection becomes the anchor, and its greenlet waits here."""
        stream.socket, stream.writing = _taken(sock), False
        self._streams += 1
        self._registry.timer.add(stream, round_up(stream.next_deadline, TICK_SECONDS))
        self._registry.park(stream.subscriber, stream)
        self._thread.ensure()
        if self._streams and (now := time.monotonic()) >= self._handover_at:
            self._handover_at = now + HANDOVER_SECONDS
            mine = _taken_lock()
            self._release_anchor(mine)
            mine.acquire()

    def _pause(self, seconds: float) -> None:
        """Sleep until a stream is woken or due. Without the timer's thread nobody tells of an earlier deadline."""
        timer = self._registry.timer
        self._registry.wakeups.wait(timer.seconds_left(seconds if timer.runs else TICK_SECONDS))

    def _work(self) -> None:
        self._registry.timer.turn()  # the timer's thread does so too, but its wake-up comes late in a busy worker
        woken = cast(list[ParkedStream], self._registry.wakeups.take())  # only this class gives streams to `park`
        try:
            self._turn(list(dict.fromkeys(woken)), time.monotonic())
        finally:
            self._hand_on()

    def _hand_on(self) -> None:
        """Hand on the ended streams and log the errors that the wave has collected."""
        ended, self._ended = self._ended, []
        errors, self._errors = self._errors, []
        if ended:
            self._tell_ended(ended)
        for error in errors:
            log.error("a parked stream failed and was disconnected", exc_info=error)

    def _turn(self, streams: list[ParkedStream], now: float) -> None:
        """Write to each stream and close those that are over; one whose socket has no room waits until it has."""
        free = [stream for stream in streams if not stream.unsent or self._has_room(stream)]
        speaking: list[ParkedStream] = []
        chunks: list[bytes] = []
        for stream, frames in zip(free, self._registry.take([stream.subscriber for stream in free]), strict=True):
            try:
                data = stream.advance(frames, now)
                if stream.over:
                    self._finish(stream, _chunk(data) + _LAST_CHUNK)
                elif data:
                    speaking.append(stream)
                    chunks.append(_chunk(data))
            except Exception as error:  # whatever it is, the other streams go on
                self._give_up(stream, error)
        for stream, chunk, sent in zip(speaking, chunks, _written(speaking, chunks), strict=True):
            if sent == len(chunk):
                stream.writing = False
            else:
                self._write(stream, chunk[sent:])

    def _has_room(self, stream: ParkedStream) -> bool:
        """Write the rest of an earlier chunk; return whether all of it was written."""
        end = stream.subscriber.end
        if end is not None and end.peer_is_gone:
            self._close(stream)
        else:
            self._write(stream, stream.unsent)
        return stream.socket is not None and not stream.unsent

    def _finish(self, stream: ParkedStream, chunk: bytes) -> None:
        """Write the last bytes, unless an earlier turn did."""
        if stream.socket is not None and not stream.unsent:
            self._write(stream, chunk)

    def _write(self, stream: ParkedStream, chunk: bytes) -> None:
        sent = _sent(stream.socket, chunk)
        if sent < 0:  # whatever the reason was: nothing can be written any more
            self._registry.end_one(stream.subscriber, EndReason.RESET)
            sent, stream.over = len(chunk), True
        stream.unsent = chunk[sent:]
        stream.writing = sent < len(chunk)
        if stream.writing:  # frames that come meanwhile are buffered
            self._peers.await_room(stream)
        elif stream.over:
            self._close(stream)

    def _give_up(self, stream: ParkedStream, error: Exception) -> None:
        self._errors.append(error)
        self._registry.end_one(stream.subscriber, EndReason.RESET)
        self._close(stream)

    def _close(self, stream: ParkedStream) -> None:
        """Close the connection; a second call does nothing."""
        sock = stream.socket
        if sock is not None:
            self._peers.forget(stream)
            stream.socket, stream.unsent = None, b""
            sock.close()
            self._ended.append(stream)

    def _release_anchor(self, successor: threading.Lock) -> None:
        before, self._anchor = self._anchor, successor
        before.release()


def _taken(sock: Any) -> "SocketType":
    """Take the connection out of a server's socket object, which from then on acts as if its client had left."""
    own, kind = gevent_compat.own_socket(sock.detach()), sock.__class__
    sock.__class__ = _left_behind(kind)
    return own


@lru_cache
def _left_behind(kind: type) -> type:
    """Return a socket class on which every write fails, with the error that servers do not log."""

    def fail(*_: object) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, "the connection was taken over by synckit_notify")

    return type("TakenSocket", (kind,), {"__slots__": (), "send": fail, "sendall": fail, "sendmsg": fail})


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _written(streams: list[ParkedStream], chunks: list[bytes]) -> list[int]:
    """Write a wave and return how much of each chunk was written, with nothing else in between.

    The kernel's code and ours would push each other out of the processor's caches.
    """
    sent = []
    for sock, chunk in zip([stream.socket for stream in streams], chunks, strict=True):
        try:
            sent.append(sock.send(chunk) if sock is not None else 0)
        except OSError:
            sent.append(0)
    return sent


def _sent(sock: "SocketType | None", chunk: bytes) -> int:
    """Write what fits and return how many bytes that were, -1 on a broken connection."""
    try:
        return sock.send(chunk) if sock is not None else -1
    except BlockingIOError:
        return 0
    except OSError:
        return -1


@lru_cache(maxsize=64)
def _chunk(data: bytes) -> bytes:
    """Return data in the chunked coding of the head that gunicorn wrote (RFC 9112 section 7.1); nothing for nothing."""
    return b"%X\r\n%b\r\n" % (len(data), data) if data else b""
