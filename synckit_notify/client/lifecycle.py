"""The rules of a subscription: which action comes next and when, and what the app is told. Pure logic.

    action, at ──▶ SyncNotifyStream acts ──▶ answered, received, silent, lost, refreshed, polled … ──▶ action, at

Only SyncNotifyStream may call this. Nothing here waits, reads a clock or uses a socket: times are arguments in seconds
of the monotonic clock, `random` returns a number from 0 to 1. "Nothing to do yet" is an `at` in the future, or None
from `Notices.take`. Errors are raised only where waiting does not help: NotAuthenticated, and ServerError for a
permanent refusal.
"""

import math
from collections.abc import Callable, Mapping
from enum import Enum, auto

from .. import sse
from .errors import NotAuthenticated, ServerError
from .schedule import (
    MAX_SHORTENED_SECONDS,
    Notices,
    Polling,
    RetryPolicy,
    StreamState,
    is_temporary,
    keepalive_period,
    retry_after,
)

OPENING_SECONDS = 10.0
"""The server sends `: connected` at once (docs/protocol.md); if nothing arrives within this time, a proxy buffers."""

SLOW_FAILURE_SECONDS = 5.0
"""An attempt that takes longer to fail ran into a time limit: nginx, when it buffers, holds back even the headers."""

MIN_SLOW_FAILURES = 2
"""After this many slow failures in a row a proxy is assumed to buffer, if other requests are answered.

A single one may be an outage that is over.
"""

SILENT_PERIODS = 2.5
"""Keepalive periods without any bytes after which a stream counts as dead: two keepalives may be lost or late."""

STABLE_SECONDS = 10.0
"""A stream that lived this long counts as a success, whatever ended it: the backoff is reset.

This is shorter than the time limits that proxies and mobile networks put on a request, and long enough that a server
which cannot keep its streams open is not asked in a tight loop.
"""

ORDERLY_SECONDS = 1.0
"""The same for a stream that the server ended with a `bye`."""

RECENT_SECONDS = 5.0
"""`retry_now` keeps a stream that is younger than this: it was opened on the current network."""

MIN_RETRY_SECONDS = 1.0
"""Lower bound between two attempts of `retry_now`, however often it is called."""

FRESH_SECONDS = 60.0
"""If a token that is younger than this is refused, another one is not requested at once."""

GATHER_SECONDS = 2.0
"""Upper bound of the random delay of `CHANGED` after a reconnect, so that not all devices pull in the same second."""


class Action(Enum):
    """What the stream must do next."""

    CONNECT = auto()
    READ = auto()
    REFRESH = auto()
    POLL = auto()
    STOP = auto()


class Lifecycle:
    """The rules; `action` is due at the time `at`, except READ, which is due at once."""

    def __init__(
        self, announce: Callable[[StreamState, str], None], *, policy: RetryPolicy, random: Callable[[], float]
    ) -> None:
        self.action = Action.CONNECT
        self.at = -math.inf
        self.notices = Notices()
        self._announce = announce
        self._random = random
        self._first_policy = self._policy = policy
        self._polling = Polling(random)
        self._was_live = self._live = self._token_unproven = False
        self._opened_at = self._last_bytes_at = self._silent_at = self._silence = self._floor = 0.0
        self._refreshed_at = self._tried_at = self._not_before = -math.inf
        self._slow_failures = 0
        self._shortened = False

    @property
    def next_deadline(self) -> float:
        """Return when to act or to notify the app next, even if no bytes arrive."""
        return min(self._silent_at if self.action is Action.READ else self.at, self.notices.due_at)

    def connecting(self, reason: str = "") -> None:
        """Record that an attempt starts; while polling it is only a probe and is not reported."""
        if not self._polling.active:
            self._announce(StreamState.CONNECTING, reason)

    def answered(self, status: int, headers: Mapping[str, str], message: str, now: float, wall: float) -> None:
        """Record the server's answer to the attempt; `wall` is the time of day, for a Retry-After that is a date."""
        self._tried_at = now
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 200 and media_type == "text/event-stream":
            self.action = Action.READ
            self._silence = SILENT_PERIODS * keepalive_period(headers)
            self._silent_at = now + OPENING_SECONDS
        elif status == 204:
            self.action = Action.STOP
        else:
            if not message:
                not_a_stream = "the server's answer is not an event stream"
                message = not_a_stream if status == 200 else f"the server answered {status}"
            self._refused(ServerError(message, status=status, retry_after=retry_after(headers, wall)), now)

    def connect_failed(self, reason: str, now: float, *, took: float) -> None:
        """Record that the attempt got no answer."""
        self._tried_at = now
        if took >= SLOW_FAILURE_SECONDS:
            self._suspect_proxy(reason, now, slow_failures=1)
        else:
            self.lost(reason, now)

    def received(self, messages: list[sse.Message], now: float) -> None:
        """Record bytes that arrived, and the messages that they completed."""
        self._last_bytes_at = now
        if self._live:
            self._silent_at = now + self._silence
        for message in messages:
            match message:
                case sse.Retry(milliseconds):
                    self._floor = milliseconds / 1000
                case sse.Comment(text) if text.startswith("bye "):
                    self._bye(text, now)
                    return
                case _:
                    self._hear(message, now)

    def silent(self, now: float) -> None:
        """Record that no bytes arrived for a while."""
        if self.action is not Action.READ or now < self._silent_at:
            return
        if self._live:
            self.lost(f"nothing received for {self._silence:g} s", now, life=self._life(self._last_bytes_at))
        else:
            self._suspect_proxy("the connection delivers no bytes", now, slow_failures=MIN_SLOW_FAILURES)

    def ended(self, reason: str, now: float) -> None:
        """Record that the connection of a stream ended, in whatever way."""
        self.lost(reason, now, life=self._life(now))

    def lost(
        self,
        reason: str,
        now: float,
        *,
        action: Action = Action.CONNECT,
        at_least: float = 0.0,
        life: float | None = None,
    ) -> None:
        """Schedule `action` after the end of a stream, or after an attempt that failed.

        `life` is how long a stream lived that counts as a success, else None.
        """
        drained = self._floor > 0  # then the server's own `retry:` counts, which is already spread at random
        self._settle(life)
        if self._polling.active:
            self._polling.plan_probe(now, at_least=at_least)
            self.action, self.at = Action.POLL, now
            return
        if life is not None and not drained:
            delay = self._policy.after_stream(self._random(), life=life)
        else:
            delay, self._policy = self._policy.apply(self._random(), at_least=at_least)
        self.action, self.at = action, now + delay
        self._not_before, self._shortened = now + max(self._policy.floor, at_least), False
        self._announce(StreamState.WAITING, f"{reason}; next attempt in {delay:.1f} s")

    def request_succeeded(self, at: float, now: float) -> None:
        """Shorten the wait to a few seconds, because another request was answered at this moment.

        This happens once for each wait, and never before the time that the server asked for: a server may answer
        requests and have no room for a stream.
        """
        if (
            self._shortened
            or self._polling.active
            or self.action not in (Action.CONNECT, Action.REFRESH)
            or self.at <= now
        ):
            return
        self._shortened = True
        soon = max(self._not_before, at + MAX_SHORTENED_SECONDS * self._random(), now)
        if soon < self.at:
            self.at = soon
            self._announce(StreamState.WAITING, f"the server answers requests; next attempt in {soon - now:.1f} s")

    def retry_now(self, now: float) -> None:
        """Connect at once, since the app says that the network changed; never before the time the server asked for."""
        if self.action is Action.READ:
            if not self._live or now - self._opened_at < RECENT_SECONDS:
                return
            self.notices.changed_now(now)
            self._settle(self._life(self._last_bytes_at))
            self.action, self.at = Action.CONNECT, now
        elif self._polling.active:
            self._polling.probe_at = now
            self.action, self.at = Action.CONNECT, now
        elif self.action in (Action.CONNECT, Action.REFRESH):
            self.at = min(self.at, max(now, self._not_before, self._tried_at + MIN_RETRY_SECONDS))

    def slept(self, missed: float, now: float) -> None:
        """Record that the machine slept; `missed` is the part in seconds that `now` does not count, taken as waited."""
        self.notices.changed_now(now)
        self._refreshed_at = -math.inf
        self._polling.probe_at -= missed
        self.at -= missed
        if self.action is Action.READ:
            # Only the next keepalive could prove that the stream still works, and it may be 30 s away: reconnect.
            self._settle(self._life(self._last_bytes_at))
            self.action, self.at = Action.CONNECT, now

    def refreshed(self, now: float) -> None:
        """Record that there is a new token."""
        self._refreshed_at = now
        self._token_unproven = True
        self.action, self.at = Action.CONNECT, now

    def refresh_failed(self, reason: str, now: float, *, at_least: float = 0.0) -> None:
        """Record that the token could not be renewed; it is kept, and the renewal is repeated later."""
        self.lost(reason, now, action=Action.REFRESH, at_least=at_least)

    def needs_auth(self, reason: str) -> None:
        """Record that the user must log in; the next attempt uses the token that there is then."""
        self._refreshed_at = -math.inf
        self._polling.stop()
        self.action, self.at = Action.CONNECT, -math.inf
        self._announce(StreamState.NEEDS_AUTH, reason)

    def polled(self, position: tuple[str, int], now: float) -> None:
        """Record the server's position; the first one counts as moved."""
        if self._polling.moved(position):
            self.notices.changed(now)
        if not self._polling.active and self._slow_failures < MIN_SLOW_FAILURES:
            self.lost("the server answers again", now)
            return
        if not self._polling.active:
            self._polling.plan_probe(now)
            self._announce(StreamState.POLLING, "a proxy buffers the stream")
        self._plan_poll(now)

    def poll_failed(self, reason: str, now: float) -> None:
        """Record that a poll got no answer: the network is down, so a proxy is not, or not alone, the cause."""
        self._slow_failures = 0
        self._polling.stop()
        self.lost(reason, now)

    def poll_refused(self, error: ServerError, now: float) -> None:
        """Record that the server refused a poll."""
        if self._polling.active and is_temporary(error.status):
            self._plan_poll(now, at_least=error.retry_after or 0.0)
        else:
            self._refused(error, now)

    def _hear(self, message: sse.Event | sse.Comment, now: float) -> None:
        if not self._live:
            self._go_live(now)
        if message == sse.Comment("keepalive"):
            self.notices.keepalive()
        elif isinstance(message, sse.Event) and message.event == "changed":
            self.notices.changed(now)

    def _go_live(self, now: float) -> None:
        """Record the first message: no proxy buffers, the token is accepted, and changes may have been missed."""
        self.notices.changed(now + GATHER_SECONDS * self._random() if self._was_live else now)
        self._was_live = self._live = True
        self._opened_at, self._silent_at = now, now + self._silence
        self._token_unproven, self._slow_failures = False, 0
        self._polling.stop()
        self._announce(StreamState.CONNECTED, "")

    def _bye(self, text: str, now: float) -> None:
        if text in ("bye token_expired", "bye revoked"):
            self._renew_token(text, now)
        else:
            # An end on purpose is a success, unless it follows at once on every connect.
            self.lost(text, now, life=self._life(now, enough=ORDERLY_SECONDS))

    def _refused(self, error: ServerError, now: float) -> None:
        if error.status == 401 and self._token_unproven and self._is_fresh(now):
            raise NotAuthenticated("the server refuses a token that was renewed a moment ago")
        if error.status == 401:
            self._renew_token("the server refuses the token", now)
        elif is_temporary(error.status):
            self.lost(str(error), now, at_least=error.retry_after or 0.0)
        else:
            raise error

    def _renew_token(self, reason: str, now: float) -> None:
        self._settle(self._life(now))
        if self._is_fresh(now):
            self.lost(reason, now, action=Action.REFRESH)
        else:
            self.action, self.at = Action.REFRESH, now
            self.connecting(reason)

    def _is_fresh(self, now: float) -> bool:
        return now - self._refreshed_at < FRESH_SECONDS

    def _suspect_proxy(self, reason: str, now: float, *, slow_failures: int) -> None:
        """Poll once, to find out whether the server answers an ordinary request."""
        self._slow_failures += slow_failures
        if self._polling.active:
            self.lost(reason, now)
        else:
            self.action, self.at = Action.POLL, now

    def _life(self, until: float, *, enough: float = STABLE_SECONDS) -> float | None:
        """Return how long the stream lived in seconds, or None if that is too short to count as a success."""
        life = until - self._opened_at
        return life if self._live and life >= enough else None

    def _settle(self, life: float | None) -> None:
        """Reset what belongs to the stream that is over; after a success reset the backoff too."""
        if life is not None:
            self._policy = self._first_policy
            self._polling.reset_probes()
        self._policy = self._policy.raised(self._floor)
        self._live, self._floor = False, 0.0

    def _plan_poll(self, now: float, *, at_least: float = 0.0) -> None:
        poll_at, probe_at = self._polling.next_poll(now, at_least=at_least), self._polling.probe_at
        self.action, self.at = (Action.POLL, poll_at) if poll_at < probe_at else (Action.CONNECT, probe_at)
