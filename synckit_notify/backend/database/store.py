"""The database of one process: `read`, `write` and `write_alone` run one whole transaction each.

In: a function `work(connection)` that issues SQL and returns plain values; it may run in a native thread, so it must
not use Flask, locks or `native` itself. Out: what it returned, after the commit, or what it raised, after the rollback.
A database that stays locked or is away is a Busy (503). What SQLite and PostgreSQL do differently is in a module of
each, behind the protocol Database. Nothing is opened at import or by the constructor: each process opens for itself.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import ArgumentError, DBAPIError

from ... import ConfigurationError
from ...errors import Refused
from . import sqlite

__all__ = ["Busy", "Store", "held", "upsert"]

QUEUE_SECONDS = 10.0
"""How long a request waits for its turn in this process."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Database(Protocol):
    """What differs from one kind of database to the next; its modules are `sqlite` and `postgres`."""

    READERS: int
    WRITERS: int
    READ: Sequence[str]
    WRITE: Sequence[str]
    ALONE: Sequence[str]

    def check(self, url: URL) -> None: ...
    def make_engine(self, url: URL) -> Engine: ...
    def run(self, connection: Connection, work: Callable[[Connection], T]) -> T: ...
    def is_busy(self, error: BaseException | None) -> bool: ...


class Busy(Refused):
    """The server is overloaded, or its database is locked or away; come back a little later.

    `reason` is the driver's, for the operator alone.
    """

    status = 503

    def __init__(self, reason: str | None = None) -> None:
        super().__init__("the server is busy, try again")
        self.reason = reason

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
        self._url = _parsed(url)
        self._database = _database(self._url)
        self._database.check(self._url)
        self._opened: dict[int, _Opened] = {}

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one unchanging snapshot of the database."""
        opened = self._open()
        return opened.run(opened.reading, self._database.READ, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` and commit. On PostgreSQL others write meanwhile: only what is locked stays as it was read."""
        opened = self._open()
        return opened.run(opened.writing, self._database.WRITE, work)

    def write_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` and commit, one after the other with all that is run by this method, in whichever process."""
        opened = self._open()
        return opened.run(opened.writing, self._database.ALONE, work)

    def dispose(self) -> None:
        """Close this process's connections; the next transaction opens new ones."""
        opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            opened.engine.dispose()

    def _open(self) -> "_Opened":
        pid = os.getpid()
        opened = self._opened.get(pid)
        return opened if opened is not None else self._opened.setdefault(pid, _Opened.of(self._database, self._url))


@dataclass(frozen=True, slots=True)
class _Opened:
    database: Database
    engine: Engine
    reading: Lock
    writing: Lock

    @classmethod
    def of(cls, database: Database, url: URL) -> "_Opened":
        engine = database.make_engine(url)
        event.listen(engine, "begin", _begin)
        readers, writers = threading.BoundedSemaphore(database.READERS), threading.BoundedSemaphore(database.WRITERS)
        return cls(database, engine, readers, writers)

    def run(self, seats: Lock, begin: Sequence[str], work: Callable[[Connection], T]) -> T:
        # Turns are taken here and not in the database: a greenlet can wait for one, a native thread would be used up.
        with held(seats):
            try:
                connection = self.engine.connect().execution_options(synckit_begin=begin)
                return self.database.run(connection, work)
            except DBAPIError as error:
                if not self.database.is_busy(error.orig):
                    raise
                log.warning("a transaction was given up: %s", error.orig)
                raise Busy(str(error.orig)) from None  # a driver's traceback for every request would hide all else


def upsert(connection: Connection, table: Table) -> sqlite_dialect.Insert | postgresql.Insert:
    """Return an INSERT that may have an ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite_dialect.insert(table)


def _begin(connection: Connection) -> None:
    for words in connection.get_execution_options().get("synckit_begin", ()):
        connection.exec_driver_sql(words)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "SYNCKIT_DATABASE_URL: give a URL like sqlite:////var/lib/synckit.db or postgresql://user@host/database"
        ) from error


def _database(url: URL) -> Database:
    match url.get_backend_name():
        case "sqlite":
            return sqlite
        case "postgresql" | "postgres":
            return _postgres()
        case name:
            raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {name!r} is not supported, only sqlite and postgresql are")


def _postgres() -> Database:
    """Return the module, which loads psycopg: nobody needs that for SQLite."""
    try:
        from . import postgres
    except ImportError as error:
        raise ConfigurationError(
            "SYNCKIT_DATABASE_URL: psycopg is missing, install it with: pip install 'synckit-notify[postgres]'"
        ) from error
    return postgres
