"""Passwords: hashed and checked with argon2 in the native pool, outside of any transaction.

In: a password, and the hash to compare it with, or None. Out: a hash, or whether they match, after the same time
whether there was a hash or none. Two at once in a process, whoever asks; others wait for their turn.
"""

import functools
import os
import threading
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from .. import native
from .database.store import held

LONGEST_PASSWORD = 1024

# One lane: with several, a single log-in would take all cores from the streams. 64 MiB and 3 passes are the library's.
_hasher = PasswordHasher(parallelism=1)
_DUMMY_HASH = f"$argon2id$v=19$m={_hasher.memory_cost},t={_hasher.time_cost},p=1${'A' * 22}${'A' * 43}"
"""Checked for an unknown account, so that an answer's time does not tell which accounts exist."""

Admit = Callable[[], None]
"""Called when it is a password's turn to be checked; may raise instead of letting it."""


def everybody() -> None:
    """Admit."""


def hash_password(password: str) -> str:
    """Return a hash to store."""
    with held(_hash_seats(os.getpid())):
        return native.call(_hasher.hash, password)


def matches(password_hash: str | None, password: str, admit: Admit) -> bool:
    """Tell whether a password is the one that was hashed; for None it takes as long and is false."""
    with held(_hash_seats(os.getpid())):
        admit()
        genuine = native.call(_verify, password_hash or _DUMMY_HASH, password)
    return genuine and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _hash_seats(pid: int) -> threading.BoundedSemaphore:
    """Two at once per process: each takes 64 MiB and a core."""
    return threading.BoundedSemaphore(2)
