"""The SQLite file of a State: checked before it is changed, made private, and opened.

In: a path. Out: a connection to a database with our tables. Everything else raises StateError: a device, a pipe, a file
of another user, of another program or of a later version, a damaged file. The check only reads: if SQLite opened the
file of another program, it could roll back a transaction of that program. Only State may call this.
"""

import os
import sqlite3
import stat
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from ..runtime.per_process import PerProcess
from .errors import StateError

APPLICATION_ID = 0x53594E4B
"""The ASCII codes of "SYNK"; a field of the SQLite header that tells the files of one program from another's."""

VERSION = 1
BUSY_SECONDS = 10.0

MAGIC, HEADER_BYTES = b"SQLite format 3\0", 100
VERSION_AT, APPLICATION_ID_AT = 60, 68
"""Their offsets in the header: four bytes each, big-endian (sqlite.org/fileformat.html, section 1.3)."""

FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"))
PRIVATE = 0o600
SUFFIXES = ("-journal", "-wal", "-shm")
"""The files that SQLite opens beside a database."""

_TEXT, _REAL = (str, type(None)), (float, type(None))
COLUMNS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "state": {
        "one": int,
        "installation_id": str,
        **dict.fromkeys(("server_url", "api_key_hash", "user_id", "app_id"), _TEXT),
        **dict.fromkeys(("device_id", "device_name", "device_platform", "device_created_at"), _TEXT),
        **dict.fromkeys(("access_token", "refresh_token", "lease_holder", "epoch", "last_sync_time"), _TEXT),
        **dict.fromkeys(("life", "received_at"), _REAL),
        "lease_until": float,
        **dict.fromkeys(("cursor", "restarting", "pushed_to"), int),
    },
    "pending": {"number": int, "push_id": str, "digest": str, "count": int, "changes": str},
}
"""The columns of each table, and the Python types that State writes into them."""

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

_ADDED = (
    """CREATE TABLE IF NOT EXISTS left_out (
        kind TEXT PRIMARY KEY, seq INTEGER NOT NULL, epoch TEXT NOT NULL, key_ids TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS edits (
        push_id TEXT PRIMARY KEY, versions TEXT NOT NULL, cursor INTEGER, received_at TEXT, device_id TEXT)""",
    "CREATE TABLE IF NOT EXISTS envelope (one INTEGER PRIMARY KEY CHECK (one = 1), envelope TEXT NOT NULL)",
)
"""Tables that files of earlier versions lack. Those versions ignore them, so the version number stays."""


_lock = PerProcess(threading.RLock)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _lock.get().acquire(), after_in_parent=lambda: _lock.get().release())


def open_memory() -> sqlite3.Connection:
    """Return a connection to a new database in memory."""
    with access():
        return _connect(":memory:")


def open_file(file: Path) -> sqlite3.Connection:
    """Return a connection to the database in a file, created if missing; raises StateError.

    A symbolic link is followed once, here. Its target must be a regular file of this user, and only the descriptor that
    was checked is read or changed.
    """
    real = Path(os.path.realpath(file))
    with access(), _os_errors_as_ours(file), _descriptor(real) as descriptor:
        _require_state_file(file.name, descriptor)
        for suffix in SUFFIXES:
            _require_own_file(real.with_name(real.name + suffix))
        connection = _connect(str(real))
        if not os.path.samestat(os.fstat(descriptor), real.lstat()):
            connection.close()
            raise StateError(f"the state file {file.name} was replaced while it was being opened: try again")
        _make_private(descriptor)  # a copy may be readable by others
    return connection


@contextmanager
def access() -> Iterator[None]:
    """Let one thread of this process at a time use state files, and raise SQLite's errors as StateError.

    There is one lock for all files: closing a descriptor releases every lock that the process has on that file
    (fcntl(2)), so no file may be opened while another State is in a transaction. A fork takes the lock too: the child
    would inherit SQLite's record of a lock of the parent, and wait for it without end.
    """
    with _lock.get():
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(f"the state file cannot be used: {error}") from error
        except UnicodeDecodeError as error:  # SQLite quotes a damaged name in its error
            raise StateError("the state file is damaged: use another file") from error


def is_sound(row: sqlite3.Row) -> bool:
    """Return whether the row of the table `state` is as State writes it; SQLite accepts values of any type."""
    columns = COLUMNS["state"]
    if set(row.keys()) != columns.keys() or not all(isinstance(row[name], columns[name]) for name in columns):
        return False
    groups = ("user_id", "app_id"), ("access_token", "received_at"), ("device_id", "device_name", "device_platform")
    if not all(row[name] is not None for first, *others in groups if row[first] is not None for name in others):
        return False
    return _is_time(row["last_sync_time"]) and (row["device_id"] is None or _is_time(row["device_created_at"] or ""))


def _is_time(text: str | None) -> bool:
    try:
        return text is None or bool(datetime.fromisoformat(text))
    except ValueError:
        return False


@contextmanager
def _os_errors_as_ours(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"the state file {file.name} cannot be used: {error.strerror}") from error


@contextmanager
def _descriptor(file: Path) -> Iterator[int]:
    """Open a regular file of this user and give its descriptor; a missing file is created, readable by its owner only.

    Devices and pipes are never opened: opening alone may have an effect, or block without end.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, 0o600)
    except FileExistsError:
        _require_own_file(file)
        descriptor = os.open(file, os.O_RDONLY | FLAGS)
    try:
        _check(os.fstat(descriptor), file.name)
        yield descriptor
    finally:
        os.close(descriptor)


def _require_own_file(file: Path) -> None:
    """Raise StateError if the path exists and is not a regular file of this user."""
    with suppress(FileNotFoundError):
        _check(file.lstat(), file.name)


def _check(found: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise StateError(f"{name} must be a file, not a directory: pass another path as state")
    if not stat.S_ISREG(found.st_mode):
        raise StateError(
            f"{name} must be a regular file: pass another path as state, or None to keep the state in memory"
        )
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise StateError(f"the state file {name} belongs to another user: run as that user, or use another file")


def _make_private(descriptor: int) -> None:
    """Make a file readable by its owner only; SQLite gives its journal the same mode."""
    if hasattr(os, "fchmod") and stat.S_IMODE(os.fstat(descriptor).st_mode) != PRIVATE:
        os.fchmod(descriptor, PRIVATE)


def _require_state_file(name: str, descriptor: int) -> None:
    """Raise StateError unless the header is that of a state file; an empty file is accepted and made private."""
    header = os.read(descriptor, HEADER_BYTES)
    if not header:
        _make_private(descriptor)
        return
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise StateError(f"{name} is not a state file, or is damaged: use another file")
    if _number(header, APPLICATION_ID_AT) != APPLICATION_ID:
        raise StateError(f"{name} is a database of another program: use another file")
    if _number(header, VERSION_AT) > VERSION:
        raise StateError(f"the state file {name} was written by a later version of this SDK: update the SDK")


def _connect(database: str) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables unless another process has, then check them."""
    connection.row_factory = sqlite3.Row
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise StateError("the state file is damaged: use another file")
    connection.execute("PRAGMA secure_delete = ON")  # so that old tokens do not stay in free pages
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            _make_tables(connection)
    for table, columns in COLUMNS.items():
        found = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        if {name for (name,) in found} != columns.keys():
            raise StateError("the state file is damaged: use another file")
    rows = connection.execute("SELECT * FROM state").fetchall()
    if len(rows) != 1 or not is_sound(rows[0]):
        raise StateError("the state file is damaged: use another file")
    for statement in _ADDED:
        connection.execute(statement)


def _make_tables(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
        return
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO state (one, installation_id) VALUES (1, ?)", (str(uuid.uuid4()),))


def _number(header: bytes, at: int) -> int:
    return int.from_bytes(header[at : at + 4], "big")
