"""When: the next attempt, poll, probe and notification; whether there was a sleep; what a server's answer says of time.

Numbers and headers in, seconds out; chance is a `draw` or a function from 0 to 1, the time of day an argument. Nothing
here waits or reads a clock. The session may use `RetryPolicy`, `pause` and `retry_after` as well as the stream.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum, auto

from .errors import NetworkError, ServerError

MAX_FLOOR_SECONDS = 60.0
"""A `retry:` counts up to here: a server's slip must not silence a device for a day."""

MAX_RETRY_AFTER_SECONDS = 900.0
"""A Retry-After counts up to here, for the same reason; a date may also come from a clock that is wrong."""

MAX_RETURN_SECONDS, RETURN_SHARE = 5.0, 0.08
"""After a stream that worked: up to so many seconds, and up to this share of its life, so that a device whose line is
cut every 20 s is connected most of the time, while a fleet that is cut at one instant still spreads."""

MAX_HURRIED_SECONDS = 10.0
"""A waiting stream tries again within this time after another request of the SDK was answered."""

MAX_PAUSE_SECONDS = 60.0
"""A server that asks for a longer pause gets none: its answer is raised, and the app may plan by `retry_after`."""

DEFAULT_KEEPALIVE_SECONDS, MIN_KEEPALIVE_SECONDS, MAX_KEEPALIVE_SECONDS = 30.0, 0.1, 600.0
"""Seconds between keepalives (seed); no proxy waits longer than the last, so a header beyond it is absurd."""

POLL_SECONDS = 60.0
FIRST_PROBE_SECONDS, MAX_PROBE_SECONDS = 300.0, 1800.0
JITTER = 0.25
"""Polls and probes come up to a quarter earlier or later, so that a fleet does not ask in step."""

SLEEP_SECONDS = 10.0
"""A gap longer than this was sleep; time servers and busy machines make shorter ones."""

_PASSING = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: of 400 to 499, these pass by themselves."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: the cap first, full jitter after, on top of a floor.

    Capped after the jitter, all clients would meet at the cap. The floor is never zero, so that nothing is tried
    again at once. To begin anew is to go back to the first value.
    """

    base: float = 1.0
    cap: float = 60.0
    floor: float = 0.1
    attempt: int = 0

    def apply(self, draw: float, *, at_least: float = 0.0) -> tuple[float, "RetryPolicy"]:
        """Return the seconds to wait, and the policy for the next failure."""
        ceiling = min(self.cap, self.base * 2.0**self.attempt)
        delay = max(self.floor, at_least) + draw * ceiling
        # Past the cap the count says nothing, and 2.0**1024 would overflow after a day without network.
        return delay, self if ceiling >= self.cap else replace(self, attempt=self.attempt + 1)

    def after_stream(self, draw: float, *, life: float) -> float:
        """Return the seconds to wait after a stream that worked: its end was no failure."""
        return self.floor + draw * min(MAX_RETURN_SECONDS, RETURN_SHARE * life)

    def raised(self, floor: float) -> "RetryPolicy":
        """Return a policy that waits at least this long."""
        return replace(self, floor=max(self.floor, min(floor, MAX_FLOOR_SECONDS)))


class StreamState(StrEnum):
    """What the stream is doing."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    POLLING = "polling"
    WAITING = "waiting"
    NEEDS_AUTH = "needs_auth"
    CLOSED = "closed"


class SyncNotification(Enum):
    """What the stream yields: pull now, or the connection is alive."""

    CHANGED = auto()
    KEEPALIVE = auto()


class Notices:
    """What waits to be told to the app: at most one `CHANGED`, with the moment it is due, or one keepalive."""

    def __init__(self) -> None:
        self.due_at = math.inf
        self._keepalive = False

    def changed(self, now: float) -> None:
        """There is something to pull; a `CHANGED` that waits already, for whatever moment, covers it."""
        if self.due_at == math.inf:
            self.due_at = now

    def hurry(self, now: float) -> None:
        """There may be something to pull, and this is no moment to wait."""
        self.due_at = now

    def keepalive(self) -> None:
        """The server said that it is there."""
        self._keepalive = True

    def tell(self, now: float) -> SyncNotification | None:
        """Return what is due, once; a keepalive says nothing that a `CHANGED` does not."""
        keepalive, self._keepalive = self._keepalive, False
        if now >= self.due_at:
            self.due_at = math.inf
            return SyncNotification.CHANGED
        return SyncNotification.KEEPALIVE if keepalive and self.due_at == math.inf else None


class Polling:
    """When to ask for the position instead of listening, and when to probe for a live stream again."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.probe_at = math.inf
        self._random = random
        self._position: tuple[str, int] | None = None
        self._probe_seconds = FIRST_PROBE_SECONDS

    @property
    def active(self) -> bool:
        return self.probe_at < math.inf

    def plan_probe(self, now: float, *, at_least: float = 0.0) -> None:
        """Begin, or go on after a probe that failed; each wait for a probe is twice the last."""
        self.probe_at = now + max(at_least, self._probe_seconds * self._fuzz())
        self._probe_seconds = min(2 * self._probe_seconds, MAX_PROBE_SECONDS)

    def next_poll(self, now: float, *, at_least: float = 0.0) -> float:
        """Return when to ask again."""
        return now + max(at_least, POLL_SECONDS * self._fuzz())

    def moved(self, position: tuple[str, int]) -> bool:
        """Return whether this is news; a first position is."""
        known, self._position = self._position, position
        return position != known

    def stop(self) -> None:
        """Listen again, or try to."""
        self.probe_at = math.inf

    def forget(self) -> None:
        """A stream has lived: the next time probes begin early again."""
        self._probe_seconds = FIRST_PROBE_SECONDS

    def _fuzz(self) -> float:
        return 1 - JITTER + 2 * JITTER * self._random()


class SleepWatch:
    """Notices that the machine was asleep, by two clocks or by a wait that took far too long."""

    def __init__(self, now: float, wall: float) -> None:
        self._now, self._wall = now, wall
        self._awake_by = math.inf

    def expect(self, awake_by: float) -> None:
        """A wait begins that should be over by then."""
        self._awake_by = awake_by

    def missed(self, now: float, wall: float) -> float | None:
        """Return the seconds of sleep since the last call that the monotonic clock left out; None without a sleep."""
        left_out = (wall - self._wall) - (now - self._now)
        overran = now - self._awake_by
        self._now, self._wall, self._awake_by = now, wall, math.inf
        return max(0.0, left_out) if max(left_out, overran) > SLEEP_SECONDS else None


def passes(status: int) -> bool:
    """Return whether a later repeat may succeed although nobody has changed anything."""
    return not 400 <= status <= 499 or status in _PASSING


def pause(error: NetworkError | ServerError) -> float | None:
    """Return the seconds to wait at least before a repeat, None if a repeat has no point."""
    if isinstance(error, NetworkError):
        return 0.0
    asked = error.retry_after or 0.0
    redirects = 300 <= error.status <= 399
    return asked if passes(error.status) and not redirects and asked <= MAX_PAUSE_SECONDS else None


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds of a Retry-After, whole seconds or an HTTP date (RFC 9110, 10.2.3), None if there is none.

    Header names are in lower case. A date is compared with the answer's own Date, else with `wall`, the time of day.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    until = _http_date(value)
    if until is None:
        return None
    now = _http_date(headers.get("date", ""))
    return min(max(0.0, until - (wall if now is None else now)), MAX_RETRY_AFTER_SECONDS)


def keepalive_period(headers: Mapping[str, str]) -> float:
    """Return the seconds between two keepalives that the server promises, or the usual ones if it says nothing sane."""
    try:
        period = float(headers.get("synckit-keepalive", ""))
    except ValueError:
        return DEFAULT_KEEPALIVE_SECONDS
    return period if MIN_KEEPALIVE_SECONDS <= period <= MAX_KEEPALIVE_SECONDS else DEFAULT_KEEPALIVE_SECONDS


def _http_date(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
