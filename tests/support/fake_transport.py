"""A session that follows a script, and a clock that only advances when something waits: no network, no real time.

A story is a list of answers, one for each `connect()`; a stream is a list of bytes, pauses and ends:

    Story(RejectWith(503, retry_after=7), RefuseConnection(), StreamOf(CONNECTED, Silence(80), CHANGED))

A stream stays silent after its script. A connect without an answer in the script raises ScriptOver.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from synckit_notify import sse
from synckit_notify.client.errors import NetworkError, NotAuthenticated
from synckit_notify.client.stream import EventConnection, SyncNotifyStream

CONNECTED, CHANGED, KEEPALIVE = sse.CONNECTED, sse.CHANGED, sse.KEEPALIVE
EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8", "synckit-keepalive": "30"}


class ScriptOver(AssertionError):
    """The client made a request that is not in the script."""


class FakeClock:
    """A monotonic clock and the time of day; both only advance by waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wall = 1_800_000_000.0
        self.nap = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        """Let time pass; a `nap` that was set is added to the time of day."""
        self.now += seconds
        self.wall += seconds + self.nap
        self.nap = 0.0

    def sleep_machine(self, seconds: float) -> None:
        """Let the machine sleep: the monotonic clock stops, the time of day goes on."""
        self.wall += seconds


# What may happen to a connect.


class RefuseConnection:
    """The connection is refused."""


@dataclass
class AnswerNothing:
    """The server accepts the connection and sends no headers before the session's timeout."""

    seconds: float = 10.0


class HaveNoToken:
    """The session has no token at all."""


@dataclass
class RejectWith:
    """An answer that is not a stream."""

    status: int
    words: str = ""
    retry_after: int | str | None = None
    date: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        named = {"retry-after": self.retry_after, "date": self.date}
        return {name: str(value) for name, value in named.items() if value is not None}


class StreamOf:
    """A 200 with these pieces: bytes, Silence, EndCleanly, BreakOff, MachineSleeps."""

    status = 200

    def __init__(self, *pieces: object, **headers: str | None) -> None:
        self.pieces = pieces
        named = EVENT_STREAM | {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers = {name: value for name, value in named.items() if value is not None}


class HoldBack(StreamOf):
    """A proxy passes the headers and buffers the body."""


# What may happen in a stream.


@dataclass
class Silence:
    seconds: float


class EndCleanly:
    """The body ends cleanly."""


class BreakOff:
    """The connection breaks."""


@dataclass
class MachineSleeps:
    """The machine sleeps while the client reads; with `by_wait` its monotonic clock goes on in sleep."""

    seconds: float
    by_wait: bool = False


def Bye(reason: str) -> bytes:
    """The server's last comment."""
    return sse.comment(f"bye {reason}")


class FakeConnection:
    """One scripted answer."""

    def __init__(self, clock: FakeClock, answer: StreamOf | RejectWith) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self.closed = False
        self._clock = clock
        self._words = answer.words if isinstance(answer, RejectWith) else ""
        self._coming = _timed(answer.pieces if isinstance(answer, StreamOf) else (), clock.now)

    def read(self, timeout: float) -> bytes:
        if self.closed:
            raise NetworkError("the connection is closed")
        until = self._clock.now + timeout
        if not self._coming or self._coming[0][0] > until:
            self._clock.pass_time(max(0.0, until - self._clock.now))
            raise TimeoutError
        at, piece = self._coming.pop(0)
        self._clock.pass_time(max(0.0, at - self._clock.now))
        return self._happen(piece)

    def text(self) -> str:
        return self._words

    def close(self) -> None:
        self.closed = True

    def _happen(self, piece: object) -> bytes:
        if isinstance(piece, BreakOff):
            raise NetworkError("connection reset")
        if isinstance(piece, MachineSleeps):
            self._clock.sleep_machine(piece.seconds)
            self._clock.now += piece.seconds if piece.by_wait else 0.0
            raise TimeoutError
        return piece if isinstance(piece, bytes) else b""


def _timed(pieces: tuple[object, ...], start: float) -> list[tuple[float, object]]:
    """Return the pieces, each with the time of its arrival."""
    coming, at = [], start
    for piece in pieces:
        if isinstance(piece, Silence):
            at += piece.seconds
        else:
            coming.append((at, piece))
    return coming


@dataclass
class FakeSession:
    """Answers `connect`, `refresh` and `position` from three scripts, and records the time of each call.

    A refresh script contains None for a success, or an error. A position script contains cursors or errors; its last
    entry is repeated.
    """

    clock: FakeClock
    connects: list[object]
    refreshes: list[Exception | None]
    positions: list[int | Exception]
    asked: list[tuple[float, str]] = field(default_factory=list)
    connections: list[FakeConnection] = field(default_factory=list)

    def connect(self) -> EventConnection:
        match self._next("connect", self.connects):
            case RefuseConnection():
                raise NetworkError("connection refused")
            case AnswerNothing(seconds):
                self.clock.pass_time(seconds)
                raise NetworkError("no answer in time")
            case HaveNoToken():
                raise NotAuthenticated("log in first")
            case StreamOf() | RejectWith() as answer:
                self.connections.append(FakeConnection(self.clock, answer))
                return self.connections[-1]
            case other:
                raise ScriptOver(f"{other!r} is no answer to a connect")

    def refresh(self) -> None:
        outcome = self._next("refresh", self.refreshes)
        if outcome is not None:
            raise outcome

    def position(self) -> tuple[str, int]:
        cursor = self._next("position", self.positions)
        self.positions = self.positions or [cursor]
        if isinstance(cursor, Exception):
            raise cursor
        return "epoch", cursor

    def watch(self, stream: SyncNotifyStream) -> None:
        pass

    def _next(self, what: str, script: list[Any]) -> Any:
        self.asked.append((self.clock.now, what))
        if not script:
            raise ScriptOver(f"no further {what} is scripted")
        return script.pop(0)


class Story:
    """A stream on a scripted session, with a record of its states and calls."""

    def __init__(
        self,
        *connects: object,
        refreshes: Iterable[Exception | None] = (),
        positions: Iterable[int | Exception] = (),
        draw: float | Callable[[], float] = 0.0,
    ) -> None:
        self.clock = FakeClock()
        self.session = FakeSession(self.clock, list(connects), list(refreshes), list(positions))
        self.states: list[tuple[str, str]] = []
        self.stream = SyncNotifyStream(
            self.session,
            on_state=lambda state, reason: self.states.append((str(state), reason)),
            clock=self.clock.monotonic,
            wall_clock=self.clock.time,
            wait=self.clock.pass_time,
            random=draw if callable(draw) else lambda: draw,
        )

    def next(self) -> tuple[float, str]:
        """Return the second of the next notification, and its name."""
        notification = next(self.stream)
        return round(self.clock.now, 6), notification.name

    def take(self, count: int) -> list[tuple[float, str]]:
        return [self.next() for _ in range(count)]

    def asked(self, what: str) -> list[float]:
        """Return the times of this call."""
        return [round(at, 6) for at, asked in self.session.asked if asked == what]
