"""The life of a subscription by rules alone: what to do next and when, and what to tell the app.

    task, at ──▶ SyncNotifyStream does it ──▶ answered, received, silent, lost, refreshed, polled … ──▶ task, at

Only SyncNotifyStream may call this. Nothing here waits, reads a clock or touches a socket: times come in as seconds of
the monotonic clock, chance as a function from 0 to 1. "Nothing yet" is an `at` in the future, or None from `tell`.
Raised is what waiting cannot mend: NotAuthenticated, and ServerError for a refusal that no repeat will change.
"""

import math
from collections.abc import Callable, Mapping
from enum import Enum, auto

from .. import sse
from .errors import NotAuthenticated, ServerError
from .schedule import (
    MAX_HURRIED_SECONDS,
    Notices,
    Polling,
    RetryPolicy,
    StreamState,
    keepalive_period,
    passes,
    retry_after,
)

OPENING_SECONDS = 10.0
"""A server of ours says `: connected` at once (docs/protocol.md); if nothing came by then, a proxy holds it back."""

SLOW_FAILURE_SECONDS = 5.0
"""An attempt that fails later than this ran into a time limit: nginx, when it buffers, holds even the headers back."""

CONVICTION = 2
"""So many of those in a row make a proxy, if the server answers otherwise: one may have been an outage that is over."""

SILENT_PERIODS = 2.5
"""Two keepalives may be lost or late before a stream counts as dead."""

STABLE_SECONDS = 10.0
"""A stream that has lived this long worked, whatever ended it: the next attempt comes soon, the backoff begins anew.

Shorter than the limits that proxies and mobile networks put on a request; long enough that a server which cannot keep
its streams is not asked again and again.
"""

ORDERLY_SECONDS = 1.0
"""A stream that the server ended on purpose worked even if it lived only this long."""

RECENT_SECONDS = 5.0
"""A stream this young was opened on the network of now, so `retry_now` leaves it alone."""

MIN_RETRY_SECONDS = 1.0
"""Between two attempts that `retry_now` asks for, however often it is called."""

FRESH_SECONDS = 60.0
"""A token this young that is refused makes no case for another one at once."""

GATHER_SECONDS = 2.0
"""The `CHANGED` after a reconnect waits up to this long, so that a fleet does not pull in the same second."""


class Action(Enum):
    """What is to be done next."""

    CONNECT = auto()
    READ = auto()
    REFRESH = auto()
    POLL = auto()
    STOP = auto()


class Lifecycle:
    """The rules; `action` is due at `at`, but READ at once."""

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
        self._suspicion = 0
        self._hurried = False

    @property
    def next_deadline(self) -> float:
        """Return when there is something to do or to tell, even if no bytes come."""
        return min(self._silent_at if self.action is Action.READ else self.at, self.notices.due_at)

    def connecting(self, reason: str = "") -> None:
        """An attempt begins; while polling it is only a probe."""
        if not self._polling.active:
            self._announce(StreamState.CONNECTING, reason)

    def answered(self, status: int, headers: Mapping[str, str], words: str, now: float, wall: float) -> None:
        """The server answered the attempt; `wall` is the time of day, for a Retry-After that is a date."""
        self._tried_at = now
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 200 and media_type == "text/event-stream":
            self.action = Action.READ
            self._silence = SILENT_PERIODS * keepalive_period(headers)
            self._silent_at = now + OPENING_SECONDS
        elif status == 204:
            self.action = Action.STOP
        else:
            said = words or ("the answer is no event stream" if status == 200 else f"the server answered {status}")
            self._refused(ServerError(said, status=status, retry_after=retry_after(headers, wall)), now)

    def connect_failed(self, reason: str, now: float, *, took: float) -> None:
        """The attempt got no answer."""
        self._tried_at = now
        if took >= SLOW_FAILURE_SECONDS:
            self._suspect_a_proxy(reason, now, suspicion=1)
        else:
            self.lost(reason, now)

    def received(self, messages: list[sse.Message], now: float) -> None:
        """Bytes came, and these messages with them, if any."""
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
        """No bytes came for a while."""
        if self.action is not Action.READ or now < self._silent_at:
            return
        if self._live:
            self.lost(f"nothing heard for {self._silence:g} s", now, life=self._life(self._last_bytes_at))
        else:
            self._suspect_a_proxy("the connection holds its bytes back", now, suspicion=CONVICTION)

    def ended(self, reason: str, now: float) -> None:
        """The connection of a stream ended, in whichever way."""
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
        """The stream is over, or did not come about: wait, then do the task. `life` is of one that worked."""
        drained = self._floor > 0  # it keeps its own `retry:`, which the server has spread already
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
        self._not_before, self._hurried = now + max(self._policy.floor, at_least), False
        self._announce(StreamState.WAITING, f"{reason}; again in {delay:.1f} s")

    def request_succeeded(self, at: float, now: float) -> None:
        """Another request was answered at this moment, so the server can be reached: wait for a few seconds at most.

        Once for each wait, and no sooner than the server asked: it may answer requests and have no place for a stream.
        """
        if (
            self._hurried
            or self._polling.active
            or self.action not in (Action.CONNECT, Action.REFRESH)
            or self.at <= now
        ):
            return
        self._hurried = True
        soon = max(self._not_before, at + MAX_HURRIED_SECONDS * self._random(), now)
        if soon < self.at:
            self.at = soon
            self._announce(StreamState.WAITING, f"the server answers requests; again in {soon - now:.1f} s")

    def retry_now(self, now: float) -> None:
        """The app says that the network is back, or another one: try at once, but no sooner than the server asked."""
        if self.action is Action.READ:
            if not self._live or now - self._opened_at < RECENT_SECONDS:
                return
            self.notices.hurry(now)
            self._settle(self._life(self._last_bytes_at))
            self.action, self.at = Action.CONNECT, now
        elif self._polling.active:
            self._polling.probe_at = now
            self.action, self.at = Action.CONNECT, now
        elif self.action in (Action.CONNECT, Action.REFRESH):
            self.at = min(self.at, max(now, self._not_before, self._tried_at + MIN_RETRY_SECONDS))

    def slept(self, missed: float, now: float) -> None:
        """The machine was asleep; `missed` are the seconds of it that its clock left out: they count as waited."""
        self.notices.hurry(now)
        self._refreshed_at = -math.inf
        self._polling.probe_at -= missed
        self.at -= missed
        if self.action is Action.READ:
            # A stream can only be checked by its next keepalive, half a minute away: a new one is the quicker check.
            self._settle(self._life(self._last_bytes_at))
            self.action, self.at = Action.CONNECT, now

    def refreshed(self, now: float) -> None:
        """There is a new token."""
        self._refreshed_at = now
        self._token_unproven = True
        self.action, self.at = Action.CONNECT, now

    def refresh_failed(self, reason: str, now: float, *, at_least: float = 0.0) -> None:
        """No word about the token: it is kept, and a new one is asked for later."""
        self.lost(reason, now, action=Action.REFRESH, at_least=at_least)

    def needs_auth(self, reason: str) -> None:
        """Only the user can help; what comes next is a fresh attempt with whatever token there is then."""
        self._refreshed_at = -math.inf
        self._polling.stop()
        self.action, self.at = Action.CONNECT, -math.inf
        self._announce(StreamState.NEEDS_AUTH, reason)

    def polled(self, position: tuple[str, int], now: float) -> None:
        """The server's position is known; the first one has moved by definition."""
        if self._polling.moved(position):
            self.notices.changed(now)
        if not self._polling.active and self._suspicion < CONVICTION:
            self.lost("the server answers again", now)
            return
        if not self._polling.active:
            self._polling.plan_probe(now)
            self._announce(StreamState.POLLING, "a proxy holds the stream back")
        self._plan_poll(now)

    def poll_failed(self, reason: str, now: float) -> None:
        """The network is down, so it is not, or not only, a proxy."""
        self._suspicion = 0
        self._polling.stop()
        self.lost(reason, now)

    def poll_refused(self, error: ServerError, now: float) -> None:
        """The server answered, but without a position."""
        if self._polling.active and passes(error.status):
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
        """The first words came through: no proxy holds them, the token counts, and changes may have passed before."""
        self.notices.changed(now + GATHER_SECONDS * self._random() if self._was_live else now)
        self._was_live = self._live = True
        self._opened_at, self._silent_at = now, now + self._silence
        self._token_unproven, self._suspicion = False, 0
        self._polling.stop()
        self._announce(StreamState.CONNECTED, "")

    def _bye(self, words: str, now: float) -> None:
        if words in ("bye token_expired", "bye revoked"):
            self._renew_token(words, now)
        else:
            # What the server ends on purpose worked, unless it does so again and again at once.
            self.lost(words, now, life=self._life(now, enough=ORDERLY_SECONDS))

    def _refused(self, error: ServerError, now: float) -> None:
        if error.status == 401 and self._token_unproven and self._is_fresh(now):
            raise NotAuthenticated("the server refuses a token that was only just renewed")
        if error.status == 401:
            self._renew_token("the server refuses the token", now)
        elif passes(error.status):
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

    def _suspect_a_proxy(self, reason: str, now: float, *, suspicion: int) -> None:
        """An ordinary request will show whether it is one."""
        self._suspicion += suspicion
        if self._polling.active:
            self.lost(reason, now)
        else:
            self.action, self.at = Action.POLL, now

    def _life(self, until: float, *, enough: float = STABLE_SECONDS) -> float | None:
        """Return how long the stream has lived, None if that is not enough to say that it worked."""
        life = until - self._opened_at
        return life if self._live and life >= enough else None

    def _settle(self, life: float | None) -> None:
        """Take stock of a stream that is over; if it worked, the backoff begins anew."""
        if life is not None:
            self._policy = self._first_policy
            self._polling.forget()
        self._policy = self._policy.raised(self._floor)
        self._live, self._floor = False, 0.0

    def _plan_poll(self, now: float, *, at_least: float = 0.0) -> None:
        poll_at, probe_at = self._polling.next_poll(now, at_least=at_least), self._polling.probe_at
        self.action, self.at = (Action.POLL, poll_at) if poll_at < probe_at else (Action.CONNECT, probe_at)
