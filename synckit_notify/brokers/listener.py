"""The listener: a thread that keeps a subscription to the broker.

    connect ── subscribe ── confirmed: report a Gap, since messages may have passed meanwhile
       │           (an engine with a `deaf_warning`: when a message of this process has come back, not before)
       ▲                       ├─ a message of another process: pass it on
       │                       ├─ a message of this process (echo): both directions work
       │                       └─ every few seconds a ping, and a probe if there was no echo
       └── a pause ◀── lost: an error, no answer in time, or a probe that was accepted and did not come back

Without this, a broker that hangs, or a subscription that a failover left on another server, would go unnoticed.
"""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..runtime.logs import log
from .base import Gap, Message
from .engine import Connection, ConnectionLost, Signal, pause
from .messages import Probe, decode

WARNING_SECONDS = 60.0
"""Seconds between two log lines about malformed messages."""

MESSAGES_BEFORE_SLEEP = 50
"""Messages (3 ms of work) before a short sleep: after an outage thousands come, and reading them does not yield."""

SHORT_SLEEP_SECONDS = 0.001
"""Not 0: gevent makes callbacks of such sleeps, and looks at timers and sockets only after fifty of them."""

Receive = Callable[[Message], None]


class Timing(NamedTuple):
    """The periods of a broker in seconds; one that hangs is noticed within `ping` + `answer`."""

    ping: float = 3.0
    probe: float = 5.0
    """A probe is sent after this time without an echo."""
    answer: float = 5.0
    """The limit for a connection, for each answer of the broker, and for an echo."""
    longest_pause: float = 5.0
    deaf_pause: float = 300.0
    """Between attempts to subscribe, after two that were accepted and heard nothing."""


DEFAULT_TIMING = Timing()


class Deaf(ConnectionLost):
    """A subscription was accepted, and no message of this process came back."""


class Echo:
    """Whether messages of this process come back to it. The sender's thread calls `sent`, the listener's the rest."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Start over with a new subscription: messages sent before it need not come back."""
        self._since = now
        self._asked = False
        self._sent_at: float | None = None
        self._due_at = 0.0
        self._heard_at: float | None = None

    def ask(self, now: float) -> bool:
        """Return whether to send a probe now; not while one is in flight."""
        if self._asked or (self._heard_at is not None and now - self._heard_at < self._timing.probe):
            return False
        self._asked = True
        return True

    def sent(self, at: float, taken_at: float) -> None:
        """Note that the broker accepted a probe; its echo may come before this call."""
        if at >= self._since:
            self._sent_at, self._due_at = at, taken_at + self._timing.answer

    def heard(self, now: float) -> None:
        """Note that a message of this process came back."""
        self._heard_at = now
        self._asked = False

    def missing(self, now: float) -> bool:
        """Return whether an accepted probe should have come back by now."""
        if self._sent_at is None or (self._heard_at is not None and self._heard_at >= self._sent_at):
            return False
        return now > self._due_at

    def is_alive(self, now: float) -> bool:
        """Return whether a message of this process came back recently."""
        return self._heard_at is not None and now - self._heard_at <= self._timing.probe + 2 * self._timing.answer


class Listener:
    """One subscribed connection, kept by a daemon thread until `stop`."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        token: str,
        *,
        timing: Timing,
        echo: Echo,
        probe: Callable[[], None],
        reached: Callable[[], None],
        renew_sender: Callable[[], None],
        deaf_warning: str | None,
    ) -> None:
        self._connect = connect
        self._token = token
        self._timing = timing
        self._echo = echo
        self._probe = probe
        self._reached = reached
        self._renew_sender = renew_sender
        self._deaf_warning = deaf_warning
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._first: Connection | None = None
        self._nothing_missed = False
        self._subscribed_at: float | None = None
        self._waiting_since: float | None = None
        self._unconfirmed_since: float | None = None
        self._deaf = 0
        self._warned_of_deafness = False
        self._failures = 0
        self._warned_at = float("-inf")
        self._heard = 0
        self.gaps = 0
        self.invalid = 0

    @property
    def connected(self) -> bool:
        """Return whether the subscription is confirmed and alive."""
        return self._subscribed_at is not None

    def start(self, receive: Receive, connection: Connection | None = None) -> None:
        """Start to listen; `receive` is called in the listener's thread and may raise.

        With a connection that is subscribed already, nothing was missed and the first Gap is left out. Raises
        RuntimeError if no thread can be started; it may then be called again.
        """
        self._receive = receive
        self._first = connection
        thread = threading.Thread(target=self._run, name="synckit-listen", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Stop listening; returns at once."""
        self._closing.set()
        if self._connection is not None:
            self._connection.close()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except Exception as error:
                self._lose(error)
                seconds = error.pause_seconds if isinstance(error, ConnectionLost) else None
                self._closing.wait(pause(self._failures, self._timing.longest_pause) if seconds is None else seconds)

    def _lose(self, error: Exception) -> None:
        """Count a failure; after a subscription that held for a while, start again with a short pause."""
        since, self._subscribed_at = self._subscribed_at, None
        if isinstance(error, Deaf):
            self._count_deaf()
            return
        now = time.monotonic()
        held = since is not None and now - since > self._timing.longest_pause and self._echo.is_alive(now)
        self._failures = 1 if held else self._failures + 1
        if self._closing.is_set():
            return
        if not isinstance(error, ConnectionLost):
            log.error("listening to the broker failed; connecting again", exc_info=error)
        elif self._failures == 1 and not error.is_reported:
            log.warning("the connection to the broker is lost; reconnecting: %s", error)

    def _count_deaf(self) -> None:
        self._deaf += 1
        if self._deaf >= 2 and not self._warned_of_deafness:
            self._warned_of_deafness = True
            log.warning("%s", self._deaf_warning)

    def _listen(self) -> None:
        """Connect, subscribe and receive until that fails."""
        first, self._first = self._first, None
        self._nothing_missed = first is not None
        self._unconfirmed_since = None
        connection = self._connection = first or self._connect()
        try:
            connection.subscribe()
            self._waiting_since = time.monotonic()
            ping_at = self._waiting_since + self._timing.ping
            while not self._closing.is_set():
                received = connection.wait(self._next_check(ping_at) - time.monotonic())
                now = time.monotonic()
                if received is None:
                    self._check(now)
                else:
                    self._handle(received, now)
                if self.connected and self._waiting_since is None and now >= ping_at:
                    connection.ping()
                    self._waiting_since, ping_at = now, now + self._timing.ping
                if (self.connected or self._unconfirmed_since is not None) and self._echo.ask(now):
                    self._probe()
        finally:
            connection.close()

    def _next_check(self, ping_at: float) -> float:
        """Return when to stop waiting for messages."""
        if self._waiting_since is not None:
            return self._waiting_since + self._timing.answer
        if self._unconfirmed_since is not None:  # no ping: a pooler may hand messages over together with its answer
            return time.monotonic() + self._timing.answer / 5
        return ping_at

    def _check(self, now: float) -> None:
        """Raise ConnectionLost if an answer or an echo is overdue. Called only when nothing is left to read."""
        if self._waiting_since is not None and now - self._waiting_since >= self._timing.answer:
            raise ConnectionLost("the broker does not answer")
        since = self._unconfirmed_since
        if self._echo.missing(now):
            self._renew_sender()  # a failover may have left it, not this subscription, on another server
            if since is None:
                raise ConnectionLost("messages of this process do not come back to it")
            raise Deaf("no message arrives", pause_seconds=self._timing.deaf_pause if self._deaf else None)
        if since is not None and now - since >= 2 * self._timing.answer:  # connecting, and then the probe's answer
            raise ConnectionLost("the subscription cannot be checked, since nothing can be sent")

    def _handle(self, received: bytes | Signal, now: float) -> None:
        if self._waiting_since is not None:
            self._waiting_since = now  # a broker that sends is alive, even if its answer is late on a slow line
        match received:
            case Signal.PONG:
                self._waiting_since = None
            case Signal.SUBSCRIBED:
                self._accepted(now)
            case Signal.GAP:
                self._deliver(Gap())
            case bytes():
                self._hear(received, now)

    def _accepted(self, now: float) -> None:
        self._waiting_since = None
        self._echo.begin(now)
        self._reached()
        if self._deaf_warning is None:
            self._confirm(now)
        else:
            self._unconfirmed_since = now

    def _confirm(self, now: float) -> None:
        if self._failures:
            log.info("the broker is connected again")
        self._unconfirmed_since = None
        self._deaf = 0
        self._subscribed_at = now
        if not self._nothing_missed:
            self._deliver(Gap())

    def _hear(self, data: bytes, now: float) -> None:
        self._heard += 1
        if self._heard % MESSAGES_BEFORE_SLEEP == 0:
            time.sleep(SHORT_SLEEP_SECONDS)
        try:
            sender, content = decode(data)
        except ValueError as error:
            self._warn(error, now)
            return
        if sender == self._token:
            self._echo.heard(now)
            if self._unconfirmed_since is not None:
                self._confirm(now)
        elif not isinstance(content, Probe):
            self._deliver(content)

    def _deliver(self, message: Message) -> None:
        self.gaps += isinstance(message, Gap)
        try:
            self._receive(message)
        except Exception:
            log.exception("a message of another process could not be delivered")

    def _warn(self, error: ValueError, now: float) -> None:
        self.invalid += 1
        if now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            log.warning("dropped a malformed message of the broker: %s; %d so far", error, self.invalid)
