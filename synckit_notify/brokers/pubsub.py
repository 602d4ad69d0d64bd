"""The broker between processes over an engine with publish and subscribe.

    publish ── sender ──── engine ──▶ every process ──▶ Listener ── receive

One connection listens from the first stream on, the sender has its own; each is opened at first use. All processes
share one subscription, so its confirmation tells whether messages may have been missed. Neither a push request nor
gevent's hub (its event loop) waits for the engine.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ..runtime.logs import log
from ..runtime.process_end import before_end
from .base import BrokerStatus, Gap, Message
from .engine import ConnectionLost, Engine
from .listener import DEFAULT_TIMING, Echo, Listener, Timing
from .messages import Content, Probe, is_sound
from .sender import LIMIT, Sender

CLOSING_SECONDS = 2.0
"""How long the end of a process may wait for messages that are not sent yet."""


class Sending(Protocol):
    """Takes messages and sends them, in the order of their first message for each channel; any thread may call it."""

    @property
    def pending(self) -> int:
        """Return how many messages have not been sent."""

    def put(self, content: Content) -> None:
        """Send soon; returns at once and never raises."""

    def flush(self, seconds: float) -> bool:
        """Wait until no message waits to be sent, for `seconds` at most; return whether none does."""

    def retry(self) -> None:
        """End the pause after a failure: the broker was reached."""

    def renew(self) -> None:
        """Connect anew before the next message: what was sent does not come back."""

    def close(self, seconds: float) -> None:
        """Try to send the waiting messages, for `seconds` at most, then close."""


MakeSender = Callable[[Any, str, Echo, Timing, int], Sending]
"""Returns the sender for an engine, the id of this process, its echo, the periods and the limit of waiting messages."""


def _batch_sender(engine: Engine, token: str, echo: Echo, timing: Timing, limit: int) -> Sending:
    return Sender(engine.connect, token, longest_pause=timing.longest_pause, probe_sent=echo.sent, limit=limit)


class PubSubBroker:
    """Made in the process that uses it; opens nothing until `start` or the first `publish`."""

    closing_seconds = CLOSING_SECONDS

    def __init__(
        self,
        engine: Engine,
        *,
        timing: Timing = DEFAULT_TIMING,
        limit: int = LIMIT,
        make_sender: MakeSender = _batch_sender,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        token = secrets.token_hex(8)
        self._echo = Echo(timing)
        self._sender = make_sender(engine, token, self._echo, timing, limit)
        self._listener = Listener(
            engine.connect,
            token,
            timing=timing,
            echo=self._echo,
            probe=lambda: self._sender.put(Probe()),
            reached=self._sender.retry,
            renew_sender=self._sender.renew,
            deaf_warning=engine.deaf_warning,
        )
        self._engine = engine
        self._forget_end: Callable[[], None] | None = None
        self._warned = False

    def start(self, receive: Callable[[Message], None]) -> None:
        """Start to listen, until the process ends."""
        self._use()
        connection = None
        if self._engine.is_instant:
            with suppress(ConnectionLost):  # the listener tries again, and reports it
                connection = self._engine.connect()
        try:
            self._listener.start(receive, connection)
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def publish(self, message: Message) -> None:
        """Send soon. A message that other processes would refuse becomes a Gap, so that no notice is lost."""
        self._use()
        if not is_sound(message):
            if not self._warned:
                log.warning(
                    "a notice has an id that is empty or longer than 128 characters: every device is woken instead"
                )
            self._warned = True
            message = Gap()
        self._sender.put(message)

    def status(self) -> BrokerStatus:
        """Return the state of the connection to the other processes."""
        connected = self._listener.connected
        return BrokerStatus(
            connected=connected,
            echo=connected and self._echo.is_alive(time.monotonic()),
            gaps=self._listener.gaps,
            invalid=self._listener.invalid,
            pending=self._sender.pending,
            queue_usage=self._engine.queue_usage,
        )

    def describe(self) -> str:
        """Return what the engine says about its address."""
        return self._engine.describe()

    def flush(self, seconds: float) -> bool:
        """Wait until the engine has accepted all messages, for `seconds` at most; return whether it has."""
        return self._sender.flush(seconds)

    def close(self) -> None:
        """Send the waiting messages, for `closing_seconds` at most, and close both connections."""
        if self._forget_end is not None:
            self._forget_end()
        until = time.monotonic() + self.closing_seconds
        self._listener.stop()
        self._sender.close(self.closing_seconds)
        self._listener.join(until - time.monotonic())

    def _use(self) -> None:
        """Register to send the waiting messages before the process ends, as a short command does."""
        if self._forget_end is None:
            self._forget_end = before_end(self.close)
