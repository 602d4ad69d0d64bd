"""The database of one process: `read`, `write` and `write_alone` run one whole transaction each.

In: a function `work(connection)` that issues SQL and returns plain values; it may run in a native thread, so it must
not use Flask, locks or `native` itself. Out: what it returned, after the commit, or what it raised, after the rollback.
A database that is away, stays locked or cannot be used is a Busy (503), one that cannot be written an Unwritable; the
log gets one line an interval (health). The schema is checked, and made if need be, before the first transaction that
reaches the database: when the application starts, or as soon as the database is there. What SQLite and PostgreSQL do
differently is in a module of each, behind the protocol Database. Nothing is opened at import or by the constructor:
each process opens for itself.
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
"""How long a request waits for its turn in this process."""

READERS_OF_ONE, WRITERS_OF_ONE = 2, 1
"""Of a process's connections, how many one owner has at a time. An account's pushes wait for each other in any case."""

TRIAL_WAIT_SECONDS = 0.5
"""How long `is_writable` waits for a trial write; behind a lock that takes longer, the last result stands."""

T = TypeVar("T")


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
    def trouble(self, error: BaseException | None) -> Trouble | None: ...


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
    def acquire(self, *owners: str) -> Iterator[None]:
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
    """Transactions on one database; any thread or greenlet may call anything, in any process after a fork.

    With `has_schema` the database holds our tables, and is checked for them first.
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
        """Run `work` on one unchanging snapshot of the database, in turn with the owner's other reads (Seats)."""
        return self._run(lambda opened: opened.read(work, owner))

    def write(self, work: Callable[[Connection], T], *, owner: str | None = None) -> T:
        """Run `work` and commit, in turn with the owner's other writes (Seats).

        On PostgreSQL others write meanwhile: only what is locked stays as it was read.
        """
        return self._run(lambda opened: opened.write(work, self._database.WRITE, owner), writes=True)

    def write_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` and commit, one after the other with all that is run by this method, in whichever process."""
        return self._run(lambda opened: opened.write(work, self._database.ALONE), writes=True)

    def prepare(self) -> None:
        """Check the schema, and make it if it is not there; logs nothing.

        Raises ConfigurationError for a database that cannot be used, Busy for one that is away.
        """
        try:
            self._prepare()
        except Failure as failure:
            if failure.trouble is Trouble.WRONG:
                raise ConfigurationError(_sentence(failure)) from None
            raise _refusal(failure) from None

    def is_writable(self) -> bool:
        """Return whether the last write worked; if it is too old to tell, try one, and never wait long for it."""
        if self.health.trial_is_due():
            trial = threading.Thread(target=self._try_to_write, daemon=True)
            with suppress(RuntimeError):  # no thread to be had: the last result stands
                trial.start()
                trial.join(TRIAL_WAIT_SECONDS)
        return self.health.is_writable

    def dispose(self) -> None:
        """Close this process's connections; the next transaction opens new ones."""
        if (opened := self._opened.forget()) is not None:
            opened.engine.dispose()

    def _run(self, transaction: "Callable[[_Opened], T]", *, writes: bool = False) -> T:
        try:
            self._prepare()
            result = transaction(self._open())
        except Failure as failure:
            if failure.trouble is Trouble.WRONG:
                self._look_again()
            self.health.failed(failure)
            raise _refusal(failure) from None  # a driver's traceback for every request would hide all else
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
                if not opened.read(schema.is_prepared):  # so that a start does not wait for a writer, such as a backup
                    opened.write(schema.prepare, self._database.ALONE)
            except DBAPIError as error:
                raise Failure(Trouble.WRONG, error.orig) from None
            self._is_prepared = True

    def _look_again(self) -> None:
        """Let the next transaction connect anew and check the schema: somebody may have put another database there."""
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

    def _run(self, seats: Seats, begin: Sequence[str], work: Callable[[Connection], T], owner: str | None) -> T:
        # Turns are taken here and not in the database: a greenlet can wait for one, a native thread would be used up.
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
        """Connect; whatever an attempt to connect reports, the next one may succeed, unless the database is wrong."""
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
    """Return a sentence that names the setting, as those do that were raised as a ConfigurationError."""
    if failure.words.startswith("SYNCKIT_DATABASE_URL: "):
        return failure.words
    return f"SYNCKIT_DATABASE_URL: the database cannot be used: {failure.words}"


def upsert(connection: Connection, table: Table) -> sqlite_dialect.Insert | postgresql.Insert:
    """Return an INSERT that may have an ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite_dialect.insert(table)


def _begin(connection: Connection) -> None:
    for words in connection.get_execution_options().get("synckit_begin", ()):
        connection.exec_driver_sql(words)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "SYNCKIT_DATABASE_URL: give a URL like sqlite:////var/lib/synckit.db or postgresql://user@host/database"
        ) from error
    if "@" in (parsed.host or ""):  # the end of a password, which the driver would write into the log as a host's name
        raise ConfigurationError("SYNCKIT_DATABASE_URL: a special character must be percent-encoded, such as %40 for @")
    return parsed


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
