"""Streams that open and close in every way, and pushes that every open stream must receive.

    churn = Churn(server.port, key, size, counts)
    churn.step()           open some streams, close some, push, read; call it again and again
    churn.leave()          close all streams, push no more; until `churn.gone`
    counts                 what happened; none of FAULTS may be in it

Each user has at most one push in flight. Every stream that was open when it was sent must receive an event, or end, at
most RECEIVED_WITHIN seconds after the push was answered; streams that are closing are not counted. An event that comes
after a push was sent belongs to it, since all earlier pushes have been received.
"""

import random
import re
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from .load import Load, make_token, subscription
from .watch import backend_push, register_device

USERS = 50
PUSHES_PER_SECOND = 20
MAX_STAY_SECONDS = 20.0
RECEIVED_WITHIN = 6.0
"""5 s are promised in the worst case: one worker pushes while another worker's streams are being ended."""

LATE = 1.0
"""Events later than this are counted for the summary: the sweep repaired a lost notice."""

SLOWEST = "ms to the slowest"

WAYS = ("close", "reset", "half-close", "stop reading", "expire")
LINGER = 5.0
"""Seconds until a stream that half-closed or stopped reading closes."""

FAULTS = ("events lost", "pushes refused", "refused", "cut", "outlived its token")
"""Events that did not arrive; refused requests; a stream that was cut, or outlived its token."""

_BYE = re.compile(rb": bye (\w+)\n")
_RESET = struct.pack("ii", 1, 0)


class ClientStream:
    """One stream between its request and its end, which the client closes in one of WAYS."""

    __slots__ = ("_churn", "_head", "_last", "leaves_at", "leaving", "live", "sock", "user", "way")

    def __init__(self, churn: "Churn", user: str, sock: socket.socket, way: str, leaves_at: float) -> None:
        self.user = user
        self.sock = sock
        self.way = way
        self.leaves_at = leaves_at
        self.live = False
        self.leaving = False
        self._churn = churn
        self._head = b""
        self._last = b""

    def handle(self) -> None:
        """Read what has arrived."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._churn.ended(self, self._reason())
            return
        self._last = (self._last + data)[-100:]
        if not self.live and not self.leaving:
            self._begin(data)
        elif b"event: changed\n" in data:
            self._churn.received(self)

    def leave(self) -> None:
        """Close the stream, or begin to."""
        self.live = False
        if self.leaving or self.way in ("close", "reset"):
            self._churn.ended(self, self.way)
        elif self.way == "expire":
            self._churn.ended(self, "outlived its token")
        else:
            self.leaving = True
            self.leaves_at += LINGER
            self._churn.excuse(self)
            self._begin_to_leave()

    def _begin_to_leave(self) -> None:
        if self.way == "stop reading":
            self._churn.load.watch(self, 0)
            return
        with suppress(OSError):  # the server may have closed first
            self.sock.shutdown(socket.SHUT_WR)

    def _begin(self, data: bytes) -> None:
        self._head += data
        if b": connected\n\n" in self._head:
            self.live = True
            self._head = b""

    def _reason(self) -> str:
        if self._head and not self._head.startswith(b"HTTP/1.1 200 "):
            return "refused"
        bye = _BYE.search(self._last)
        if self._last.endswith(b"\r\n0\r\n\r\n"):
            return bye[1].decode() if bye else "ended"
        return self.way if self.leaving else "cut"


@dataclass(slots=True)
class Push:
    """A push in flight: when it was sent and answered, and which streams have not received its event."""

    sent_at: float
    missing: set[ClientStream]
    answered_at: float | None = None


class Churn:
    """All streams on one server, and their pushes; a context manager that closes everything."""

    def __init__(self, port: int, key: str, size: int, counters: Counter[str]) -> None:
        self.counters = counters
        self._port, self._key = port, key
        self._size = size
        self._dice = random.Random(size)
        self.load = Load(port, key)
        self._streams: set[ClientStream] = set()
        self._pushes: dict[str, Push] = {}
        self._push_at = 0.0
        tokens = {f"user-{n}": make_token(key, f"user-{n}") for n in range(USERS)}
        self._requests = {user: backend_push(token, register_device(port, token)) for user, token in tokens.items()}

    def __enter__(self) -> "Churn":
        return self

    def __exit__(self, *error: object) -> None:
        self.load.__exit__(*error)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def gone(self) -> bool:
        """Return whether all streams are closed and every push is settled."""
        return not self._streams and not self._pushes

    def step(self) -> None:
        """Open some streams, close some, push, and read."""
        now = time.monotonic()
        if len(self._streams) < self._size:
            self._open(now)
        if now >= self._push_at:
            self._push(now)
        self.listen(now)

    def listen(self, now: float) -> None:
        """Only close streams whose time is over, and read."""
        for stream in [stream for stream in self._streams if now >= stream.leaves_at]:
            stream.leave()
        self.load.poll(0.005)
        self._settle(now)

    def leave(self) -> None:
        """Close all streams now, each in its own way."""
        now = time.monotonic()
        for stream in self._streams:
            stream.leaves_at = min(stream.leaves_at, now)
            stream.way = "close" if stream.way == "expire" else stream.way

    def received(self, stream: ClientStream) -> None:
        """Count an event."""
        push = self._pushes.get(stream.user)
        if push is not None and stream in push.missing:
            push.missing.remove(stream)
            delay = time.monotonic() - push.sent_at
            self.counters[SLOWEST] = max(self.counters[SLOWEST], round(delay * 1000))
            self.counters["events"] += 1
            self.counters["late events"] += delay > LATE

    def ended(self, stream: ClientStream, reason: str) -> None:
        """Forget a stream that has ended or was closed."""
        self.counters[reason] += 1
        self.excuse(stream)
        self._streams.remove(stream)
        if reason == "reset":
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.load.forget(stream)

    def excuse(self, stream: ClientStream) -> None:
        """Do not expect the event of the push in flight on this stream any more."""
        push = self._pushes.get(stream.user)
        if push is not None:
            push.missing.discard(stream)

    def _open(self, now: float) -> None:
        user, way = self._dice.choice(list(self._requests)), self._dice.choice(WAYS)
        stay = self._dice.uniform(0.5, MAX_STAY_SECONDS)
        life = int(stay) + 5 if way == "expire" else 3600
        request = subscription(self._port, self._key, user, self.counters["opened"], life=life)
        leaves_at = now + (life + LINGER if way == "expire" else stay)
        stream = self.load.add(ClientStream(self, user, self.load.connect(), way, leaves_at))
        self._streams.add(stream)
        self.counters["opened"] += 1
        stream.sock.send(request)

    def _push(self, now: float) -> None:
        self._push_at = now + 1 / PUSHES_PER_SECOND
        user = self._dice.choice(list(self._requests))
        if user in self._pushes:
            return
        self._pushes[user] = Push(now, {stream for stream in self._streams if stream.user == user and stream.live})
        self.counters["pushes"] += 1
        self.load.call(self._requests[user], lambda caller, answer: self._answered(user, answer))

    def _answered(self, user: str, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.counters["pushes refused" if answer else "pushes cut"] += 1
        self._pushes[user].answered_at = time.monotonic()

    def _settle(self, now: float) -> None:
        for user, push in list(self._pushes.items()):
            if push.answered_at is not None and (not push.missing or now > push.answered_at + RECEIVED_WITHIN):
                self.counters["events lost"] += len(push.missing)
                del self._pushes[user]
