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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import ArgumentError, DBAPIError

from ... import ConfigurationError
from ...errors import Refused
from . import sqlite

__all__ = ["Busy", "Seats", "Store", "upsert"]

QUEUE_SECONDS = 10.0
"""How long a request waits for its turn in this process."""

READERS_OF_ONE, WRITERS_OF_ONE = 2, 1
"""Of a process's connections, how many one owner has at a time. An account's pushes wait for each other in any case."""

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


class Seats:
    """Turns at something scarce in this process: `most` at a time, and `share` of them for each owner.

    An owner is an account, or an address. Their surplus requests wait for each other before they wait with everybody
    else's, so however many they send, nobody else waits for more than `share` of them. Seats know no thread and no
    greenlet: whoever waits here, waits cooperatively.
    """

    def __init__(self, most: int, share: int) -> None:
        self._share = share
        self._all = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    @contextmanager
    def held(self, *owners: str) -> Iterator[None]:
        """Hold a seat for a block, as part of each owner's share; raises Busy if the turn does not come in time."""
        until = time.monotonic() + QUEUE_SECONDS
        with ExitStack() as stack:
            for owner in owners:
                share = stack.enter_context(self._shared(owner))
                stack.enter_context(_taken(share.seats, until))
            stack.enter_context(_taken(self._all, until))
            yield

    @contextmanager
    def _shared(self, owner: str) -> Iterator["_Share"]:
        """Give an owner's share, which is forgotten with the last request that uses it or waits for it."""
        with self._lock:
            share = self._shares.setdefault(owner, _Share(self._share))
            share.users += 1
        try:
            yield share
        finally:
            with self._lock:
                share.users -= 1
                if not share.users:
                    del self._shares[owner]


class _Share:
    """The seats of one owner, and how many requests use them or wait for them."""

    __slots__ = ("seats", "users")

    def __init__(self, most: int) -> None:
        self.seats = threading.BoundedSemaphore(most)
        self.users = 0


@contextmanager
def _taken(seats: threading.BoundedSemaphore, until: float) -> Iterator[None]:
    if not seats.acquire(timeout=max(0.0, until - time.monotonic())):
        raise Busy
    try:
        yield
    finally:
        seats.release()


class Store:
    """Transactions on one database; any thread or greenlet may call anything, in any process after a fork."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self._database = _database(self._url)
        self._database.check(self._url)
        self._opened: dict[int, _Opened] = {}

    def read(self, work: Callable[[Connection], T], *, owner: str | None = None) -> T:
        """Run `work` on one unchanging snapshot of the database, in turn with the owner's other reads (Seats)."""
        opened = self._open()
        return opened.run(opened.reading, self._database.READ, work, owner)

    def write(self, work: Callable[[Connection], T], *, owner: str | None = None) -> T:
        """Run `work` and commit, in turn with the owner's other writes (Seats).

        On PostgreSQL others write meanwhile: only what is locked stays as it was read.
        """
        opened = self._open()
        return opened.run(opened.writing, self._database.WRITE, work, owner)

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
    reading: Seats
    writing: Seats

    @classmethod
    def of(cls, database: Database, url: URL) -> "_Opened":
        engine = database.make_engine(url)
        event.listen(engine, "begin", _begin)
        reading, writing = Seats(database.READERS, READERS_OF_ONE), Seats(database.WRITERS, WRITERS_OF_ONE)
        return cls(database, engine, reading, writing)

    def run(self, seats: Seats, begin: Sequence[str], work: Callable[[Connection], T], owner: str | None = None) -> T:
        # Turns are taken here and not in the database: a greenlet can wait for one, a native thread would be used up.
        with seats.held(*([] if owner is None else [owner])):
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
