"""The file behind a State: made private, recognised before it is touched, opened.

A path in, a connection to a database with our tables out. A file that is another program's, a later version's or
damaged is a StateError, found out by reading only: SQLite itself, opening a foreign file, would finish that program's
work in it. Only State may call this.
"""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StateError

APPLICATION_ID = 0x53594E4B
"""Says "SYNK"; SQLite keeps it in the file's header for telling one program's files from another's."""

VERSION = 1
BUSY_SECONDS = 10.0

MAGIC, HEADER_BYTES = b"SQLite format 3\0", 100
VERSION_AT, APPLICATION_ID_AT = 60, 68
"""Where the header holds them, as four bytes, big-endian (sqlite.org/fileformat.html, 1.3)."""

_TABLES = (
    """CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1), installation_id TEXT NOT NULL,
        server_url TEXT, api_key_hash TEXT, user_id TEXT, app_id TEXT,
        device_id TEXT, device_name TEXT, device_platform TEXT, device_created_at TEXT,
        access_token TEXT, refresh_token TEXT, life REAL, received_at REAL,
        lease_holder TEXT, lease_until REAL NOT NULL DEFAULT 0,
        cursor INTEGER NOT NULL DEFAULT 0, epoch TEXT, last_sync_time TEXT,
        restarting INTEGER NOT NULL DEFAULT 0, pushed_to INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE pending (
        number INTEGER PRIMARY KEY AUTOINCREMENT, push_id TEXT NOT NULL UNIQUE,
        digest TEXT NOT NULL, count INTEGER NOT NULL, changes TEXT NOT NULL)""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_ADDED = """CREATE TABLE IF NOT EXISTS left_out (
    kind TEXT PRIMARY KEY, seq INTEGER NOT NULL, epoch TEXT NOT NULL, key_ids TEXT NOT NULL)"""
"""What files of earlier versions lack. Those versions do not mind it, so the file's version stays."""


def in_memory() -> sqlite3.Connection:
    """Return a database that ends with its connection."""
    return _connected(":memory:")


def opened(file: Path) -> sqlite3.Connection:
    """Return the database in a file, made if it is not there; raises StateError."""
    try:
        _make_private(file)
        _recognise(file)
        connection = _connected(str(file.absolute()))
        file.chmod(0o600)  # of a copy, or of an empty file that somebody else made
    except OSError as error:
        raise StateError(f"the state file {file.name} cannot be used: {error.strerror}") from error
    return connection


@contextmanager
def explained() -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateError(f"the state cannot be used: {error}") from error


def _make_private(file: Path) -> None:
    """Make an empty file that nobody else may read; SQLite gives its journal the same mode."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return


def _recognise(file: Path) -> None:
    """Raise StateError unless a file is empty or, by its first bytes, one of ours."""
    with file.open("rb") as stream:
        header = stream.read(HEADER_BYTES)
    if not header:
        file.chmod(0o600)
        return
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise StateError(f"{file.name} is no state file, or it is damaged")
    if _number(header, APPLICATION_ID_AT) != APPLICATION_ID:
        raise StateError(f"{file.name} is another program's file")
    if _number(header, VERSION_AT) > VERSION:
        raise StateError(f"{file.name} was written by a later version of this SDK")


def _connected(database: str) -> sqlite3.Connection:
    with explained():
        connection = sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with explained():
            _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Check a database that has our tables, else make them; a second process finds them made."""
    connection.row_factory = sqlite3.Row
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise StateError("the state file is damaged")
    connection.execute("PRAGMA secure_delete = ON")  # old tokens do not stay behind in free pages
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            _make_tables(connection)
    if connection.execute("SELECT count(*) FROM state").fetchone()[0] != 1:
        raise StateError("the state file is damaged")
    connection.execute(_ADDED)


def _make_tables(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
        return
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO state (one, installation_id) VALUES (1, ?)", (str(uuid.uuid4()),))


def _number(header: bytes, at: int) -> int:
    return int.from_bytes(header[at : at + 4], "big")
