"""Times: of the next attempt, poll, probe and notification; detection of sleep; time limits in a server's answers.

Numbers and headers in, seconds out. `draw` is a random number from 0 to 1; the time of day is an argument. Nothing here
waits or reads a clock. Used by the stream; the session uses `RetryPolicy`, `pause` and `retry_after`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum, auto

from .errors import NetworkError, ServerError

MAX_FLOOR_SECONDS = 60.0
"""Upper bound for a `retry:` of the server, so that a mistake there cannot silence a device for a day."""

MAX_RETRY_AFTER_SECONDS = 900.0
"""Upper bound for a Retry-After, for the same reason; a date may also come from a wrong clock."""

MAX_RETURN_SECONDS, RETURN_SHARE = 5.0, 0.08
"""Upper bounds of the wait after a successful stream: in seconds, and as a share of its life.

So a device whose connection is cut every 20 s is connected most of the time, and devices that are all cut at the same
moment still return at different times.
"""

MAX_SHORTENED_SECONDS = 10.0
"""A waiting stream reconnects within this time after another request of the SDK was answered."""

MAX_PAUSE_SECONDS = 60.0
"""If a server asks for a longer pause, its answer is raised instead; the app finds the time in `retry_after`."""

DEFAULT_KEEPALIVE_SECONDS, MIN_KEEPALIVE_SECONDS, MAX_KEEPALIVE_SECONDS = 30.0, 0.1, 600.0
"""The server's default period (docs/protocol.md), and the bounds of a period in a header that is believed."""

POLL_SECONDS = 60.0
FIRST_PROBE_SECONDS, MAX_PROBE_SECONDS = 300.0, 1800.0
JITTER = 0.25
"""Random share by which polls and probes come earlier or later, so that devices do not ask at the same time."""

SLEEP_SECONDS = 10.0
"""A jump of the clocks longer than this was sleep; time servers and busy machines cause shorter ones."""

_TEMPORARY = frozenset({408, 425, 429})
"""Request Timeout, Too Early, Too Many Requests: the statuses from 400 to 499 that are temporary."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, as an immutable value; all times are in seconds.

    The delay is `floor` plus a random share of `base * 2 ** attempt`, which is capped first: if the cap came after the
    jitter, all clients would meet at the cap. To reset the backoff, return to the first value.
    """

    base: float = 1.0
    cap: float = 60.0
    floor: float = 0.1
    attempt: int = 0

    def apply(self, draw: float, *, at_least: float = 0.0) -> tuple[float, "RetryPolicy"]:
        """Return the seconds to wait now, and the policy for the next failure."""
        ceiling = min(self.cap, self.base * 2.0**self.attempt)
        delay = max(self.floor, at_least) + draw * ceiling
        # Past the cap the count has no effect, and 2.0**1024 would overflow after a day without network.
        return delay, self if ceiling >= self.cap else replace(self, attempt=self.attempt + 1)

    def after_stream(self, draw: float, *, life: float) -> float:
        """Return the seconds to wait after a successful stream, whose end is not a failure."""
        return self.floor + draw * min(MAX_RETURN_SECONDS, RETURN_SHARE * life)

    def raised(self, floor: float) -> "RetryPolicy":
        """Return a policy that waits at least this long."""
        return replace(self, floor=max(self.floor, min(floor, MAX_FLOOR_SECONDS)))


class StreamState(StrEnum):
    """What a stream is doing; each value is its lower-case name."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    POLLING = "polling"
    WAITING = "waiting"
    NEEDS_AUTH = "needs_auth"
    CLOSED = "closed"


class SyncNotification(Enum):
    """What a stream yields: `CHANGED` means pull now, `KEEPALIVE` that the connection works."""

    CHANGED = auto()
    KEEPALIVE = auto()


class Notices:
    """Notifications that the app has not taken: at most one `CHANGED`, with the time it is due, or one keepalive."""

    def __init__(self) -> None:
        self.due_at = math.inf
        self._keepalive = False

    def changed(self, now: float) -> None:
        """Add a `CHANGED`, unless one is waiting already, for whatever time."""
        if self.due_at == math.inf:
            self.due_at = now

    def changed_now(self, now: float) -> None:
        """Add a `CHANGED` that is due now, even if one is waiting for a later time."""
        self.due_at = now

    def keepalive(self) -> None:
        """Add a keepalive."""
        self._keepalive = True

    def take(self, now: float) -> SyncNotification | None:
        """Return the notification that is due, once; a keepalive is dropped in favour of a `CHANGED`."""
        keepalive, self._keepalive = self._keepalive, False
        if now >= self.due_at:
            self.due_at = math.inf
            return SyncNotification.CHANGED
        return SyncNotification.KEEPALIVE if keepalive and self.due_at == math.inf else None


class Polling:
    """When to ask for the server's position instead of listening, and when to try a stream again (a probe)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.probe_at = math.inf
        self._random = random
        self._position: tuple[str, int] | None = None
        self._probe_seconds = FIRST_PROBE_SECONDS

    @property
    def active(self) -> bool:
        return self.probe_at < math.inf

    def plan_probe(self, now: float, *, at_least: float = 0.0) -> None:
        """Schedule the next probe; each wait is twice the one before."""
        self.probe_at = now + max(at_least, self._probe_seconds * self._jitter())
        self._probe_seconds = min(2 * self._probe_seconds, MAX_PROBE_SECONDS)

    def next_poll(self, now: float, *, at_least: float = 0.0) -> float:
        """Return when to ask for the position again."""
        return now + max(at_least, POLL_SECONDS * self._jitter())

    def moved(self, position: tuple[str, int]) -> bool:
        """Keep the position; return whether it differs from the one before, as the first one does."""
        known, self._position = self._position, position
        return position != known

    def stop(self) -> None:
        """Stop polling."""
        self.probe_at = math.inf

    def reset_probes(self) -> None:
        """Return to short waits for probes, after a successful stream."""
        self._probe_seconds = FIRST_PROBE_SECONDS

    def _jitter(self) -> float:
        return 1 - JITTER + 2 * JITTER * self._random()


class SleepWatch:
    """Detects that the machine was asleep, by comparing two clocks and by waits that took far too long."""

    def __init__(self, now: float, wall: float) -> None:
        self._now, self._wall = now, wall
        self._awake_by = math.inf

    def expect(self, awake_by: float) -> None:
        """Record that a wait starts which should be over at this time."""
        self._awake_by = awake_by

    def missed(self, now: float, wall: float) -> float | None:
        """Return the seconds of sleep since the last call that the monotonic clock left out; None without a sleep."""
        left_out = (wall - self._wall) - (now - self._now)
        overran = now - self._awake_by
        self._now, self._wall, self._awake_by = now, wall, math.inf
        return max(0.0, left_out) if max(left_out, overran) > SLEEP_SECONDS else None


def is_temporary(status: int) -> bool:
    """Return whether the same request may succeed later without any change."""
    return not 400 <= status <= 499 or status in _TEMPORARY


def pause(error: NetworkError | ServerError) -> float | None:
    """Return the minimum wait in seconds before a repeat, or None if a repeat cannot succeed."""
    if isinstance(error, NetworkError):
        return 0.0
    asked = error.retry_after or 0.0
    redirects = 300 <= error.status <= 399
    return asked if is_temporary(error.status) and not redirects and asked <= MAX_PAUSE_SECONDS else None


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the wait in seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), None without one.

    Header names are in lower case. A date is compared with the answer's Date header, else with `wall`, the time of day.
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
    """Return the keepalive period in seconds from the server's headers, or the default if it is missing or absurd."""
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
