"""The connection of a store to the app's file: its own, made anew after a fork or when the file was replaced.

    Database(path) ── read(), write() ──▶ one short transaction
                   ── schema_version(), data_version() ──▶ whether others changed anything

The app's settings stay: journal mode, page size, encoding. `foreign_keys` is off here, and here only. Errors that may
pass, such as a busy file or a full disk, are sqlite3.OperationalError; every other one is a StoreError. Not
thread-safe: SQLiteStore has the lock.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StoreError
from ..passing import is_passing

BUSY_SECONDS = 5.0
"""How long to wait for another connection's transaction; the default of Python's sqlite3."""

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process: closing one here could delete the files beside the database that the parent uses."""

OnConnect = Callable[[sqlite3.Connection], object]


class Database:
    """The app's file; `on_connect` may register functions and collations that the app's tables use."""

    def __init__(self, path: str | os.PathLike[str], on_connect: OnConnect | None) -> None:
        self.path = Path(path)
        self._on_connect = on_connect
        self._open: tuple[sqlite3.Connection, tuple[int, int, int]] | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection; raises StoreError if there is none."""
        if self._open is None:
            raise StoreError("the store is closed")
        return self._open[0]

    def connect(self) -> bool:
        """Connect to the file that is at the path now; return whether that is another one than before."""
        with errors(self.path):
            identity = self._identity()
            if self._open is not None:
                if self._open[1] == identity:
                    return False
                self.close()
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._open = connection, identity
            return True

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._open is not None:
            connection, (process, *_) = self._open
            if process == os.getpid():
                connection.close()
            else:
                _inherited.append(connection)
        self._open = None

    def __del__(self) -> None:
        self.close()

    def schema_version(self) -> int:
        """Return a number that changes with the schema."""
        return int(self.connection.execute("PRAGMA schema_version").fetchone()[0])

    def data_version(self) -> int:
        """Return a number that changes when another connection commits."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give one consistent view."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that no other can disturb, and in which our triggers record nothing."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute("UPDATE synckit_store SET is_applying = 1")
            yield connection
            connection.execute("UPDATE synckit_store SET is_applying = 0")

    @contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """Give a transaction that writes, before our tables exist."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        with errors(self.path):
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")

    def _identity(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            if self._open is not None:  # perhaps it is being replaced
                raise
            raise StoreError(f"there is no database {self.path.name}: let the app create its tables first") from None
        return os.getpid(), found.st_dev, found.st_ino

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = _to_text
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA schema_version").fetchone()  # reads the header: this is a database
        if self._on_connect is not None:
            self._on_connect(connection)


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Raise StoreError for an error of SQLite that does not pass by itself."""
    try:
        yield
    except sqlite3.Error as error:
        if is_passing(error):
            raise
        raise StoreError(f"the database {path.name} cannot be synced: {error}") from error


def _to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
