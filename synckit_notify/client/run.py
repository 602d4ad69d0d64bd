"""`run` and `follow`: the loop that keeps an app's rows in step with the account.

    SyncNotifyStream ──▶ CHANGED ──▶ pull to the end ──▶ store.apply         then, and after each local edit:
    store.pending ──▶ sealed, into the queue ──▶ sent, one batch at a time ──▶ store.sent, or store.refused

The loop pulls before it sends, also after each failure. What fails is repeated with a growing delay, so a CHANGED is
never lost; without a stream it pulls about once a minute. Only what waiting cannot cure is raised. All calls of the
store, of `on_state` and of the other callbacks are made in the thread that called `run`; the stream has a thread of its
own. Clocks, waits and randomness are passed in as functions.
"""

import logging
import math
import random as chance
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from .cancellable import on_cancel, raise_if_cancelled
from .conflicts import ReadAgain
from .errors import (
    InvalidEnvelope,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ProtocolError,
    ServerError,
    SyncKitError,
)
from .listener import Listener
from .log_reader import Apply, OnPage, OnReadAgain, OnUnreadable
from .models import PulledChange, UnreadableChange
from .outbox import OnRefused, Outbox, Parts, correct_clock
from .passing import is_passing
from .schedule import JITTER, POLL_SECONDS, RetryPolicy, StreamState
from .serialization import Page
from .stores import Store

FIRST_PULL_SECONDS = 2.0
"""The first pull waits so long for the stream: a pull before it connects would have to be repeated after."""

IDLE_SECONDS = 60.0
"""Upper bound of one wait for edits; then the store is asked anyway."""

KEY_SECONDS = 1.0
"""How often the loop looks whether the app has set up encryption again."""

log = logging.getLogger("synckit_notify.client")


class RunState(StrEnum):
    """What `run` is doing; each value is its lower-case name. The common ones mean the same as in StreamState."""

    CONNECTING = "connecting"
    SYNCING = "syncing"
    SENDING = "sending"
    UP_TO_DATE = "up_to_date"
    WAITING = "waiting"
    NEEDS_PASSPHRASE = "needs_passphrase"
    NEEDS_AUTH = "needs_auth"
    CLOSED = "closed"


OnState = Callable[[RunState, str], object]


class Reports(NamedTuple):
    """The callbacks of an app; None is none."""

    on_state: OnState | None = None
    on_refused: OnRefused | None = None
    on_unreadable: OnUnreadable | None = None


class ApplyFailed(Exception):
    """The `apply` of `follow` raised an exception, which is the cause; the page comes again."""


class RunLoop:
    """One call of `run` or `follow`.

    `pull(on_page, on_read_again)` reads the log to its end, `begin_again(again)` prepares to read it from its start,
    `register()` registers the device again.
    """

    def __init__(
        self,
        parts: Parts,
        store: Store,
        pull: Callable[[OnPage, OnReadAgain], object],
        begin_again: OnReadAgain,
        register: Callable[[], object],
        reports: Reports,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._session, self._state, self._keys, _ = parts
        self._store, self._pull, self._begin_again, self._register = store, pull, begin_again, register
        self._on_state = reports.on_state
        self._clock, self._wall_clock, self._random = clock, wall_clock, random
        self._closed, self._woken, self._heard = threading.Event(), threading.Event(), threading.Event()
        self._wait = wait or self._woken.wait
        self._listener = Listener(self._session, self.pull_soon, self._wake)
        self._policy = RetryPolicy()
        self._in_step = self._registered_again = self._has_read_again = False
        self._pull_at = clock() + FIRST_PULL_SECONDS
        self._head: int | None = None
        self._outbox = Outbox(parts, store, self._sending, reports.on_refused, wall_clock)
        self._announced: tuple[RunState, str] | None = None

    def run(self) -> None:
        """Run until `close`; raises NotAuthenticated, NoMasterKey, ServerError 403, and errors that do not pass."""
        with on_cancel(self.close):
            self._run()
        raise_if_cancelled()

    def _run(self) -> None:
        try:
            self._session.account()
            self._state.device_id()
            self._keys.codec()
            self._announce(RunState.CONNECTING, "")
            self._listener.start()
            while not self._closed.is_set():
                try:
                    self._turn()
                except Exception as error:
                    self._recover(error)
        except Exception as error:
            if not self._closed.is_set():
                state = RunState.NEEDS_AUTH if isinstance(error, NotAuthenticated) else RunState.CLOSED
                self._announce(state, str(error))
                raise
        finally:
            self.close()
        self._announce(RunState.CLOSED, "closed by the app")

    def close(self) -> None:
        """End the loop, from any thread; a call of the store that is running is finished first."""
        self._closed.set()
        self._wake()
        self._listener.close()

    def pull_soon(self) -> None:
        """Pull as soon as possible; from any thread."""
        self._heard.set()
        self._wake()

    def _turn(self) -> None:
        if self._listener.failure is not None:
            raise self._listener.failure
        if self._heard.is_set() or self._clock() >= self._pull_at:
            self._heard.clear()
            self._in_step = False
            if self._listener.is_live:  # else the server may be out of reach, and what was told last still holds
                self._announce(RunState.SYNCING, "")
            self._head = None
            self._pull(self._pulled, self._reading_again)
            self._in_step = True
            self._plan_pull()
        if self._in_step:
            if self._outbox.send_all(self._closed.is_set):
                self._heard.set()
            self._policy, self._registered_again, self._has_read_again = RetryPolicy(), False, False
        self._idle()

    def _pulled(self, page: Page) -> None:
        """Report the progress of a pull of several pages, and correct the store's clock."""
        if self._closed.is_set():
            raise NetworkError("closed by the app")
        behind = page.server_time.timestamp() - self._wall_clock()
        if behind > self._store.clock_offset.total_seconds():  # the time of a page is never ahead of the server's clock
            correct_clock(self._store, behind)
        if page.has_more and self._head is None:
            self._head = self._ask_head()
        end = page.end.cursor
        self._announce(RunState.SYNCING, "" if self._head is None else f"{end} of {max(self._head, end)} changes")

    def _reading_again(self, again: ReadAgain) -> None:
        self._announce(RunState.SYNCING, str(again))

    def _ask_head(self) -> int:
        try:
            return self._session.position()[1]
        except SyncKitError as error:
            log.info("the number of changes is not known: %s", error)
            return 0

    def _sending(self, count: int) -> None:
        self._announce(RunState.SENDING, "1 change" if count == 1 else f"{count} changes")

    def _idle(self) -> None:
        """Wait for an edit, a CHANGED, another state of the stream, or the next pull."""
        if self._in_step and self._listener.is_live:
            self._plan_pull()
            self._announce(RunState.UP_TO_DATE, "")
        elif self._in_step:
            connecting = self._listener.state is StreamState.CONNECTING
            self._announce(RunState.CONNECTING if connecting else RunState.WAITING, self._listener.reason)
        if not self._heard.is_set() and not self._closed.is_set():
            self._store.wait(max(0.0, min(self._pull_at - self._clock(), IDLE_SECONDS)))

    def _recover(self, error: Exception) -> None:
        """Wait before the next turn, if that can cure the error; else raise it."""
        if self._closed.is_set():
            return
        self._in_step, self._pull_at = False, -math.inf
        match error:
            case NotAuthenticated() | ServerError(status=403):
                raise error
            case NoMasterKey():
                self._await_key(error)
            case ReadAgain():
                log.warning("%s", error)
                self._reading_again(error)
                self._cure(lambda: self._begin_again(error))
                if self._has_read_again:  # and nothing could be sent since
                    self._pause(error.reason)
                self._has_read_again = True
            case ServerError(status=404) if not self._registered_again:
                self._registered_again = True
                log.warning("the server does not know this device: registering it again")
                self._cure(self._register)
            case ServerError():
                self._pause(str(error), error.retry_after or 0.0)
            case ApplyFailed():
                log.error("%s; the page comes again", error, exc_info=error.__cause__)
                self._pause(str(error))
            case NetworkError() | ProtocolError() | InvalidEnvelope():  # the server's envelope; another may come
                self._pause(str(error))
            case _ if is_passing(error):
                log.warning("%s", error)
                self._pause(str(error))
            case _:
                raise error

    def _cure(self, call: Callable[[], object]) -> None:
        """Make a call after which the next turn should succeed."""
        try:
            call()
        except Exception as error:
            self._recover(error)

    def _await_key(self, error: NoMasterKey) -> None:
        """Wait until encryption is set up again; raises NoMasterKey if it never was."""
        codec = self._keys.codec()
        self._announce(RunState.NEEDS_PASSPHRASE, str(error))
        until = self._clock() + self._poll_seconds()
        while not (self._closed.is_set() or self._listener.failure) and self._clock() < until:
            self._sleep(KEY_SECONDS)
            if self._keys.codec() is not codec:
                return

    def _pause(self, reason: str, at_least: float = 0.0) -> None:
        """Wait before the next attempt; the stream's next connection shortens the wait."""
        now, connections = self._clock(), self._listener.connections
        delay, self._policy = self._policy.apply(self._random(), at_least=at_least)
        self._announce(RunState.WAITING, f"{reason}; next attempt in {delay:.1f} s")
        while not self._closed.is_set() and self._listener.failure is None:
            until = now + (at_least if self._listener.connections != connections else delay)
            left = until - self._clock()
            if left <= 0:
                return
            self._sleep(left)

    def _sleep(self, seconds: float) -> None:
        self._wait(seconds)
        self._woken.clear()

    def _wake(self) -> None:
        self._woken.set()
        self._store.wake()

    def _plan_pull(self) -> None:
        """Pull in about a minute, for the case that there is no stream then."""
        self._pull_at = self._clock() + self._poll_seconds()

    def _poll_seconds(self) -> float:
        return POLL_SECONDS * (1 - JITTER + 2 * JITTER * self._random())

    def _announce(self, state: RunState, reason: str) -> None:
        if self._announced == (state, reason):
            return
        self._announced = state, reason
        log.info("%s%s", state, reason and f": {reason}")
        if self._on_state is not None:
            try:
                self._on_state(state, reason)
            except Exception:
                log.exception("on_state raised an error")


def protected(apply: Apply) -> Apply:
    """Return an `apply` whose exceptions are ApplyFailed, so that they are told from those of the pull."""

    def call(changes: list[PulledChange]) -> None:
        try:
            apply(changes)
        except Exception as error:
            raise ApplyFailed(f"apply raised {type(error).__name__}: {error}") from error

    return call


def harmless(on_unreadable: OnUnreadable | None) -> OnUnreadable:
    """Return an `on_unreadable` whose exceptions are logged, since the same change would raise them for ever."""

    def call(change: UnreadableChange) -> None:
        try:
            if on_unreadable is not None:
                on_unreadable(change)
        except Exception:
            log.exception("on_unreadable raised an error")

    return call
