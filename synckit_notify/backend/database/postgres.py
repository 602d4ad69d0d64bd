"""What is specific to PostgreSQL: concurrent writers, a server that may become unavailable, and psycopg, which waits
cooperatively.

    read     one snapshot (REPEATABLE READ): the head of a log and its rows agree
    write    READ COMMITTED: a statement behind a lock sees what the lock's last holder committed
    alone    behind an advisory lock: the schema is made once, however many processes start

No transaction fails to serialize, since no writer reads from a snapshot. None deadlocks, since rows are locked in one
order (the user first; then a push locks its own head, and a log-out the sessions), and the deletion of old rows skips
locked ones. None waits for ever: the server's limits end it, else psycopg does. Only Store uses this module.
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
"""Ten connections per process; PostgreSQL accepts 100 by default."""

# The third bounds how long a process that is stopped inside a transaction blocks its user's log. SET LOCAL in every
# transaction, in one round trip with its BEGIN: a pooler such as PgBouncer may give each transaction another session.
LIMITS = """
    SET LOCAL lock_timeout = '5s';
    SET LOCAL statement_timeout = '10s';
    SET LOCAL idle_in_transaction_session_timeout = '30s';
"""

# A cursor that was answered must survive a crash: if a `seq` were assigned twice, some device would miss a change.
DURABLE = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"

READ: Sequence[str] = [f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS}"]
WRITE: Sequence[str] = [f"BEGIN ISOLATION LEVEL READ COMMITTED; {LIMITS} {DURABLE}"]
ALONE: Sequence[str] = [*WRITE, "SELECT pg_advisory_xact_lock(8319104478)"]  # an arbitrary number

ANSWER_SECONDS = 15.0
"""After this the server itself has stopped, not just a statement: its machine is suspended, or its disk is gone."""

VACUUM_SECONDS = 24 * 3600.0
"""The same for VACUUM, which copies the whole log."""

DEFAULTS = {
    "application_name": "synckit",
    "client_encoding": "utf8",
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
}
"""libpq's parameters, unless the URL sets them."""

UNWRITABLE = {"25006", "42501", "53100"}
"""SQLSTATE of a read-only transaction, missing privileges, a full disk."""

WRONG = {"3F000", "42P01"}
"""SQLSTATE of a missing schema, a missing table."""

_loaded_patched = gevent_compat.is_patched()

T = TypeVar("T")


def check(url: URL) -> None:
    """Raise ConfigurationError for a URL that cannot work."""
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {url.drivername!r} is not supported: use postgresql://")
    try:
        make_conninfo(**dict.fromkeys(url.query, ""))
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: cannot be used: {error}") from None


def make_engine(url: URL) -> Engine:
    """Return an engine, not yet connected."""
    if gevent_compat.is_patched() and not _loaded_patched:
        raise ConfigurationError(
            "psycopg was loaded before gevent patched this process, and would block all its streams while it waits: "
            "do not preload the application, or patch first in gunicorn.conf.py"
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg", query=DEFAULTS | dict(url.query)),
        pool_size=READERS + WRITERS,  # no more are ever in use, so getting one never waits
        max_overflow=0,
        pool_pre_ping=True,  # the server may have been restarted
        hide_parameters=True,  # errors are logged, and the parameters are hashes, e-mails and ciphertext
        use_native_hstore=False,
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def run(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run one transaction in this thread or greenlet and return the connection to the pool."""
    with connection, connection.begin():
        return work(connection)


def vacuum(connection: Connection) -> None:
    """Give the free space of the log back to the file system, outside of a transaction; the log is locked meanwhile."""
    driver: Any = connection.connection.driver_connection
    driver.answer_seconds = VACUUM_SECONDS
    try:
        connection.exec_driver_sql("VACUUM (FULL, ANALYZE) changes, winners")
    finally:
        driver.answer_seconds = None


def trouble(error: BaseException | None) -> Trouble | None:
    """Return the Trouble of an error of the server, its disk, a lock or a limit; None for a bug of ours."""
    state = getattr(error, "sqlstate", None)
    if state in UNWRITABLE:
        return Trouble.UNWRITABLE
    if state in WRONG:
        return Trouble.WRONG
    return Trouble.AWAY if isinstance(error, psycopg.OperationalError | psycopg.InternalError) else None


class _Connection(psycopg.Connection[Any]):
    """Gives up on a server that accepted a statement and never answers, which the server's limits cannot end."""

    answer_seconds: float | None = None
    """Instead of ANSWER_SECONDS, for a statement that takes long."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds or ANSWER_SECONDS)
        except psycopg.OperationalError:
            if self.info.transaction_status == TransactionStatus.ACTIVE:
                self.close()  # else a late answer would be taken for that of the next statement
            raise


def _connect(dialect: object, record: object, words: list[Any], settings: dict[str, Any]) -> _Connection:
    try:  # Store sends BEGIN. No prepared statements: a pooler may run the next transaction in another session
        connection = _Connection.connect(*words, autocommit=True, prepare_threshold=None, **settings)
    except (
        psycopg.ProgrammingError,
        ValueError,
    ) as error:  # before any attempt to connect: a wrong option or host name
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: cannot be used: {error}") from None
    if connection.info.encoding != "utf-8" or connection.info.parameter_status("server_encoding") != "UTF8":
        connection.close()
        raise ConfigurationError("SYNCKIT_DATABASE_URL: the database must be created with ENCODING 'UTF8'")
    return connection
