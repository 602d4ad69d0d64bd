"""The only module that knows redis-py: a URL in, connections out, and every failure is a ConnectionLost.

By default redis-py retries for seconds, and reconnects and subscribes again silently. Here it only parses the URL,
makes one connection and speaks the protocol; the listener and the sender watch the connection. Errors of redis-py may
quote what was sent, so the URL's password is removed from every message. Imported only for a URL that needs it.
"""

import codecs
import contextlib
import random
from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from ..runtime.redis_py import no_client_info

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


class ConnectionLost(Exception):
    """The connection failed and is closed; the message holds no password."""


class Server:
    """The address and options of a broker; raises ConfigurationError if redis-py is missing or cannot read the URL."""

    def __init__(self, url: str, *, timeout: float) -> None:
        library = _library()
        try:
            options = {"socket_timeout": timeout, "socket_connect_timeout": timeout} | library.parse_url(url) | OURS
            options |= no_client_info(library.AbstractConnection)  # SUBSCRIBE, PUBLISH and PING are all that is used
            options.pop("max_connections", None)
            self._kind = options.pop("connection_class", library.Connection)
            self._options = options
            self._kind(**options)
        except Exception:  # its text may hold a part of a password that was not percent-encoded
            raise ConfigurationError(
                "SYNCKIT_BROKER_URL must be redis://[[user]:password@]host[:port], rediss://... or unix:///path, "
                "with the special characters of a password percent-encoded"
            ) from None

    def connect(self) -> "Connection":
        """Return an open connection; raises ConnectionLost."""
        secrets = [self._options.get("password"), self._options.get("ssl_password")]
        return Connection(self._kind(**self._options), [secret for secret in secrets if secret])


class Connection:
    """One connection. Another thread may close it, which ends a waiting read."""

    def __init__(self, connection: Any, secrets: list[str]) -> None:
        self._connection = connection
        self._secrets = secrets
        with self._translated():
            connection.connect()

    def send(self, *commands: tuple[str | bytes, ...]) -> None:
        """Send commands in one write."""
        with self._translated():
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    def answer(self) -> Any:
        """Return the next answer; raises ConnectionLost for an error answer and after a timeout."""
        with self._translated():
            return self._connection.read_response()

    def wait(self, seconds: float) -> Any | None:
        """Return the next answer if it begins within `seconds`, else None."""
        with self._translated():
            return self._connection.read_response() if self._connection.can_read(max(0.0, seconds)) else None

    def close(self) -> None:
        """Close; never raises."""
        with contextlib.suppress(Exception):
            self._connection.disconnect()

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


def pause(failures: int, longest: float) -> float:
    """Return the seconds to wait after this many failures in a row, randomized."""
    return random.uniform(0.5, 1.0) * min(longest, 0.25 * 2.0 ** min(failures, 16))


def _library() -> Any:
    try:
        from redis import connection
    except ImportError as error:
        raise ConfigurationError(
            "SYNCKIT_BROKER_URL needs redis-py, which is not installed: pip install 'synckit-notify[redis]'"
        ) from error
    return connection
