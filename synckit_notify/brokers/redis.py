"""The engine for Redis, Valkey and other servers with their protocol; the only module that knows redis-py.

    publish ──── PUBLISH ──▶ one channel, <namespace>:notices ──▶ every process that is subscribed

By default redis-py retries for seconds, and reconnects and subscribes again silently. Here it only parses the URL,
makes one connection and speaks the protocol. Errors of redis-py may quote what was sent, so the URL's password is
removed from every message. Imported only for a URL that needs it.
"""

import codecs
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..runtime.redis_py import no_client_info
from .engine import ConnectionLost, Signal
from .urls import refused_option

OURS: dict[str, Any] = {
    "db": 0,  # pub/sub ignores databases
    "protocol": 2,
    "decode_responses": False,
    "retry": None,
    "retry_on_timeout": False,
    "retry_on_error": [],
    "health_check_interval": 0,
}
"""Options that a URL cannot change; redis-py reads all others from the URL."""

MAX_SENTENCE_CHARACTERS = 200

codecs.lookup("idna")  # else the first look-up of a host imports it in our thread, and a fork at that moment deadlocks


class RedisEngine:
    """The address and options of a server; raises ConfigurationError if redis-py is missing or cannot read the URL.

    `timeout` bounds the time of a connection and of each answer, in seconds.
    """

    name = "redis"
    is_instant = False
    deaf_warning: str | None = None
    queue_usage = 0.0

    def __init__(self, url: str, namespace: str, *, timeout: float) -> None:
        self._channel = f"{namespace}:notices"
        self._timeout = timeout
        self._library = _library()
        try:
            self._kind, self._options = self._read(url)
        except Exception:  # its text may hold a part of a password that was not percent-encoded
            raise refused_option(url, self._read) or ConfigurationError(
                "SYNCKIT_BROKER_URL must be redis://[[user]:password@]host[:port], rediss://... or unix:///path, "
                "with the special characters of a password percent-encoded"
            ) from None

    def _read(self, url: str) -> tuple[Any, dict[str, Any]]:
        """Return the class of the connection and its options; raises what redis-py raises."""
        ours = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
        options = ours | self._library.parse_url(url) | OURS
        options |= no_client_info(self._library.AbstractConnection)
        options.pop("max_connections", None)
        kind = options.pop("connection_class", self._library.Connection)
        kind(**options)
        return kind, options

    def describe(self) -> str:
        """Return the address and the namespace."""
        options = self._options
        address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        return f"redis at {address}, namespace {self._channel.removesuffix(':notices')}"

    def connect(self) -> "RedisConnection":
        """Return an open connection; raises ConnectionLost."""
        secrets = [self._options.get("password"), self._options.get("ssl_password")]
        return RedisConnection(self._kind(**self._options), self._channel, [secret for secret in secrets if secret])


class RedisConnection:
    """One connection of redis-py."""

    def __init__(self, connection: Any, channel: str, secrets: list[str]) -> None:
        self._connection = connection
        self._channel = channel
        self._secrets = secrets
        with self._translated():
            connection.connect()

    def subscribe(self) -> None:
        """Send SUBSCRIBE."""
        self._send(("SUBSCRIBE", self._channel))

    def ping(self) -> None:
        """Send PING."""
        self._send(("PING",))

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send all messages in one round trip."""
        self._send(*(("PUBLISH", self._channel, message) for message in messages))
        for _ in messages:
            self._answer()

    def wait(self, seconds: float) -> bytes | Signal | None:
        """Return the next message or signal, if its answer begins within `seconds`."""
        with self._translated():
            if not self._connection.can_read(max(0.0, seconds)):
                return None
        match self._answer():
            case [b"message", _, bytes(data)]:
                return data
            case [b"pong", *_] | b"PONG":
                return Signal.PONG
            case [b"subscribe", *_]:
                return Signal.SUBSCRIBED
            case _:
                raise ConnectionLost("the broker sent an unexpected answer")

    def close(self) -> None:
        """Close; never raises."""
        with contextlib.suppress(Exception):
            self._connection.disconnect()

    def _send(self, *commands: tuple[str | bytes, ...]) -> None:
        with self._translated():
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def _answer(self) -> Any:
        """Return the next answer; raises ConnectionLost for an error answer and after the timeout."""
        with self._translated():
            return self._connection.read_response()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.close()
            raise ConnectionLost(self._sentence(error)) from None

    def _sentence(self, error: Exception) -> str:
        text = str(error).partition(", with args")[0]  # a broker that does not know AUTH repeats what it was sent
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return f"{type(error).__name__}: {' '.join(text.split())[:MAX_SENTENCE_CHARACTERS]}"


def _library() -> Any:
    try:
        from redis import connection
    except ImportError as error:
        raise ConfigurationError(
            "SYNCKIT_BROKER_URL needs redis-py, which is not installed: pip install 'synckit-notify[redis]'"
        ) from error
    return connection
