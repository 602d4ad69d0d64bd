"""What is PostgreSQL's own: many writers at a time, a server that may go away, and psycopg, which waits cooperatively.

    read     one snapshot (REPEATABLE READ): the head of a log and its rows agree
    write    READ COMMITTED: a statement behind a lock sees what the lock's last holder committed
    alone    behind an advisory lock: the schema is made once, however many processes start

Nothing can fail to serialise, since no writer reads by snapshot. Nothing can deadlock, since rows are locked in one
order (the user first; a push then its head and nothing of anybody else's, a log-out the sessions) and what clears away
old rows skips those that are locked. Nothing waits for ever: the server gives up first, then psycopg. For
Store alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event

from ... import ConfigurationError
from ...runtime import gevent_compat
from .health import Trouble

READERS, WRITERS = 6, 4
"""Ten connections per process: a PostgreSQL as it is installed takes 100."""

# A process that stands still inside a transaction holds its user's log no longer than the third of these. SET LOCAL in
# every transaction, in one round trip with its BEGIN: a pooler such as PgBouncer gives each one another session.
LIMITS = """
    SET LOCAL lock_timeout = '5s';
    SET LOCAL statement_timeout = '10s';
    SET LOCAL idle_in_transaction_session_timeout = '30s';
"""

# A cursor that was answered must survive a crash: a `seq` that is given twice is a change that somebody never pulls.
DURABLE = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"

READ: Sequence[str] = [f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS}"]
WRITE: Sequence[str] = [f"BEGIN ISOLATION LEVEL READ COMMITTED; {LIMITS} {DURABLE}"]
ALONE: Sequence[str] = [*WRITE, "SELECT pg_advisory_xact_lock(8319104478)"]  # nobody else's number, we hope

ANSWER_SECONDS = 15.0
"""After this the server itself stands still, and not a statement: its machine was suspended, or its disk is gone."""

DEFAULTS = {
    "application_name": "synckit",
    "client_encoding": "utf8",
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
}
"""libpq's parameters, where the URL does not say otherwise."""

UNWRITABLE = {"25006", "42501", "53100"}
"""A read-only transaction, missing rights, a full disk (SQLSTATE)."""

WRONG = {"3F000", "42P01"}
"""The tables or their schema are gone."""

_loaded_patched = gevent_compat.is_patched()

T = TypeVar("T")


def check(url: URL) -> None:
    """Raise ConfigurationError for a URL that cannot work."""
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {url.drivername!r} is not supported, write postgresql://")
    try:
        make_conninfo(**dict.fromkeys(url.query, ""))
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: cannot be used: {error}") from None


def make_engine(url: URL) -> Engine:
    """Return an engine that has not connected yet."""
    if gevent_compat.is_patched() and not _loaded_patched:
        raise ConfigurationError(
            "psycopg was loaded before gevent patched this process, and would stop all its streams while it waits: "
            "do not preload the application, or patch first in gunicorn.conf.py"
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg", query=DEFAULTS | dict(url.query)),
        pool_size=READERS + WRITERS,  # never more are in use, so taking one never waits
        max_overflow=0,
        pool_pre_ping=True,  # the server may have been restarted since
        hide_parameters=True,  # an error's text goes to the log, and they are hashes, e-mails and ciphertext
        use_native_hstore=False,
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def run(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run one transaction in this thread or greenlet and give the connection back."""
    with connection, connection.begin():
        return work(connection)


def trouble(error: BaseException | None) -> Trouble | None:
    """Return what is wrong if it is the server, its disk, a lock or a limit, None for an error of ours."""
    state = getattr(error, "sqlstate", None)
    if state in UNWRITABLE:
        return Trouble.UNWRITABLE
    if state in WRONG:
        return Trouble.WRONG
    return Trouble.AWAY if isinstance(error, psycopg.OperationalError | psycopg.InternalError) else None


class _Connection(psycopg.Connection[Any]):
    """Gives up on a server that took a statement and never answers; the server's own limits cannot end that."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or ANSWER_SECONDS)
        except psycopg.OperationalError:
            if self.info.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # or its answer would be taken for the next statement's
            raise


def _connect(dialect: object, record: object, words: list[Any], settings: dict[str, Any]) -> _Connection:
    try:  # BEGIN is Store's. No prepared statements: behind a pooler the next transaction may be in another session
        connection = _Connection.connect(*words, autocommit=True, prepare_threshold=None, **settings)
    except (psycopg.ProgrammingError, ValueError) as error:  # no attempt was made: an option's value, a host's name
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: cannot be used: {error}") from None
    if connection.info.encoding != "utf-8" or connection.info.parameter_status("server_encoding") != "UTF8":
        connection.close()
        raise ConfigurationError("SYNCKIT_DATABASE_URL: the database must be made with ENCODING 'UTF8'")
    return connection
