"""A PostgreSQL server of the tests' own, from Debian's package: in a new folder, on a Unix socket, gone with its run.

It refuses to run as root, so there it runs as the package's user. Nothing is synchronised to the disk.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from synckit_notify.backend.database import schema

from .programs import need
from .server import children

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
STARTS_WITHIN = 20.0
SETTINGS = ["listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=60"]


_spawner = ThreadPoolExecutor(1)
"""Its thread lives as long as this process: `--pdeathsig` is sent when the thread that spawned ends (prctl(2))."""


class PostgreSQL:
    """A running server with `settings` beside SETTINGS; a context manager that ends it and leaves nothing behind.

    With a `port` it listens on the loopback too. With `standby_of` it is a hot standby of another server.
    """

    def __init__(self, *settings: str, port: int | None = None, standby_of: "PostgreSQL | None" = None) -> None:
        self.port = port
        tcp = [] if port is None else ["listen_addresses=127.0.0.1", f"port={port}"]
        self._settings = [*SETTINGS, *tcp, *settings]
        self.paused: list[int] = []
        self._binaries = Path(need("postgres", *DEBIAN)).resolve().parent
        need("setpriv")
        self.folder = Path(tempfile.mkdtemp(prefix="synckit-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        command = self._initdb() if standby_of is None else self._basebackup(standby_of)
        subprocess.run(unprivileged(command), check=True, stdout=subprocess.DEVNULL, cwd=self.folder)
        self.start()

    def _basebackup(self, primary: "PostgreSQL") -> list[str]:
        command = [str(self._binaries / "pg_basebackup"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        return [*command, f"--pgdata={self.folder}/data", f"--dbname={primary.url()}"]

    def _initdb(self) -> list[str]:
        initdb = [str(self._binaries / "initdb"), "--no-sync", "--auth=trust", "--username=synckit", "--encoding=UTF8"]
        return [*initdb, "--locale=C", "--no-instructions", f"--pgdata={self.folder}/data"]

    def start(self) -> None:
        """Start the server, again after `stop`."""
        command = [str(self._binaries / "postgres"), "-D", f"{self.folder}/data", "-k", str(self.folder)]
        command += [word for setting in self._settings for word in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            spawned = _spawner.submit(subprocess.Popen, unprivileged(command), stderr=log, cwd=self.folder)
            self._process = spawned.result()
        until = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                return psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server at once, as a crash does."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let the server be down for a block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the server and its sessions stand still for a block, at most ten seconds; the kernel answers for them."""
        thaw = threading.Timer(10.0, self.resume)
        thaw.start()
        self.pause()
        try:
            yield
        finally:
            thaw.cancel()
            self.resume()

    @property
    def process_id(self) -> int:
        return int(self._process.pid)

    def is_running(self) -> bool:
        """Return whether the server has not been stopped."""
        return self._process.poll() is None

    def pause(self) -> None:
        """Let the server and its sessions stand still; the kernel accepts connections for them."""
        self.paused = [self._process.pid, *children(self._process.pid)]
        _signal_all(self.paused, signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on; without effect if they do."""
        paused, self.paused = self.paused, []
        _signal_all(paused, signal.SIGCONT)

    def url(self, database: str = "postgres") -> str:
        """Return a URL as the setting takes it; psycopg takes it too. Its password, `secret`, is not asked for."""
        port = "" if self.port is None else f"&port={self.port}"
        return f"postgresql://synckit:secret@/{database}?host={self.folder}{port}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection on which each statement is a transaction of its own."""
        return psycopg.connect(self.url(database), autocommit=True)

    def emptied(self) -> str:
        """Return the URL of a database without a row, and without a session that an earlier test has left."""
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        with self.connect() as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")
            if connection.execute("SELECT to_regclass('meta')").fetchone() != (None,):
                connection.execute(";".join(f"DELETE FROM {name}" for name in schema.metadata.tables if name != "meta"))
        return self.url()

    def __enter__(self) -> "PostgreSQL":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def _signal_all(pids: list[int], sig: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a session that has ended meanwhile
            os.kill(pid, sig)


def unprivileged(command: list[str]) -> list[str]:
    """Return a command that ends with this process, and is not run as root."""
    other = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", "--pdeathsig=QUIT", *other, *command]
