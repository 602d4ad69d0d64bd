"""Passwords: hashed and checked with argon2 in the native pool, outside of any transaction.

In: a password, and the hash to compare it with, or None. Out: a hash, or whether they match, after the same time
whether there was a hash or none. Two at once in a process, one of them for each account and each address; others wait
for their turn.
"""

from collections.abc import Callable, Sequence

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ..runtime import gevent_compat
from ..runtime.per_process import PerProcess
from .database.store import Seats

MAX_PASSWORD_CHARACTERS = 1024

# One lane: with several, a single log-in would take all cores from the streams. 64 MiB and 3 passes are the library's.
_hasher = PasswordHasher(parallelism=1)
_DUMMY_HASH = f"$argon2id$v=19$m={_hasher.memory_cost},t={_hasher.time_cost},p=1${'A' * 22}${'A' * 43}"
"""Checked for an unknown account, so that an answer's time does not tell which accounts exist."""

HASHES, HASHES_OF_ONE = 2, 1
"""At a time in each process: each takes 64 MiB and a core."""

_seats = PerProcess(lambda: Seats(HASHES, HASHES_OF_ONE))

RateLimitCheck = Callable[[], None]
"""Called when it is a password's turn to be checked; may raise instead of letting it."""


def allow_all() -> None:
    """Admit."""


def hash_password(password: str, owners: Sequence[str] = ()) -> str:
    """Return a hash to store; `owners` are the account and the address that wait in turn with their other requests."""
    with _seats.get().acquire(*owners):
        return gevent_compat.run_in_native_thread(_hasher.hash, password)


def matches(
    password_hash: str | None, password: str, check_rate_limit: RateLimitCheck, owners: Sequence[str] = ()
) -> bool:
    """Return whether a password is the one that was hashed; for None it takes as long and is false."""
    with _seats.get().acquire(*owners):
        check_rate_limit()
        genuine = gevent_compat.run_in_native_thread(_verify, password_hash or _DUMMY_HASH, password)
    return genuine and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
