"""`SyncNotifyStream`: an iterator that tells when to pull, and reconnects by itself.

    lifecycle: next action and its time ──▶ this file: connect, read, refresh, poll, wait ──▶ lifecycle: the outcome

This file only acts and waits; the rules are in lifecycle.py. The network is a `StreamSession`, which the session
implements; clocks and randomness are passed in as functions. One thread iterates; any thread may call `close()` and
`retry_now()`. Calls of the session run in threads of their own, so that closing does not wait for them.
"""

import logging
import os
import random as chance
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx2

from ..sse import Decoder
from .cancellable import on_cancel, raise_if_cancelled, start
from .errors import NetworkError, NotAuthenticated, ProtocolError, ServerError, StateError
from .event_connection import EventConnection
from .lifecycle import Action, Lifecycle
from .schedule import RetryPolicy, SleepWatch, StreamState, SyncNotification
from .token_session import TokenSession

__all__ = ["EventConnection", "RetryPolicy", "StreamSession", "StreamState", "SyncNotification", "SyncNotifyStream"]

SLICE_SECONDS = 5.0
"""Upper bound of one wait: time limits do not count while the machine sleeps, and its wake-up must be noticed soon."""

MAX_READS = 100
"""Upper bound of reads before a notification is returned, so that a flood of data cannot hold it back."""

DEFAULT_POLICY = RetryPolicy()

log = logging.getLogger("synckit_notify.client")

T = TypeVar("T")


class StreamSession(Protocol):
    """The calls that a stream makes to its session."""

    def connect(self) -> EventConnection:
        """Subscribe with the current token, in one attempt; raises NetworkError, NotAuthenticated without a token."""

    def refresh(self) -> None:
        """Get a new token; raises NotAuthenticated if it is refused, NetworkError or ServerError to try later."""

    def position(self) -> tuple[str, int]:
        """Return the server's epoch and cursor; raises NetworkError, ServerError, NotAuthenticated."""

    def watch(self, stream: "SyncNotifyStream") -> None:
        """Call the stream's `request_succeeded` after each successful request; the stream is referenced weakly."""


class SyncNotifyStream:
    """An iterator over the notifications of one account; it reconnects and renews its token by itself.

    It yields `CHANGED` when there may be something to pull, which includes every time it connects, and `KEEPALIVE` when
    the server confirms that the connection works.

    The iteration raises NotAuthenticated when the user must log in again; it may be continued after that. It raises
    ServerError when the server refuses permanently, which closes the stream.

    One thread iterates; any thread may call the other methods. `close()` ends the iteration at once, also while it
    connects or renews a token. `on_state` is called with each new state and its reason, in the iterating thread or in
    the thread that closes. `SyncKitClient.subscribe_notifications` makes a stream of a client, `open` one that needs no
    client; the other arguments are for tests.
    """

    state: StreamState
    """What the stream is doing now."""

    reason: str
    """Why it is in this state, as text for a person; may be empty."""

    def __init__(
        self,
        session: StreamSession,
        *,
        on_state: Callable[[StreamState, str], None] | None = None,
        policy: RetryPolicy = DEFAULT_POLICY,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self.state = StreamState.CONNECTING
        self.reason = "not started"
        self._session = session
        self._on_state = on_state
        self._clock, self._wall_clock = clock, wall_clock
        self._maker = os.getpid()
        self._closed, self._woken = threading.Event(), threading.Event()
        self._wait = wait or self._woken.wait
        self._lock = threading.Lock()
        self._call: Future[Any] | None = None
        self._retry_wanted = False
        self._succeeded_at: float | None = None
        self._connection: EventConnection | None = None
        self._decoder = Decoder()
        self._life = Lifecycle(self._announce, policy=policy, random=random)
        self._sleep = SleepWatch(clock(), wall_clock())
        self._release: Callable[[], object] = lambda: None
        session.watch(self)

    @classmethod
    def open(
        cls,
        url: str,
        app_id: str,
        token: Callable[..., str],
        device_id: str | None = None,
        *,
        on_state: Callable[[StreamState, str], None] | None = None,
        http: httpx2.Client | None = None,
    ) -> Self:
        """Return a stream that needs no client: for a backend that only mounts the Notifier.

        - `url` is the URL of the server, or that of its subscription if it has another prefix, such as
          https://example.org/v1/sync/subscribe.
        - `token()` returns an access token, and `token(refused=True)` a new one after the server refused the last or
          ended the stream because of it. It is called in other threads. It may raise NetworkError to be called again
          later, and NotAuthenticated if the user must log in; the iteration raises that, and every other exception.
        - `device_id` names this device, which then gets no notices of its own pushes; for a token without a device.
        - `http` is an `httpx2.Client` to use, as for `SyncKitClient`.

        If a proxy buffers the stream, it yields `CHANGED` about once a minute. Raises ValueError for a wrong `url`.
        """
        session = TokenSession(url, app_id, token, device_id, http)
        stream = cls(session, on_state=on_state)
        stream._release = session.close
        return stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SyncNotification:
        if os.getpid() != self._maker:
            raise StateError(
                "this stream was made before the process was forked, and its connection belongs to the parent process; "
                "make a stream in this process"
            )
        with on_cancel(lambda: self._close("the call that iterates it was cancelled")):
            while not self._closed.is_set():
                self._notice_sleep()
                self._apply_requests()
                notification = self._life.notices.take(self._clock())
                if notification is not None:
                    return notification
                self._step()
        raise_if_cancelled()
        raise StopIteration

    def close(self) -> None:
        """End the iteration, in whatever thread it runs; may be called twice, and does nothing in a forked process."""
        if os.getpid() == self._maker:
            self._close("closed by the app")

    def retry_now(self) -> None:
        """Connect now instead of at the next scheduled attempt.

        Call this when the operating system reports that the network is back or has changed. A connected stream is
        replaced within 5 s, because its connection may be lost with the old network. The stream connects at most once
        a second, and never earlier than the server asked (`Retry-After`, `retry:`).
        """
        self._retry_wanted = True
        self._woken.set()

    def request_succeeded(self) -> None:
        """Shorten the current wait, because another request was just answered; called by the session."""
        self._succeeded_at = self._clock()
        self._woken.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _step(self) -> None:
        try:
            if self._life.action is Action.READ and self._connection is not None:
                self._read(self._connection)
            elif self._clock() < self._life.at:
                self._wait(self._begin_wait())
                self._woken.clear()
            else:
                self._perform(self._life.action)
        except CancelledError:
            return  # closed
        except NotAuthenticated as error:
            self._life.needs_auth(str(error))
            if not self._closed.is_set():
                raise
        except ServerError as error:
            self._close(str(error))
            raise
        finally:
            if self._life.action is not Action.READ:
                self._drop()

    def _perform(self, action: Action) -> None:
        match action:
            case Action.CONNECT:
                self._connect()
            case Action.REFRESH:
                self._refresh()
            case Action.POLL:
                self._poll()
            case Action.STOP:
                self._close("the server ended the subscription (204)")

    def _connect(self) -> None:
        started = self._clock()
        self._life.connecting()
        try:
            connection = self._run(self._session.connect, lambda connection: connection.close())
            self._adopt(connection)
            message = connection.text() if connection.status >= 300 else ""
        except (NetworkError, ProtocolError) as error:  # a ProtocolError comes from a captive portal, say
            now = self._clock()
            self._life.connect_failed(str(error), now, took=now - started)
        else:
            self._life.answered(connection.status, connection.headers, message, self._clock(), self._wall_clock())

    def _read(self, connection: EventConnection) -> None:
        """Wait for bytes, then read all that have arrived: notices that came while the app was busy become one."""
        try:
            timeout = self._begin_wait()
            for _ in range(MAX_READS):
                data = connection.read(timeout)
                if not data:
                    self._life.ended("the server ended the stream", self._clock())
                    return
                self._life.received(self._decoder.feed(data), self._clock())
                if self._life.action is not Action.READ:
                    return
                timeout = 0.0
        except TimeoutError:
            self._notice_sleep()
            self._life.silent(self._clock())
        except NetworkError as error:
            self._life.ended(str(error), self._clock())

    def _refresh(self) -> None:
        try:
            self._run(self._session.refresh)
        except (NetworkError, ProtocolError) as error:
            self._life.refresh_failed(str(error), self._clock())
        except ServerError as error:
            self._life.refresh_failed(str(error), self._clock(), at_least=error.retry_after or 0.0)
        else:
            self._life.refreshed(self._clock())

    def _poll(self) -> None:
        try:
            position = self._run(self._session.position)
        except (NetworkError, ProtocolError) as error:
            self._life.poll_failed(str(error), self._clock())
        except ServerError as error:
            self._life.poll_refused(error, self._clock())
        else:
            self._life.polled(position, self._clock())

    def _run(self, call: Callable[[], T], discard: Callable[[T], object] = lambda result: None) -> T:
        """Return the result of a call of the session; raises CancelledError as soon as the stream is closed."""
        future = start(call, discard=discard)
        with self._lock:
            self._call = future
        if self._closed.is_set():
            future.cancel()
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C, for example: its result is discarded
            raise

    def _apply_requests(self) -> None:
        """Apply the requests that other threads made in the meantime."""
        succeeded_at, self._succeeded_at = self._succeeded_at, None
        if succeeded_at is not None:
            self._life.request_succeeded(succeeded_at, self._clock())
        if self._retry_wanted:
            self._retry_wanted = False
            self._life.retry_now(self._clock())
            if self._life.action is not Action.READ:
                self._drop()

    def _begin_wait(self) -> float:
        now = self._clock()
        seconds = max(0.0, min(self._life.next_deadline - now, SLICE_SECONDS))
        self._sleep.expect(now + seconds)
        return seconds

    def _notice_sleep(self) -> None:
        now = self._clock()
        missed = self._sleep.missed(now, self._wall_clock())
        if missed is not None:
            log.info("the machine was asleep")
            self._life.slept(missed, now)
            if self._life.action is not Action.READ:
                self._drop()

    def _adopt(self, connection: EventConnection) -> None:
        self._decoder = Decoder()
        with self._lock:
            self._connection = connection
        if self._closed.is_set():
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _close(self, reason: str) -> None:
        self._announce(StreamState.CLOSED, reason)
        self._closed.set()
        self._woken.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._drop()
        self._release()

    def _announce(self, state: StreamState, reason: str) -> None:
        """Log and report a new state; no state follows CLOSED, and an error in the callback does not end the stream."""
        with self._lock:
            if self.state is StreamState.CLOSED or (self.state, self.reason) == (state, reason):
                return
            self.state, self.reason = state, reason
        log.info("%s%s", state, reason and f": {reason}")
        if self._on_state is None:
            return
        try:
            self._on_state(state, reason)
        except Exception:
            log.exception("on_state raised an error")
