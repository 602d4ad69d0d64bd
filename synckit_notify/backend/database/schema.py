"""The tables of the reference backend, and the transaction that creates them or upgrades those of an older release.

In: a connection inside a transaction. Out: a database of this release's schema version, or a ConfigurationError. Times
are stored as whole microseconds since 1970 (`now`, `as_datetime`), which compare exactly in any database. The log has
no foreign keys: a token may name a user or an app that is not stored here.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    inspect,
    select,
)

from ... import ConfigurationError

SCHEMA_VERSION = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HISTORY, ROWS = "history", "rows"
"""The log modes of an app. With ROWS, of two changes of one row the later in the one order wins (winners.py)."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("schema_version", Integer, nullable=False),
    Column("epoch", Text, nullable=False),
)

apps = Table(
    "apps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("api_key_hash", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("log", Text, nullable=False, server_default=HISTORY),
)

redirects = Table(
    "redirects",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("uri", Text, primary_key=True),
)

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("valid_since", BigInteger),  # whole seconds, as `iat` in a token; accounts.DISABLED if disabled
    Column("created_at", BigInteger, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("installation_id", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger),  # to the minute (last_seen.py); NULL for a device of schema version 3
    # The `seq` up to which the device has applied the log (pulls.py); NULL for a device that has never pulled, 0 for
    # one that an older release has registered.
    Column("confirmed", BigInteger, server_default="0"),
    # NULL for a device in step. For one that must read the log again from 0: up to where it has read (retirement.py).
    Column("reread", BigInteger),
)

NAMED = devices.c.installation_id.is_(None)
INSTALLED = devices.c.installation_id.is_not(None)
Index(
    "devices_by_name",
    devices.c.app_id,
    devices.c.user_id,
    devices.c.name,
    unique=True,
    sqlite_where=NAMED,
    postgresql_where=NAMED,
)
Index(
    "devices_by_installation",
    devices.c.app_id,
    devices.c.user_id,
    devices.c.installation_id,
    unique=True,
    sqlite_where=INSTALLED,
    postgresql_where=INSTALLED,
)

heads = Table(
    "heads",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False, index=True),
    # The `seq` up to which `winners` is complete. It stays behind while servers of an older release push.
    Column("winners_until", BigInteger, nullable=False, server_default="0"),
    Column("dropped_until", BigInteger, nullable=False, server_default="0"),  # see log_heads.py
)

changes = Table(
    "changes",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("device_id", Text, nullable=False),
    Column("table_name", Text, nullable=False),
    Column("op", Text, nullable=False),
    Column("row_id", Text, nullable=False),
    Column("timestamp", Text, nullable=False),  # as the device sent it: authenticated by the ciphertext
    Column("data", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("order_at", BigInteger),  # NULL for a change that an older release stored; winners.py computes it
    Index("changes_by_table", "app_id", "user_id", "table_name", "seq"),
)

CODE_POINTS = Text().with_variant(Text(collation="C"), "postgresql")
"""Compares as Python and SQLite compare strings, in any locale of the database."""

winners = Table(
    "winners",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("table_name", Text, primary_key=True),
    Column("row_id", Text, primary_key=True),
    Column("order_at", BigInteger, nullable=False),
    Column("device_id", CODE_POINTS, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Index("winners_by_seq", "app_id", "user_id", "seq"),
    sqlite_with_rowid=False,
)

pushes = Table(
    "pushes",
    metadata,
    Column("device_id", Text, primary_key=True),
    Column("push_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False, index=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("family_hash", Text, primary_key=True),
    Column("app_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text),  # NULL until the device is known
    Column("code_hash", Text, unique=True),  # of the authorization code that began it, if any
    Column("current_hash", Text, nullable=False),  # of the newest refresh token
    Column("previous_hash", Text),  # of the token before it, and the salt that leads from that to the newest
    Column("salt", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Index("sessions_by_user", "user_id", "app_id", "expires_at"),
)

codes = Table(
    "codes",
    metadata,
    Column("code_hash", Text, primary_key=True),
    Column("app_id", Text, nullable=False),
    Column("user_id", Text, nullable=False, index=True),
    Column("redirect_uri", Text, nullable=False),
    Column("challenge", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

envelopes = Table(
    "envelopes",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("envelope", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

STEPS: dict[int, Sequence[str]] = {
    2: [],
    3: ["ALTER TABLE devices ADD COLUMN last_seen_at BIGINT"],
    4: [
        "ALTER TABLE devices ADD COLUMN confirmed BIGINT DEFAULT 0",
        "ALTER TABLE heads ADD COLUMN winners_until BIGINT DEFAULT 0 NOT NULL",
        f"ALTER TABLE apps ADD COLUMN log TEXT DEFAULT '{HISTORY}' NOT NULL",
        "ALTER TABLE changes ADD COLUMN order_at BIGINT",
    ],
    5: [
        "ALTER TABLE devices ADD COLUMN reread BIGINT",
        "ALTER TABLE heads ADD COLUMN dropped_until BIGINT DEFAULT 0 NOT NULL",
    ],
}
"""The statements that upgrade each older version to the next. Servers wait for them, so none may take longer with
more rows.

Version 3 added a table `roll_calls`, which this release neither creates nor uses. Databases of older releases keep it:
servers of such a release that still run during an update read it every few seconds. The tables of one step are in the
order in which transactions of running servers lock them, so that PostgreSQL finds no deadlock.
"""

ADDED = {"winners": 5}
"""The tables that databases of older releases lack, each with the version that added it."""


def of_log(table: Table, app: str | BindParameter[str], user: str | BindParameter[str]) -> ColumnElement[bool]:
    """Select the rows of a table that belong to the log of one app and user."""
    return and_(table.c.app_id == app, table.c.user_id == user)


def prepare(connection: Connection) -> None:
    """Create the tables, or upgrade those of an older release, unless another process has done so.

    Run it alone (`ALONE` of the database): of several processes that start together, one does the work and the others
    find it done.
    """
    version = _version(connection)
    if version == SCHEMA_VERSION:
        return
    if version is None:
        metadata.create_all(connection)
        connection.execute(meta.insert().values(schema_version=SCHEMA_VERSION, epoch=new_epoch()))
        return
    for older in range(version, SCHEMA_VERSION):
        for statement in STEPS[older]:
            connection.exec_driver_sql(statement)
    metadata.create_all(connection, [metadata.tables[name] for name in ADDED])
    connection.execute(meta.update().values(schema_version=SCHEMA_VERSION))


def is_prepared(connection: Connection) -> bool:
    """Return whether the tables exist and are up to date; raises ConfigurationError if they cannot be used."""
    return _version(connection) == SCHEMA_VERSION


def _version(connection: Connection) -> int | None:
    """Return the version of our tables, or None in an empty database; raises ConfigurationError."""
    ours, found = set(metadata.tables), set(inspect(connection).get_table_names())
    if meta.name not in found:
        _refuse(ours & found, "holds tables of another program: {}; use an empty database")
        return None
    if meta.c.schema_version.name not in {column["name"] for column in inspect(connection).get_columns(meta.name)}:
        _refuse({meta.name}, "holds tables of another program: {}; use an empty database")
    version = connection.execute(select(meta.c.schema_version)).scalar()
    if version not in (*STEPS, SCHEMA_VERSION):
        raise ConfigurationError(
            f"SYNCKIT_DATABASE_URL: the database has schema version {version}, this release needs {SCHEMA_VERSION}: "
            "run the release that made it, or use another database"
        )
    lacking = {name for name in ours - found if ADDED.get(name, 0) <= version}
    _refuse(lacking, "lacks tables: {}; restore a complete backup, or use another database")
    return int(version)


def try_to_write(connection: Connection) -> None:
    """Insert a row and delete it, to see whether the database can be written.

    SQLite would not write an UPDATE that changes nothing.
    """
    trial = {"app_id": str(uuid.uuid4()), "uri": ""}
    connection.execute(redirects.insert().values(trial))
    connection.execute(redirects.delete().filter_by(**trial))


def _refuse(tables: set[str], words: str) -> None:
    if tables:
        raise ConfigurationError(f"SYNCKIT_DATABASE_URL: the database {words.format(', '.join(sorted(tables)))}")


def new_epoch() -> str:
    """Return a new random name for the log's epoch."""
    return uuid.uuid4().hex


def now() -> int:
    """Return the time by the server's clock, in microseconds since 1970."""
    return time.time_ns() // 1000


def as_datetime(moment: int) -> datetime:
    """Return stored microseconds as an aware UTC datetime, without the rounding of a float."""
    return _EPOCH + timedelta(microseconds=moment)


def from_datetime(moment: datetime) -> int:
    """Return an aware datetime as stored microseconds."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
