"""The database of one process: `read`, `write` and `write_alone` each run one transaction.

In: a function `work(connection)` that issues SQL and returns plain values. It may run in a native thread, so it must
not use Flask, locks or gevent_compat. Out: what it returned, after the commit, or what it raised, after the rollback.

A database that is unavailable, stays locked or cannot be used raises Busy (503), one that cannot be written Unwritable;
the log gets one line in 30 s (health.py). The schema is checked, and created if it is missing, before the first
transaction that reaches the database: at start, or as soon as the database is available. What differs between SQLite
and PostgreSQL is behind the protocol Database. Nothing is opened at import or by the constructor: each process opens
its own connections.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, event, make_url
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import ArgumentError, DBAPIError

from ... import ConfigurationError
from ...runtime.per_process import PerProcess
from ..errors import Busy, Unwritable
from . import schema, sqlite
from .health import Failure, Health, Trouble

__all__ = ["Seats", "Store", "upsert"]

QUEUE_SECONDS = 10.0
"""How long a request waits for a connection of this process."""

READERS_OF_ONE, WRITERS_OF_ONE = 2, 1
"""How many connections of a process one owner may use at a time. Pushes of one account wait for each other anyway."""

TRIAL_WAIT_SECONDS = 0.5
"""How long `is_writable` waits for a trial write. If a lock delays it longer, the last result is used."""

T = TypeVar("T")


class Database(Protocol):
    """What differs between the databases; the modules `sqlite` and `postgres` implement it."""

    READERS: int
    WRITERS: int
    READ: Sequence[str]
    WRITE: Sequence[str]
    ALONE: Sequence[str]

    def check(self, url: URL) -> None: ...
    def make_engine(self, url: URL) -> Engine: ...
    def run(self, connection: Connection, work: Callable[[Connection], T]) -> T: ...
    def vacuum(self, connection: Connection) -> None: ...
    def trouble(self, error: BaseException | None) -> Trouble | None: ...


class Seats:
    """A limit for a scarce resource of this process: `most` users at a time, and `share` of them for each owner.

    An owner is an account or an address. An owner's surplus requests wait for each other before they wait with those of
    others, so however many one owner sends, nobody else waits for more than `share` of them. Waiting is cooperative:
    under gevent it blocks only the greenlet.
    """

    def __init__(self, most: int, share: int) -> None:
        self._share = share
        self._all = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    @contextmanager
    def acquire(self, *owners: str) -> Iterator[None]:
        """Hold a seat for a block, as part of each owner's share; raises Busy after QUEUE_SECONDS."""
        until = time.monotonic() + QUEUE_SECONDS
        with ExitStack() as stack:
            for owner in owners:
                share = stack.enter_context(self._shared(owner))
                stack.enter_context(_taken(share.seats, until))
            stack.enter_context(_taken(self._all, until))
            yield

    @contextmanager
    def _shared(self, owner: str) -> Iterator["_Share"]:
        """Yield an owner's share, which is dropped with the last request that uses it or waits for it."""
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
    """The seats of one owner, and how many requests use or await them."""

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
    """Transactions on one database. Any thread or greenlet may call any method, also in a forked process.

    With `has_schema` the database must hold our tables; they are checked, or created, first.
    """

    def __init__(self, url: str, *, has_schema: bool = False) -> None:
        self.health = Health()
        self._url = _parsed(url)
        self._database = _database(self._url)
        self._database.check(self._url)
        self._has_schema = has_schema
        self._is_prepared = False
        self._opened = PerProcess(lambda: _Opened.of(self._database, self._url))

    def read(self, work: Callable[[Connection], T], *, owner: str | None = None) -> T:
        """Run `work` on one snapshot of the database, within the owner's share of the readers (Seats)."""
        return self._run(lambda opened: opened.read(work, owner))

    def write(self, work: Callable[[Connection], T], *, owner: str | None = None) -> T:
        """Run `work` and commit, within the owner's share of the writers (Seats).

        On PostgreSQL others write at the same time: only locked rows stay as they were read.
        """
        return self._run(lambda opened: opened.write(work, self._database.WRITE, owner), writes=True)

    def write_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` and commit, never at the same time as another `write_alone`, in any process."""
        return self._run(lambda opened: opened.write(work, self._database.ALONE), writes=True)

    def vacuum(self) -> None:
        """Give free space back to the file system. It may take minutes, during which others cannot write.

        Call it from a command, not in a server.
        """
        self._run(lambda opened: opened.vacuum(), writes=True)

    def prepare(self) -> None:
        """Check the schema, and create it if it is missing. Log nothing.

        Raises ConfigurationError for a database that cannot be used, Busy for one that is unavailable.
        """
        try:
            self._prepare()
        except Failure as failure:
            if failure.trouble is Trouble.WRONG:
                raise ConfigurationError(_sentence(failure)) from None
            raise _refusal(failure) from None

    def is_writable(self) -> bool:
        """Return whether the last write worked; if it is too old to tell, try one for TRIAL_WAIT_SECONDS at most."""
        if self.health.trial_is_due():
            trial = threading.Thread(target=self._try_to_write, daemon=True)
            with suppress(RuntimeError):  # no thread can be started: the last result is used
                trial.start()
                trial.join(TRIAL_WAIT_SECONDS)
        return self.health.is_writable

    def is_open(self) -> bool:
        """Return whether this process has used the database since the last `dispose`."""
        return self._opened.made() is not None

    def dispose(self) -> None:
        """Close this process's connections; the next transaction opens new ones."""
        if (opened := self._opened.forget()) is not None:
            opened.engine.dispose()

    def _run(self, transaction: "Callable[[_Opened], T]", *, writes: bool = False) -> T:
        try:
            self._prepare()
            opened = self._open()
            pool = opened.engine.pool
            try:
                result = transaction(opened)
            finally:
                if opened.engine.pool is not pool:  # disposed of meanwhile: this connection went back to the old pool
                    pool.dispose()
        except Failure as failure:
            if failure.trouble is Trouble.WRONG:
                self._recheck_schema()
            self.health.failed(failure)
            raise _refusal(failure) from None  # a traceback for each request would flood the log
        if writes:
            self.health.wrote()
        return result

    def _prepare(self) -> None:
        if self._is_prepared or not self._has_schema:
            return
        opened = self._open()
        with opened.preparing.acquire():
            if self._is_prepared:
                return
            try:
                if not opened.read(schema.is_prepared):  # a start must not wait for a writer, such as a backup
                    opened.write(schema.prepare, self._database.ALONE)
            except DBAPIError as error:
                raise Failure(Trouble.WRONG, error.orig) from None
            self._is_prepared = True

    def _recheck_schema(self) -> None:
        """Make the next transaction reconnect and check the schema, since the database may have been replaced."""
        self._is_prepared = False
        if (opened := self._opened.made()) is not None:
            opened.engine.dispose()

    def _open(self) -> "_Opened":
        try:
            return self._opened.get()
        except ConfigurationError as error:
            raise Failure(Trouble.WRONG, error) from None

    def _try_to_write(self) -> None:
        with suppress(Busy):
            self.write(schema.try_to_write)


@dataclass(frozen=True, slots=True)
class _Opened:
    database: Database
    engine: Engine
    reading: Seats
    writing: Seats
    preparing: Seats

    @classmethod
    def of(cls, database: Database, url: URL) -> "_Opened":
        engine = database.make_engine(url)
        event.listen(engine, "begin", _begin)
        reading, writing = Seats(database.READERS, READERS_OF_ONE), Seats(database.WRITERS, WRITERS_OF_ONE)
        return cls(database, engine, reading, writing, Seats(1, 1))

    def read(self, work: Callable[[Connection], T], owner: str | None = None) -> T:
        return self._run(self.reading, self.database.READ, work, owner)

    def write(self, work: Callable[[Connection], T], begin: Sequence[str], owner: str | None = None) -> T:
        return self._run(self.writing, begin, work, owner)

    def vacuum(self) -> None:
        # A work that begins no transaction: VACUUM must not run in one.
        self._run(self.writing, (), self.database.vacuum, None)

    def _run(self, seats: Seats, begin: Sequence[str], work: Callable[[Connection], T], owner: str | None) -> T:
        # Requests queue here and not in the database: a greenlet waits cheaply, a native thread would be blocked.
        with seats.acquire(*([] if owner is None else [owner])):
            connection = self._connect().execution_options(synckit_begin=begin)
            try:
                return self.database.run(connection, work)
            except ConfigurationError as error:
                raise Failure(Trouble.WRONG, error) from None
            except DBAPIError as error:
                trouble = self.database.trouble(error.orig)
                if trouble is None:
                    raise
                raise Failure(trouble, error.orig) from None

    def _connect(self) -> Connection:
        """Connect. After any error the next attempt may succeed, unless the database is the wrong one."""
        try:
            return self.engine.connect()
        except ConfigurationError as error:
            raise Failure(Trouble.WRONG, error) from None
        except DBAPIError as error:
            is_wrong = self.database.trouble(error.orig) is Trouble.WRONG
            raise Failure(Trouble.WRONG if is_wrong else Trouble.AWAY, error.orig) from None


def _refusal(failure: Failure) -> Busy:
    return (Unwritable if failure.trouble is Trouble.UNWRITABLE else Busy)(str(failure))


def _sentence(failure: Failure) -> str:
    """Return a sentence that names the setting; a ConfigurationError's own sentence does already."""
    if failure.message.startswith("SYNCKIT_DATABASE_URL: "):
        return failure.message
    return f"SYNCKIT_DATABASE_URL: the database cannot be used: {failure.message}"


def upsert(connection: Connection, table: Table) -> sqlite_dialect.Insert | postgresql.Insert:
    """Return an INSERT that supports ON CONFLICT."""
    return upsert_of(connection.dialect.name, table)


def upsert_of(dialect: str, table: Table) -> sqlite_dialect.Insert | postgresql.Insert:
    """Do what `upsert` does, for the name of a dialect."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite_dialect.insert(table)


def _begin(connection: Connection) -> None:
    for statement in connection.get_execution_options().get("synckit_begin", ()):
        connection.exec_driver_sql(statement)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "SYNCKIT_DATABASE_URL: must be a URL like sqlite:////var/lib/synckit.db or postgresql://user@host/database"
        ) from error
    if "@" in (parsed.host or ""):  # the end of a password, which the driver would log as a host name
        raise ConfigurationError("SYNCKIT_DATABASE_URL: a special character must be percent-encoded, such as %40 for @")
    return parsed


def _database(url: URL) -> Database:
    match url.get_backend_name():
        case "sqlite":
            return sqlite
        case "postgresql" | "postgres":
            return _postgres()
        case name:
            raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {name!r} is not supported: use sqlite or postgresql")


def _postgres() -> Database:
    """Return the module. Importing it loads psycopg, which SQLite does not need."""
    try:
        from . import postgres
    except ImportError as error:
        raise ConfigurationError(
            "SYNCKIT_DATABASE_URL: psycopg is missing, install it with: pip install 'synckit-notify[postgres]'"
        ) from error
    return postgres
