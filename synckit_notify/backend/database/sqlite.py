"""What is specific to SQLite: one file, one writer at a time, and calls that block the whole thread.

In: a URL that names a file. Out: an engine, and `run`, which runs BEGIN to COMMIT in gevent's pool of native threads.
The calling greenlet takes and returns the connections, so SQLAlchemy's locks stay on the hub's thread (the hub is
gevent's event loop). Only Store uses this module.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event

from ... import ConfigurationError
from ...runtime import gevent_compat
from .health import Trouble

READERS, WRITERS = 6, 1
"""With two password hashes (passwords.py) this leaves one of gevent's ten native threads for other work."""

READ: Sequence[str] = ["BEGIN"]
WRITE: Sequence[str] = ["BEGIN IMMEDIATE"]
ALONE = WRITE

BUSY_SECONDS = 5.0
"""How long SQLite waits for the lock of another process."""

STEPS_BETWEEN_SIGNALS = 100_000
"""After so many of SQLite's steps `vacuum` looks for a signal: some milliseconds."""

MIN_SQLITE = (3, 35)
"""The first version with RETURNING."""

UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}
"""Error codes. The low byte of an extended code is its primary code."""

BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

AWAY = BUSY | {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CORRUPT,
}

T = TypeVar("T")


def check(url: URL) -> None:
    """Raise ConfigurationError for a URL that cannot work."""
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {url.drivername!r} is not supported: use sqlite:///")
    if url.database in (None, "", ":memory:"):
        raise ConfigurationError("SYNCKIT_DATABASE_URL: must name a file: several connections must see the same data")
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise ConfigurationError(f"SQLite 3.35 or newer is required, this Python has {sqlite3.sqlite_version}")


def make_engine(url: URL) -> Engine:
    """Return an engine, not yet connected."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=READERS + WRITERS,  # no more are ever in use, so getting one never waits
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": 0},
        hide_parameters=True,  # errors are logged, and the parameters are hashes, e-mails and ciphertext
    )
    event.listen(engine, "connect", _set_up)
    return engine


def run(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run one transaction in a native thread and return the connection to the pool."""
    try:
        result, error = gevent_compat.run_in_native_thread(_transaction, connection, work)
    except BaseException:
        # This greenlet was killed and the native thread goes on: leave the connection to that thread.
        connection.detach()
        raise
    connection.close()
    if error is not None:
        raise error
    return cast(T, result)


def vacuum(connection: Connection) -> None:
    """Give free space back to the file system, outside of a transaction; others cannot write meanwhile."""
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: 0, STEPS_BETWEEN_SIGNALS)  # Python handles signals whenever it is called
    try:
        driver.execute("VACUUM")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # until then the file keeps its size
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None  # raised in the progress handler, which has to return
        raise
    finally:
        driver.set_progress_handler(None, 0)


def trouble(error: BaseException | None) -> Trouble | None:
    """Return the Trouble of an error of the file, its disk or another process's lock; None for a bug of ours."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code in UNWRITABLE or code & 0xFF in UNWRITABLE:
        return Trouble.UNWRITABLE
    if code & 0xFF in AWAY:
        return Trouble.AWAY
    return Trouble.WRONG if code & 0xFF == sqlite3.SQLITE_NOTADB or "no such table" in str(error) else None


def _transaction(connection: Connection, work: Callable[[Connection], T]) -> tuple[T | None, Exception | None]:
    """Run one transaction. Return its error, so that `run` can tell it from an exception that kills its greenlet."""
    try:
        with connection.begin():
            return work(connection), None
    except Exception as error:
        return None, error


def _set_up(connection: Any, record: object) -> None:
    """Prepare a new connection. This runs on the hub's thread, so SQLite must not wait here."""
    try:
        connection.isolation_level = None  # else the driver begins transactions itself, late and never IMMEDIATE
        _use_wal(connection)
        connection.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")  # for transactions, in a native thread
        # A cursor that was answered must survive a power cut: if a `seq` were assigned twice, some device would miss a
        # change.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        connection.close()  # SQLAlchemy leaves that to the garbage collector
        raise


def _use_wal(connection: Any) -> None:
    """Let readers and the writer work at the same time.

    Switching a new file to WAL needs a lock, and so does the first read of a file that another process has locked.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
