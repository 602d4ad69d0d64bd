"""A session that follows a script, and a clock that moves only when somebody waits: no network, no real time.

A story is the list of answers, one for each `connect()`; a stream is the list of what comes and how long it takes:

    Story(RejectWith(503, retry_after=7), RefuseConnection(), StreamOf(CONNECTED, Silence(80), CHANGED))

A stream whose script is over stays silent. A connect for which nothing is scripted fails the test with ScriptOver.
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
    """The client did something that the story does not tell."""


class FakeClock:
    """Seconds since the start of the story, and the time of day; both move only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wall = 1_800_000_000.0
        self.nap = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall

    def pass_time(self, seconds: float) -> None:
        """Somebody waits; a `nap` that was set is taken meanwhile."""
        self.now += seconds
        self.wall += seconds + self.nap
        self.nap = 0.0

    def sleep_machine(self, seconds: float) -> None:
        """The lid is closed: the monotonic clock stands still, the time of day goes on."""
        self.wall += seconds


# What may happen to a connect.


class RefuseConnection:
    """Nobody listens there."""


@dataclass
class AnswerNothing:
    """The connection is made, but no headers come before the session's time limit."""

    seconds: float = 10.0


class HaveNoToken:
    """The session has no token at all."""


@dataclass
class RejectWith:
    """An answer that is no stream."""

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
    """A proxy answers with headers and keeps the bytes to itself."""


# What may happen in a stream.


@dataclass
class Silence:
    seconds: float


class EndCleanly:
    """The body ends as HTTP says."""


class BreakOff:
    """The connection breaks."""


@dataclass
class MachineSleeps:
    """The machine sleeps while the client reads; `by_wait` on a system whose monotonic clock goes on in sleep."""

    seconds: float
    by_wait: bool = False


def Bye(reason: str) -> bytes:
    """The server's farewell."""
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
    """The pieces, each with the moment it arrives."""
    coming, at = [], start
    for piece in pieces:
        if isinstance(piece, Silence):
            at += piece.seconds
        else:
            coming.append((at, piece))
    return coming


@dataclass
class FakeSession:
    """Answers `connect`, `refresh` and `position` from three scripts, and writes down what was asked when.

    A refresh script holds None for a success or the error; a position script a cursor or the error, its last one stays.
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
    """A stream on a scripted session, with all that it told and did."""

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
        """The next notification, with the second it came at."""
        notification = next(self.stream)
        return round(self.clock.now, 6), notification.name

    def take(self, count: int) -> list[tuple[float, str]]:
        return [self.next() for _ in range(count)]

    def asked(self, what: str) -> list[float]:
        """Return when the session was asked for this."""
        return [round(at, 6) for at, asked in self.session.asked if asked == what]
