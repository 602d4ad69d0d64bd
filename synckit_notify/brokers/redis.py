"""The broker between processes and machines: Redis, Valkey or another server with their protocol.

    publish ── Sender ──── PUBLISH ──▶ one channel, <namespace>:notices ── every process's Listener ── receive

Two connections per process, each opened at first use: one subscribes from the first stream on, one sends. All processes
share one channel, so one confirmation tells whether messages may have been missed. Neither a push request nor gevent's
hub (its event loop) waits for the broker: `publish` puts the message into a bounded set, and a thread sends it.
"""

import secrets
import time
from collections.abc import Callable

from ..runtime.logs import log
from ..runtime.process_end import before_end
from .base import BrokerStatus, Gap, Message
from .connection import Server
from .listener import DEFAULT_TIMING, Echo, Listener, Timing
from .messages import Probe, is_sound
from .sender import LIMIT, Sender

CLOSING_SECONDS = 2.0


class RedisBroker:
    """Made in the process that uses it; opens nothing until `start` or the first `publish`."""

    name = "redis"

    def __init__(
        self, url: str, namespace: str = "synckit", *, timing: Timing = DEFAULT_TIMING, limit: int = LIMIT
    ) -> None:
        server = Server(url, timeout=timing.answer)
        channel, token = f"{namespace}:notices", secrets.token_hex(8)
        self._echo = Echo(timing)
        self._sender = Sender(
            server.connect,
            channel,
            token,
            longest_pause=timing.longest_pause,
            probe_sent=self._echo.sent,
            limit=limit,
        )
        self._listener = Listener(
            server.connect,
            channel,
            token,
            timing=timing,
            echo=self._echo,
            probe=lambda: self._sender.put(Probe()),
            confirmed=self._sender.retry,
        )
        self._forget_end: Callable[[], None] | None = None
        self._warned = False

    def start(self, receive: Callable[[Message], None]) -> None:
        """Start to listen, until the process ends."""
        self._use()
        self._listener.start(receive)

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
        )

    def flush(self, seconds: float) -> bool:
        """Wait until the broker has accepted all messages, for `seconds` at most; return whether it has."""
        return self._sender.flush(seconds)

    def close(self) -> None:
        """Send the waiting messages, for two seconds at most, and close both connections."""
        if self._forget_end is not None:
            self._forget_end()
        until = time.monotonic() + CLOSING_SECONDS
        self._listener.stop()
        self._sender.close(CLOSING_SECONDS)
        self._listener.join(until - time.monotonic())

    def _use(self) -> None:
        """Register to send the waiting messages before the process ends, as a short command does."""
        if self._forget_end is None:
            self._forget_end = before_end(self.close)
