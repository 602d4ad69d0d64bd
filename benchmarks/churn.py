"""Streams that come and go in every way, and pushes that each of those who stayed must hear.

    crowd = Crowd(server.port, key, size, counts)
    crowd.turn()           let some come and some go, push, listen; again and again
    crowd.leave()          all go, pushes end; until `crowd.gone`
    counts                 what happened; none of FAULTS may be in it

One push of a user is on its way at a time. Whoever was connected when it was sent must have a frame, or have ended, at
most HEARD_WITHIN seconds after its answer; those who have begun to leave are not asked. A frame that comes after a push
was sent counts as heard: all earlier ones have been.
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
HEARD_WITHIN = 6.0
"""The promise is 5 s in the worst case: a worker that pushed while another one's streams were being ended."""

LATE = 1.0
"""Heard later than this is counted, for the summary: it was the sweep that told, not the notice."""

SLOWEST = "ms to the slowest"

WAYS = ("close", "reset", "half-close", "go deaf", "expire")
LINGER = 5.0
"""How long those who half-closed or went deaf stay before they close."""

FAULTS = ("unheard", "pushes refused", "refused", "cut", "overstayed")
"""A push that somebody did not hear; requests refused; a stream that broke off, or outlived its token."""

_BYE = re.compile(rb": bye (\w+)\n")
_RESET = struct.pack("ii", 1, 0)


class Visitor:
    """One stream between its request and its end."""

    __slots__ = ("_crowd", "_head", "_last", "leaves_at", "leaving", "live", "sock", "user", "way")

    def __init__(self, crowd: "Crowd", user: str, sock: socket.socket, way: str, leaves_at: float) -> None:
        self.user = user
        self.sock = sock
        self.way = way
        self.leaves_at = leaves_at
        self.live = False
        self.leaving = False
        self._crowd = crowd
        self._head = b""
        self._last = b""

    def handle(self) -> None:
        """Take what has come."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._crowd.ended(self, self._reason())
            return
        self._last = (self._last + data)[-100:]
        if not self.live and not self.leaving:
            self._begin(data)
        elif b"event: changed\n" in data:
            self._crowd.heard(self)

    def leave(self) -> None:
        """Go, or begin to."""
        self.live = False
        if self.leaving or self.way in ("close", "reset"):
            self._crowd.ended(self, self.way)
        elif self.way == "expire":
            self._crowd.ended(self, "overstayed")
        else:
            self.leaving = True
            self.leaves_at += LINGER
            self._crowd.excuse(self)
            self._begin_to_leave()

    def _begin_to_leave(self) -> None:
        if self.way == "go deaf":
            self._crowd.load.watch(self, 0)
            return
        with suppress(OSError):  # the server may have been faster
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
    """A push on its way: when it was sent and answered, and who has not heard of it yet."""

    sent_at: float
    missing: set[Visitor]
    answered_at: float | None = None


class Crowd:
    """All visitors of one server, and those who push; a context manager that closes everything."""

    def __init__(self, port: int, key: str, size: int, counters: Counter[str]) -> None:
        self.counters = counters
        self._port, self._key = port, key
        self._size = size
        self._dice = random.Random(size)
        self.load = Load(port, key)
        self._visitors: set[Visitor] = set()
        self._pushes: dict[str, Push] = {}
        self._push_at = 0.0
        tokens = {f"user-{n}": make_token(key, f"user-{n}") for n in range(USERS)}
        self._requests = {user: backend_push(token, register_device(port, token)) for user, token in tokens.items()}

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *error: object) -> None:
        self.load.__exit__(*error)

    def __len__(self) -> int:
        return len(self._visitors)

    @property
    def gone(self) -> bool:
        """Return whether nobody is here any more and every push is settled."""
        return not self._visitors and not self._pushes

    def turn(self) -> None:
        """Let some come and some go, push, and listen."""
        now = time.monotonic()
        if len(self._visitors) < self._size:
            self._come(now)
        if now >= self._push_at:
            self._push(now)
        self.listen(now)

    def listen(self, now: float) -> None:
        """Only let go whose time it is, and listen."""
        for visitor in [visitor for visitor in self._visitors if now >= visitor.leaves_at]:
            visitor.leave()
        self.load.turn(0.005)
        self._settle(now)

    def leave(self) -> None:
        """Let all go now, each in its own way."""
        now = time.monotonic()
        for visitor in self._visitors:
            visitor.leaves_at = min(visitor.leaves_at, now)
            visitor.way = "close" if visitor.way == "expire" else visitor.way

    def heard(self, visitor: Visitor) -> None:
        """Count a frame."""
        push = self._pushes.get(visitor.user)
        if push is not None and visitor in push.missing:
            push.missing.remove(visitor)
            delay = time.monotonic() - push.sent_at
            self.counters[SLOWEST] = max(self.counters[SLOWEST], round(delay * 1000))
            self.counters["heard"] += 1
            self.counters["heard late"] += delay > LATE

    def ended(self, visitor: Visitor, reason: str) -> None:
        """Forget a visitor who has gone, or was let go."""
        self.counters[reason] += 1
        self.excuse(visitor)
        self._visitors.remove(visitor)
        if reason == "reset":
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.load.forget(visitor)

    def excuse(self, visitor: Visitor) -> None:
        """Ask no longer whether a visitor heard of the push on its way."""
        push = self._pushes.get(visitor.user)
        if push is not None:
            push.missing.discard(visitor)

    def _come(self, now: float) -> None:
        user, way = self._dice.choice(list(self._requests)), self._dice.choice(WAYS)
        stay = self._dice.uniform(0.5, MAX_STAY_SECONDS)
        life = int(stay) + 5 if way == "expire" else 3600
        request = subscription(self._port, self._key, user, self.counters["opened"], life=life)
        leaves_at = now + (life + LINGER if way == "expire" else stay)
        visitor = self.load.add(Visitor(self, user, self.load.connect(), way, leaves_at))
        self._visitors.add(visitor)
        self.counters["opened"] += 1
        visitor.sock.send(request)

    def _push(self, now: float) -> None:
        self._push_at = now + 1 / PUSHES_PER_SECOND
        user = self._dice.choice(list(self._requests))
        if user in self._pushes:
            return
        self._pushes[user] = Push(now, {visitor for visitor in self._visitors if visitor.user == user and visitor.live})
        self.counters["pushes"] += 1
        self.load.call(self._requests[user], lambda caller, answer: self._answered(user, answer))

    def _answered(self, user: str, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.counters["pushes refused" if answer else "pushes cut"] += 1
        self._pushes[user].answered_at = time.monotonic()

    def _settle(self, now: float) -> None:
        for user, push in list(self._pushes.items()):
            if push.answered_at is not None and (not push.missing or now > push.answered_at + HEARD_WITHIN):
                self.counters["unheard"] += len(push.missing)
                del self._pushes[user]
