"""The engine for PostgreSQL: LISTEN and NOTIFY; the only module of this room that knows psycopg.

    publish ──── pg_notify ──▶ one channel, <namespace>:notices ──▶ every session of the database that listens

It calls libpq through psycopg.pq, without psycopg's own connections: those may drop notifications that arrive during
another command, resolve host names without yielding to gevent, and wait in C if they were loaded before gevent's
patches. Here select.poll waits, which gevent replaces. Imported only for a URL that needs it.
"""

import codecs
import contextlib
import hashlib
import json
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..runtime import gevent_compat
from .engine import ConnectionLost, Signal

try:
    from psycopg import pq
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise ConfigurationError(
        "SYNCKIT_BROKER_URL needs psycopg, which is not installed: pip install 'synckit-notify[postgres]'"
    ) from error

DEFAULTS: dict[str, Any] = {"application_name": "synckit", "tcp_user_timeout": "15000", "keepalives_idle": "30"}
"""libpq's parameters, unless the URL sets them."""

OURS: dict[str, Any] = {
    "client_encoding": "utf8",
    "target_session_attrs": "read-write",  # a standby does not accept LISTEN or NOTIFY
}
"""libpq's parameters that a URL cannot change."""

MAX_CHANNEL_BYTES = 63
"""PostgreSQL cuts longer names of LISTEN and refuses them in pg_notify."""

MAX_SENTENCE_CHARACTERS = 200

STATE = b"SELECT pg_is_in_recovery(), pg_notification_queue_usage()"

NOTIFY = b"SELECT pg_notify($1, value) FROM json_array_elements_text($2::json)"
"""A batch in one statement and one round trip: $2 is a JSON array of messages."""

codecs.lookup("idna")  # else the first look-up of a host imports it in our thread, and a fork at that moment deadlocks


class PostgresEngine:
    """The address of a database; raises ConfigurationError if libpq cannot read the URL.

    `timeout` bounds the time of a connection to one address, and of each answer, in seconds.
    """

    name = "postgresql"
    is_instant = False
    deaf_warning: str | None = (
        "LISTEN does not work through this pooler: give SYNCKIT_BROKER_URL a direct address, Redis or local://"
    )

    def __init__(self, url: str, namespace: str, *, timeout: float) -> None:
        self.queue_usage = 0.0
        self.channel = channel_name(namespace)
        self.timeout = timeout
        try:
            given = conninfo_to_dict("postgresql://" + url.partition("://")[2])
            self._options = DEFAULTS | given | OURS
        except Exception as error:  # its text may hold a part of a password that was not percent-encoded
            unknown = str(error) if "invalid URI query parameter" in str(error) else ""
            raise ConfigurationError(
                "SYNCKIT_BROKER_URL must be postgresql://[[user[:password]@]host[:port]/]database, with the special "
                f"characters of a password percent-encoded; {unknown or 'libpq cannot read it'}"
            ) from None
        self.secrets = [str(given[name]) for name in ("password", "sslpassword") if given.get(name)]

    def describe(self) -> str:
        """Return the address, the database and the channel."""
        options = self._options
        place = f"{options.get('host') or 'the default host'}, database {options.get('dbname') or 'by default'}"
        return f"postgresql at {place}, channel {self.channel}"

    def connect(self) -> "PostgresConnection":
        """Return an open connection to the first address that is a primary; raises ConnectionLost."""
        lost: ConnectionLost | None = None
        for options in _hosts(self._options):
            try:
                for address in _addresses(options):
                    try:
                        return PostgresConnection(make_conninfo(**options | address).encode(), self)
                    except ConnectionLost as error:
                        lost = error
            except OSError as error:
                lost = ConnectionLost(f"the host {options['host']!r} cannot be resolved: {error.strerror}")
        assert lost is not None
        raise lost


class PostgresConnection:
    """One connection of libpq. Statements are sent without waiting, and each is a transaction of its own."""

    def __init__(self, conninfo: bytes, engine: PostgresEngine) -> None:
        self._engine = engine
        self._in_use = threading.Lock()
        self._ending = threading.Lock()
        self._awaited: Signal | None = None
        self._connection = pq.PGconn.connect_start(conninfo)
        with self._used():
            self._open()

    def subscribe(self) -> None:
        """Send LISTEN."""
        quoted = self._engine.channel.replace('"', '""')
        self._ask(f'LISTEN "{quoted}"; '.encode() + STATE, Signal.SUBSCRIBED)

    def ping(self) -> None:
        """Ask whether the server is still a primary, and how full its queue is."""
        self._ask(STATE, Signal.PONG)

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send all messages in one statement."""
        batch = json.dumps([message.decode() for message in messages])
        with self._used():
            until = time.monotonic() + self._engine.timeout
            self._connection.send_query_params(NOTIFY, [self._engine.channel.encode(), batch.encode()])
            self._flush(until)
            while self._next_result(until) is not None:
                pass
            while self._connection.notifies() is not None:
                pass  # a pooler may have given this connection a session that listens

    def wait(self, seconds: float) -> bytes | Signal | None:
        """Return the next message or signal, if it is complete within `seconds`."""
        until = time.monotonic() + seconds
        with self._used():
            while True:
                notification = self._connection.notifies()
                if notification is not None:
                    if notification.relname == self._engine.channel.encode():
                        return bytes(notification.extra)
                elif self._awaited is not None and not self._connection.is_busy():
                    if (signal := self._answered()) is not None:
                        return signal
                elif self._poll(select.POLLIN, until):
                    self._connection.consume_input()
                else:
                    return None

    def close(self) -> None:
        """Close; never raises. If another thread waits, end its wait: it closes the connection."""
        with contextlib.suppress(Exception):
            self._shut_down()
        if self._in_use.acquire(blocking=False):
            try:
                self._finish()
            finally:
                self._in_use.release()

    def _open(self) -> None:
        until = time.monotonic() + self._engine.timeout
        while self._connection.status != pq.ConnStatus.BAD:
            match self._connection.connect_poll():
                case pq.PollingStatus.OK:
                    self._connection.nonblocking = 1
                    return
                case pq.PollingStatus.READING:
                    self._need(select.POLLIN, until)
                case pq.PollingStatus.WRITING:
                    self._need(select.POLLOUT, until)
                case _:
                    break
        raise ConnectionLost(self._connection.error_message.decode(errors="replace"))

    def _ask(self, query: bytes, answer: Signal) -> None:
        with self._used():
            self._connection.send_query(query)
            self._awaited = answer
            self._flush(time.monotonic() + self._engine.timeout)

    def _flush(self, until: float) -> None:
        """Hand what was asked to the kernel; meanwhile read, since the server may wait for that."""
        while self._connection.flush():
            self._need(select.POLLIN | select.POLLOUT, until)
            self._connection.consume_input()

    def _next_result(self, until: float) -> pq.abc.PGresult | None:
        """Return the next result of the statement in flight; None after its last one."""
        while self._connection.is_busy():
            self._need(select.POLLIN, until)
            self._connection.consume_input()
        result = self._connection.get_result()
        if result is not None and result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise ConnectionLost(result.error_message.decode(errors="replace"))
        return result

    def _answered(self) -> Signal | None:
        """Take one result of LISTEN or a ping, which is here already; return the signal after the last one."""
        result = self._next_result(0.0)
        if result is None:
            signal, self._awaited = self._awaited, None
            return signal
        if result.ntuples:
            if result.get_value(0, 0) != b"f":
                raise ConnectionLost("the server is a standby")
            self._engine.queue_usage = float(result.get_value(0, 1) or 0.0)
        return None

    def _need(self, events: int, until: float) -> None:
        if not self._poll(events, until):
            raise ConnectionLost(f"the server did not answer within {self._engine.timeout:g} s")

    def _poll(self, events: int, until: float) -> bool:
        """Wait for the socket until a time; return whether it is ready."""
        poll = select.poll()  # gevent's, if the process is patched by now
        poll.register(self._connection.socket, events)
        return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        with self._in_use:
            try:
                yield
            except Exception as error:
                self._finish()
                raise ConnectionLost(self._sentence(error)) from None

    def _finish(self) -> None:
        with self._ending:
            self._connection.finish()

    def _shut_down(self) -> None:
        """End a wait of another thread. Only that thread may free the connection."""
        with self._ending:
            sock = gevent_compat.own_socket(self._connection.socket)
            try:
                sock.shutdown(socket.SHUT_RDWR)
            finally:
                sock.detach()

    def _sentence(self, error: Exception) -> str:
        text = str(error)
        for secret in self._engine.secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:MAX_SENTENCE_CHARACTERS]


def channel_name(namespace: str) -> str:
    """Return a channel's name that every server accepts: at most 63 bytes of ASCII, a digest where needed."""
    name = f"{namespace}:notices"
    if name.isascii() and len(name) <= MAX_CHANNEL_BYTES:
        return name
    return f"synckit:{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def _hosts(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the options for each host of a list: libpq bounds the time of a connection for all of them together."""
    lists = {name: str(options[name]).split(",") for name in ("host", "hostaddr", "port") if options.get(name)}
    for index in range(max([1, *(len(values) for name, values in lists.items() if name != "port")])):
        yield options | {name: values[index if len(values) > 1 else 0] for name, values in lists.items()}


def _addresses(options: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Return the addresses of one host: libpq would resolve it without yielding to gevent. Raises OSError."""
    host = options.get("host")
    if not host or host[0] in "/@" or options.get("hostaddr"):
        yield {}
        return
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    for address in dict.fromkeys(str(each[4][0]) for each in found):
        yield {"hostaddr": address}
