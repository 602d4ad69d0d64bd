"""The database of one process: `read` and `write` run one whole transaction each, off gevent's hub.

In: a function `work(connection)` that issues SQL and returns plain values; it runs in a native thread, so it must not
use Flask, locks or `native` itself. Out: what it returned, after the commit, or what it raised, after the rollback.
A database that stays locked is a Busy (503). All that is SQLite's own is in this file.

Connections are taken and given back by the calling greenlet, so SQLAlchemy's own locks stay on the hub's thread; only
BEGIN .. COMMIT goes to the pool. Nothing is opened at import or by the constructor: each process opens for itself.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import ArgumentError, OperationalError

from .. import ConfigurationError, native
from ..errors import Refused

__all__ = ["Busy", "Store", "held", "upsert"]

BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's lock."""

QUEUE_SECONDS = 10.0
"""How long a request waits for its turn in this process."""

READERS = 6
"""With one writer and two password hashes (accounts) this leaves one of gevent's ten native threads to others."""

OLDEST_SQLITE = (3, 35)
"""The first with RETURNING."""

T = TypeVar("T")


class Busy(Refused):
    """The server is overloaded, or another program holds the database; come back a little later."""

    status = 503

    def __init__(self) -> None:
        super().__init__("the server is busy, try again")

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(random.randint(1, 5))}


class Lock(Protocol):
    """A lock or a semaphore."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


@contextmanager
def held(lock: Lock) -> Iterator[None]:
    """Hold a lock for a block; raises Busy when its turn does not come."""
    if not lock.acquire(timeout=QUEUE_SECONDS):
        raise Busy
    try:
        yield
    finally:
        lock.release()


class Store:
    """Transactions on one database; any thread or greenlet may call anything, in any process after a fork."""

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self._opened: dict[int, _Opened] = {}

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one unchanging snapshot of the database."""
        opened = self._open()
        with held(opened.reading):
            return opened.run("BEGIN", work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` alone among all writers, and commit."""
        opened = self._open()
        # The lock is taken here and not by SQLite: a greenlet can wait for it, a native thread would be used up.
        with held(opened.writing):
            return opened.run("BEGIN IMMEDIATE", work)

    def dispose(self) -> None:
        """Close this process's connections; the next transaction opens new ones."""
        opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            opened.engine.dispose()

    def _open(self) -> "_Opened":
        pid = os.getpid()
        opened = self._opened.get(pid)
        return opened if opened is not None else self._opened.setdefault(pid, _Opened.of(self._url))


@dataclass(frozen=True, slots=True)
class _Opened:
    engine: Engine
    writing: Lock
    reading: Lock

    @classmethod
    def of(cls, url: URL) -> "_Opened":
        return cls(_make_engine(url), threading.Lock(), threading.BoundedSemaphore(READERS))

    def run(self, begin: str, work: Callable[[Connection], T]) -> T:
        connection = self.engine.connect().execution_options(synckit_begin=begin)
        try:
            result, error = native.call(_transaction, connection, work)
        except BaseException:
            # This greenlet was killed while the native thread works on: the connection stays with that thread.
            connection.detach()
            raise
        connection.close()
        if error is not None:
            raise error
        return cast(T, result)


def _transaction(connection: Connection, work: Callable[[Connection], T]) -> tuple[T | None, Exception | None]:
    """Run one transaction; its errors are values, so that what kills the waiting greenlet can be told from them."""
    try:
        with connection.begin():
            return work(connection), None
    except OperationalError as error:
        return None, Busy() if _is_busy(error.orig) else error
    except Exception as error:
        return None, error


def _is_busy(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("SYNCKIT_DATABASE_URL: give a URL like sqlite:////var/lib/synckit.db") from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {parsed.drivername!r} is not supported, only sqlite is")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("SYNCKIT_DATABASE_URL: name a file, several connections must see the same data")
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(f"SQLite 3.35 or newer is needed, this Python has {sqlite3.sqlite_version}")
    return parsed


def _make_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=READERS + 1,  # never more are in use, so taking one never waits
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        hide_parameters=True,  # an error's text goes to the log, and they are hashes, e-mails and ciphertext
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("synckit_begin", "BEGIN"))


def _set_up(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver would begin by itself, late and never IMMEDIATE
    _use_wal(connection)
    # A cursor that was answered must survive a power cut: a `seq` given twice is a change that somebody never pulls.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _use_wal(connection: Any) -> None:
    """Let readers and the writer work side by side.

    Only the first switch of a new file needs a lock, and SQLite does not wait for that one, so we do.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
