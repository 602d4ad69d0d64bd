"""What is behind the brokers: one object for each engine, with the faults that the common tests need.

    ENGINES ── fixture `server` (tests/brokers/conftest.py) ── test_engines.py, test_outages.py, test_processes.py
    REMOTE  ── fixture `remote_server`: those with a server process and TCP; it can hang, be slow, or fail over

An engine joins those tests with its name in ENGINES and a fixture `<name>_server`.
"""

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .postgresql import PostgreSQL
from .server import free_port
from .valkey import Valkey

REMOTE = ("redis", "postgresql")
ENGINES = ("local", *REMOTE)
CHANNEL = "synckit:notices"
ANOTHER_VERSION = b'{"v":2,"by":"x","is":"gap"}'


class Server(Protocol):
    """What brokers of one engine connect to."""

    malformed: tuple[bytes, ...]
    """Messages that are none of ours, as far as the server carries them."""

    first_gaps: int
    """How many gaps the first subscription is: none where it is confirmed before the first stream."""

    connections_each: int
    """How many connections a process has that listens and publishes."""

    @property
    def url(self) -> str:
        """Return the URL for SYNCKIT_BROKER_URL."""

    def publish_raw(self, data: bytes) -> None:
        """Send what a stranger may send."""

    def connections(self) -> int:
        """Return how many connections of brokers there are."""

    def kill(self) -> None:
        """End the server at once, as a crash does."""

    def start(self) -> None:
        """Start it again at the same address."""

    def cut_listeners(self) -> None:
        """End the connections that are subscribed."""

    def cut_senders(self) -> None:
        """End the other connections of brokers."""


class RemoteServer(Server, Protocol):
    """A server process that brokers reach over TCP."""

    @property
    def port(self) -> int:
        """Return the TCP port, for a proxy."""

    @property
    def process_id(self) -> int:
        """Return the id of the server's process, whose children belong to it."""

    def url_at(self, port: int) -> str:
        """Return the URL of the same server behind a proxy on this port of the loopback."""

    def pause(self) -> None:
        """Let it hang: the kernel accepts connections, and nothing is answered."""

    def resume(self) -> None:
        """End a pause."""


class LocalServer:
    """The folder of local://. Instead of a crash it gets a mode that every process refuses."""

    malformed = (b"\x00\xff", b"hello", ANOTHER_VERSION, b"9" * 30_000)
    first_gaps = 0
    connections_each = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def publish_raw(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for each in self._sockets():
                stranger.sendto(data, str(each))

    def connections(self) -> int:
        return len(self._sockets())

    def kill(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.folder.chmod(0o755)

    def start(self) -> None:
        self.folder.chmod(0o700)

    def cut_listeners(self) -> None:
        """Remove every socket, as a program does that cleans old files."""
        for each in self._sockets():
            each.unlink(missing_ok=True)

    def cut_senders(self) -> None:
        """Rename the folder: nobody is found in it any more."""
        if self.folder.exists():
            self.folder.rename(self.folder.with_name(secrets.token_hex(4)))

    def _sockets(self) -> list[Path]:
        return [each for each in self.folder.iterdir() if each.is_socket()] if self.folder.exists() else []


class RedisServer:
    """Valkey."""

    malformed = (b"", b"\x00\xff", b"hello", ANOTHER_VERSION, b"9" * 1_000_000)
    first_gaps = 1
    connections_each = 2

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self.process_id = valkey.process_id
        self.url, self.port = valkey.url, valkey.port
        self.kill, self.start, self.pause, self.resume = valkey.kill, valkey.start, valkey.pause, valkey.resume

    def url_at(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}"

    def publish_raw(self, data: bytes) -> None:
        self._valkey.client().publish(CHANNEL, data)

    def flush_all(self) -> None:
        """Remove everything from every database."""
        with self._valkey.client() as operator:
            operator.flushall()

    def connections(self) -> int:
        with self._valkey.client() as operator:
            return len(operator.client_list()) - 1

    def cut_listeners(self) -> None:
        self._kill("pubsub")

    def cut_senders(self) -> None:
        self._kill("normal")

    def _kill(self, kind: str) -> None:
        with self._valkey.client() as operator:
            operator.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


class PostgresServer:
    """PostgreSQL over TCP."""

    malformed = (b"", "\u00fc".encode(), b"hello", ANOTHER_VERSION, b"9" * 7999)
    first_gaps = 1
    connections_each = 2

    def __init__(self, server: PostgreSQL) -> None:
        assert server.port is not None
        self._server = server
        self.process_id = server.process_id
        self.port = server.port
        self.url = self.url_at(server.port)
        self.kill, self.start, self.pause, self.resume = server.stop, server.start, server.pause, server.resume

    def url_at(self, port: int) -> str:
        return f"postgresql://synckit:secret@127.0.0.1:{port}/postgres"

    def publish_raw(self, data: bytes) -> None:
        self.execute("SELECT pg_notify(%s, %s)", CHANNEL, data.decode())

    def connections(self) -> int:
        return int(self.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'synckit'")[0][0])

    def cut_listeners(self) -> None:
        self._terminate("NOT LIKE")

    def cut_senders(self) -> None:
        self._terminate("LIKE")

    def execute(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a statement of an operator."""
        with self._server.connect() as operator:
            cursor = operator.execute(query, values or None)
            while cursor.nextset():
                pass
            return cursor.fetchall()  # type: ignore[call-overload, no-any-return]

    def _terminate(self, like: str) -> None:
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE application_name = 'synckit' AND query {like} 'SELECT pg_notify%%' AND %s",
            True,
        )


@contextmanager
def running(engine: str, folder: Path) -> Iterator[LocalServer | PostgresServer | RedisServer]:
    """Run what is behind an engine; local:// needs a folder with a short name."""
    if engine == "local":
        yield LocalServer(folder / "sockets")
    elif engine == "postgresql":
        with PostgreSQL(port=free_port()) as postgresql:
            yield PostgresServer(postgresql)
    else:
        with Valkey(folder) as valkey:
            yield RedisServer(valkey)
