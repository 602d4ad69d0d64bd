"""The broker between processes and machines: Redis, Valkey or whatever else speaks their protocol.

    publish ── Sender ──── PUBLISH ──▶ one channel, <namespace>:notices ── every process's Listener ── receive

Two connections per process, both opened at first use: one that is subscribed from the first stream on, and one that
sends. One shared channel, so that one confirmation tells whether anything can have been missed. Neither a push request
nor the hub ever waits for the broker: `publish` puts the message into a bounded set, and a thread does the rest.
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
    """Made in the process that uses it; holds nothing but locks until `start` or the first `publish`."""

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
        """Begin to listen, for as long as the process lives."""
        self._use()
        self._listener.start(receive)

    def publish(self, message: Message) -> None:
        """Send soon; what other processes would refuse as malformed becomes a Gap, so that nothing is lost."""
        self._use()
        if not is_sound(message):
            if not self._warned:
                log.warning(
                    "a notice has an id that is empty or longer than 128 characters: all devices are woken instead"
                )
            self._warned = True
            message = Gap()
        self._sender.put(message)

    def status(self) -> BrokerStatus:
        """Return how the way to the other processes is now."""
        connected = self._listener.connected
        return BrokerStatus(
            connected=connected,
            echo=connected and self._echo.is_alive(time.monotonic()),
            gaps=self._listener.gaps,
            invalid=self._listener.invalid,
            pending=self._sender.pending,
        )

    def flush(self, seconds: float) -> bool:
        """Wait until the broker has taken what waits, for so many seconds at most; return whether it has."""
        return self._sender.flush(seconds)

    def close(self) -> None:
        """Send what waits, for two seconds at most, and let go of both connections."""
        if self._forget_end is not None:
            self._forget_end()
        until = time.monotonic() + CLOSING_SECONDS
        self._listener.stop()
        self._sender.close(CLOSING_SECONDS)
        self._listener.join(until - time.monotonic())

    def _use(self) -> None:
        """Remember to send what waits before the process ends: a command publishes and is gone."""
        if self._forget_end is None:
            self._forget_end = before_end(self.close)
