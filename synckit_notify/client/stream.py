"""`SyncNotifyStream`: an iterator that says when to pull, and keeps itself connected.

    lifecycle says what and when ──▶ this file does it: connect, read, refresh, ask, wait ──▶ lifecycle is told

No rule is written here, only doing and waiting. The network comes in as a `StreamSession`, which the session
implements; time and chance come in as functions. One thread iterates; any thread may call `close()` and `retry_now()`.
Calls of the session run in threads of their own, so that closing does not wait for them.
"""

import logging
import os
import random as chance
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from ..sse import Decoder
from .cancellable import start
from .errors import NetworkError, NotAuthenticated, ProtocolError, ServerError, StateError
from .lifecycle import Action, Lifecycle
from .schedule import RetryPolicy, SleepWatch, StreamState, SyncNotification

__all__ = ["EventConnection", "RetryPolicy", "StreamSession", "StreamState", "SyncNotification", "SyncNotifyStream"]

SLICE_SECONDS = 5.0
"""No wait is longer: the clock that time limits count by stands still in sleep, and a waker must be noticed soon."""

MAX_READS = 100
"""So many pieces are read into one notification at most, so that a flood cannot keep it from the app."""

DEFAULT_POLICY = RetryPolicy()

log = logging.getLogger("synckit_notify.client")

T = TypeVar("T")


class EventConnection(Protocol):
    """One answer to a subscription; `headers` has its keys in lower case."""

    status: int
    headers: Mapping[str, str]

    def read(self, timeout: float) -> bytes:
        """Return the next bytes, b"" at the clean end of the body.

        Raises TimeoutError if none come within `timeout` seconds, and can then be called again; 0 returns what is
        there already. Raises NetworkError if the connection broke.
        """

    def text(self) -> str:
        """Return the server's words of an answer that is no stream."""

    def close(self) -> None:
        """Shut the socket down; any thread, any number of times. A read elsewhere ends at once with NetworkError."""


class StreamSession(Protocol):
    """What the stream needs of a session."""

    def connect(self) -> EventConnection:
        """Subscribe with the present token, one attempt; raises NetworkError, or NotAuthenticated without a token."""

    def refresh(self) -> None:
        """Get a new token; raises NotAuthenticated if refused, NetworkError or ServerError to try later."""

    def position(self) -> tuple[str, int]:
        """Return the server's epoch and cursor; raises NetworkError, ServerError, NotAuthenticated."""

    def watch(self, stream: "SyncNotifyStream") -> None:
        """Call the stream's `request_succeeded` after each request that succeeds; it is held weakly."""


class SyncNotifyStream:
    """Yields `CHANGED` when there may be something to pull, `KEEPALIVE` when the server says that it is there.

    Raises NotAuthenticated when the user must log in again, after which iterating goes on where it stopped; raises
    ServerError when the server refuses for good, which closes the stream. `close()` ends the iteration at once, also
    while a connection is being made or a token renewed. `on_state` is called from the iterating thread, or from the one
    that closes.
    """

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
        self.reason = "not begun"
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
        session.watch(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SyncNotification:
        if os.getpid() != self._maker:
            raise StateError(
                "this stream was made before the process was forked, and its connection belongs to the parent process; "
                "call subscribe_notifications() in this process"
            )
        while not self._closed.is_set():
            self._notice_sleep()
            self._notice_wishes()
            notification = self._life.notices.tell(self._clock())
            if notification is not None:
                return notification
            self._step()
        raise StopIteration

    def close(self) -> None:
        """End the iteration, whichever thread it runs in; closing twice, or in a forked process, does nothing more."""
        if os.getpid() == self._maker:
            self._close("closed by the app")

    def retry_now(self) -> None:
        """Connect now instead of waiting for the next attempt; any thread.

        Call it when the operating system reports that the network is back, or that it is another one: a stream that is
        connected is then replaced within 5 s, since its connection may have gone with the network before. It never
        connects sooner than the server asked (`Retry-After`, `retry:`).
        """
        self._retry_wanted = True
        self._woken.set()

    def request_succeeded(self) -> None:
        """Another request was answered, so a waiting stream need not wait much longer; for the session, any thread."""
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
                self._close("the server said to stop (204)")

    def _connect(self) -> None:
        started = self._clock()
        self._life.connecting()
        try:
            connection = self._run(self._session.connect, lambda connection: connection.close())
            self._adopt(connection)
            words = connection.text() if connection.status >= 300 else ""
        except (NetworkError, ProtocolError) as error:  # the latter: a captive portal answers for the server
            now = self._clock()
            self._life.connect_failed(str(error), now, took=now - started)
        else:
            self._life.answered(connection.status, connection.headers, words, self._clock(), self._wall_clock())

    def _read(self, connection: EventConnection) -> None:
        """Wait for bytes, then take all that are there: what came while the app was busy is one notification."""
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
        """Return what a call of the session returns; raises CancelledError as soon as the stream is closed."""
        future = start(call, discard=discard)
        with self._lock:
            self._call = future
        if self._closed.is_set():
            future.cancel()
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C, say: whatever comes of it is discarded
            raise

    def _notice_wishes(self) -> None:
        """Tell the rules what other threads have said meanwhile."""
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
            log.info("woke from sleep")
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

    def _announce(self, state: StreamState, reason: str) -> None:
        """Nothing comes after CLOSED; a callback that fails must not end the stream."""
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
            log.exception("the callback for states failed")
