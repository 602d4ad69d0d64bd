"""The way in: a thread that is subscribed, or about to be again.

    connect ── SUBSCRIBE ── confirmed: a Gap, since messages may have passed meanwhile
       ▲                       ├─ a message of another process: received
       │                       ├─ one of our own: the way is open in both directions
       │                       └─ now and then a PING, and a probe to hear ourselves
       └── a pause ◀── lost: an error, no PONG in time, or deaf: what we sent was taken and never came

Otherwise nobody would notice a broker that hangs, or a subscription that a failover left behind on another server.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..runtime.logs import log
from .base import Gap, Message
from .connection import Connection, ConnectionLost, pause
from .messages import Probe, decode

COMPLAINT_SECONDS = 60.0
"""Between two log lines about messages that are none of ours."""

IN_A_ROW = 50
"""Messages, 3 ms of work, then a breath: after an outage thousands come at once, and reading them does not yield."""

BREATH_SECONDS = 0.001
"""Not 0: gevent turns such sleeps into callbacks, and looks at timers and sockets after fifty of them only."""

Receive = Callable[[Message], None]


class Timing(NamedTuple):
    """The periods of a broker in seconds: one that hangs is lost within `ping` and `answer`."""

    ping: float = 3.0
    probe: float = 5.0
    """After so long without hearing ourselves we send something to hear."""
    answer: float = 5.0
    """How long to wait for a connection, for each answer of the broker, and for what we sent to come back."""
    longest_pause: float = 5.0


DEFAULT_TIMING = Timing()


class Echo:
    """Whether what this process sends comes back to it; the sender's thread calls `sent`, the listener's the rest."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Start over with a new subscription: what was sent before need not come back."""
        self._since = now
        self._asked = False
        self._sent_at: float | None = None
        self._due_at = 0.0
        self._heard_at: float | None = None

    def ask(self, now: float) -> bool:
        """Return whether to send a probe now; not while one is on its way."""
        if self._asked or (self._heard_at is not None and now - self._heard_at < self._timing.probe):
            return False
        self._asked = True
        return True

    def sent(self, at: float, taken_at: float) -> None:
        """Note that the broker took a probe; we may well hear it before we know."""
        if at >= self._since:
            self._sent_at, self._due_at = at, taken_at + self._timing.answer

    def heard(self, now: float) -> None:
        """Note that a message of our own came."""
        self._heard_at = now
        self._asked = False

    def missing(self, now: float) -> bool:
        """Return whether the broker took a probe that should have come back by now."""
        if self._sent_at is None or (self._heard_at is not None and self._heard_at >= self._sent_at):
            return False
        return now > self._due_at

    def is_alive(self, now: float) -> bool:
        """Return whether this process heard itself lately."""
        return self._heard_at is not None and now - self._heard_at <= self._timing.probe + 2 * self._timing.answer


class Listener:
    """One subscribed connection, watched over by a daemon thread until `close`."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        channel: str,
        token: str,
        *,
        timing: Timing,
        echo: Echo,
        probe: Callable[[], None],
        confirmed: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._token = token
        self._timing = timing
        self._echo = echo
        self._probe = probe
        self._confirmed = confirmed
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._subscribed_at: float | None = None
        self._owed_since: float | None = None
        self._failures = 0
        self._complained_at = float("-inf")
        self._heard = 0
        self.gaps = 0
        self.invalid = 0

    @property
    def connected(self) -> bool:
        """Return whether the broker has confirmed the subscription, and it still holds."""
        return self._subscribed_at is not None

    def start(self, receive: Receive) -> None:
        """Begin to listen; `receive` is called from the listener's thread, and may raise.

        Raises RuntimeError if there is no thread to be had, and may then be called again.
        """
        self._receive = receive
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
            self._closing.wait(pause(self._failures, self._timing.longest_pause))

    def _lose(self, error: Exception) -> None:
        """Count a failure; a subscription that had held for a while was none, so that pauses start small again."""
        since, self._subscribed_at = self._subscribed_at, None
        now = time.monotonic()
        held = since is not None and now - since > self._timing.longest_pause and self._echo.is_alive(now)
        self._failures = 1 if held else self._failures + 1
        if self._closing.is_set():
            return
        if not isinstance(error, ConnectionLost):
            log.error("listening to the broker failed; connecting again", exc_info=error)
        elif self._failures == 1:
            log.warning("the broker is lost; connecting again until it is back: %s", error)

    def _listen(self) -> None:
        """Connect, subscribe and receive until that fails."""
        connection = self._connection = self._connect()
        try:
            connection.send(("SUBSCRIBE", self._channel))
            self._owed_since = time.monotonic()
            ping_at = self._owed_since + self._timing.ping
            while not self._closing.is_set():
                until = ping_at if self._owed_since is None else self._owed_since + self._timing.answer
                answer = connection.wait(until - time.monotonic())
                now = time.monotonic()
                if answer is None:
                    self._check(now)
                else:
                    self._handle(answer, now)
                if self._owed_since is None and now >= ping_at:
                    connection.send(("PING",))
                    self._owed_since, ping_at = now, now + self._timing.ping
                if self.connected and self._echo.ask(now):
                    self._probe()
        finally:
            connection.close()

    def _check(self, now: float) -> None:
        """Raise Lost if something should have come by now. Asked only when nothing is left to read."""
        if self._owed_since is not None and now - self._owed_since >= self._timing.answer:
            raise ConnectionLost("it does not answer")
        if self._echo.missing(now):
            raise ConnectionLost("this process is deaf: what it sends does not come back")

    def _handle(self, answer: Any, now: float) -> None:
        if self._owed_since is not None:
            self._owed_since = now  # whoever talks is alive, even if the PONG takes its time on a slow line
        match answer:
            case [b"message", _, data]:
                self._hear(data, now)
            case [b"pong", *_] | b"PONG":
                self._owed_since = None
            case [b"subscribe", *_]:
                self._subscribe(now)
            case _:
                raise ConnectionLost("it answers what was not asked")

    def _subscribe(self, now: float) -> None:
        if self._failures:
            log.info("the broker is back")
        self._owed_since = None
        self._echo.begin(now)
        self._subscribed_at = now
        self._confirmed()
        self._deliver(Gap())

    def _hear(self, data: bytes, now: float) -> None:
        self._heard += 1
        if self._heard % IN_A_ROW == 0:
            time.sleep(BREATH_SECONDS)
        try:
            sender, content = decode(data)
        except ValueError as error:
            self._complain(error, now)
            return
        if sender == self._token:
            self._echo.heard(now)
        elif not isinstance(content, Probe):
            self._deliver(content)

    def _deliver(self, message: Message) -> None:
        self.gaps += isinstance(message, Gap)
        try:
            self._receive(message)
        except Exception:
            log.exception("a message of another process could not be delivered")

    def _complain(self, error: ValueError, now: float) -> None:
        self.invalid += 1
        if now - self._complained_at >= COMPLAINT_SECONDS:
            self._complained_at = now
            log.warning(
                "dropped a message in %s that is none of ours (%s), %d so far", self._channel, error, self.invalid
            )
