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
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event

from ... import ConfigurationError, native

READERS, WRITERS = 6, 4
"""Ten connections per process: a PostgreSQL as it is installed takes 100."""

READ: Sequence[str] = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]
WRITE: Sequence[str] = ["BEGIN ISOLATION LEVEL READ COMMITTED"]
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

# A process that stands still inside a transaction holds its user's log no longer than the third of these. And a cursor
# that was answered must survive a crash: a `seq` that is given twice is a change that somebody never pulls.
SESSION = """
    SET lock_timeout = '5s';
    SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '30s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""

_loaded_patched = native.is_patched()

T = TypeVar("T")


def check(url: URL) -> None:
    """Raise ConfigurationError for a URL that cannot work."""
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: {url.drivername!r} is not supported, write postgresql://")


def make_engine(url: URL) -> Engine:
    """Return an engine that has not connected yet."""
    if native.is_patched() and not _loaded_patched:
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


def is_busy(error: BaseException | None) -> bool:
    """Tell whether a driver's error may be gone at the next try: a lock, a limit, a restart, a server that is away."""
    return isinstance(error, psycopg.OperationalError | psycopg.InternalError)


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
    connection = _Connection.connect(*words, autocommit=True, **settings)  # BEGIN is Store's
    if connection.info.encoding != "utf-8" or connection.info.parameter_status("server_encoding") != "UTF8":
        connection.close()
        raise ConfigurationError("SYNCKIT_DATABASE_URL: the database must be made with ENCODING 'UTF8'")
    connection.execute(SESSION)
    return connection
