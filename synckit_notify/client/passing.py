"""Which errors of a store or of the state file may pass, so that the same call may succeed later without any change."""

from .errors import StateError

SQLITE_CODES = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15})
"""Primary result codes of SQLite that may pass: busy, locked, no memory, read-only, interrupted, I/O error, full disk,
cannot open, locking protocol (sqlite.org/rescode.html)."""


def is_passing(error: BaseException) -> bool:
    """Return whether an error may pass: a busy database, a full disk, a file that cannot be opened now.

    That is an OSError, the OperationalError of any database (PEP 249, also as SQLAlchemy wraps it), and a StateError
    that one of these caused. SQLite raises it for mistakes too, such as a missing table; they do not pass.
    """
    if isinstance(error, StateError):
        return error.__cause__ is not None and is_passing(error.__cause__)
    if any(kind.__name__ == "OperationalError" for kind in type(error).__mro__):
        code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
        return code is None or code & 0xFF in SQLITE_CODES
    return isinstance(error, OSError)
