"""Passwords: hashed and checked with Argon2 in native threads, outside of any transaction.

In: a password, and the hash to compare it with, or None. Out: a hash, or whether they match; without a hash the answer
takes the same time. A process hashes two passwords at a time, and only one for each account and each address; other
requests wait.
"""

from collections.abc import Callable, Sequence

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from ..runtime import gevent_compat
from ..runtime.per_process import PerProcess
from .database.store import Seats

MAX_PASSWORD_CHARACTERS = 1024

# One thread for each hash: with more, one log-in would use all cores. 64 MiB and 3 passes are defaults of argon2-cffi.
_hasher = PasswordHasher(parallelism=1)
_DUMMY_HASH = f"$argon2id$v=19$m={_hasher.memory_cost},t={_hasher.time_cost},p=1${'A' * 22}${'A' * 43}"
"""Checked for an unknown account, so that the response time does not show which accounts exist."""

HASHES, HASHES_OF_ONE = 2, 1
"""How many hashes a process computes at a time, and how many for one owner: each takes 64 MiB and a core."""

_seats = PerProcess(lambda: Seats(HASHES, HASHES_OF_ONE))

RateLimitCheck = Callable[[], None]
"""Called immediately before a password is checked; raises an exception to prevent the check."""


def allow_all() -> None:
    """Allow every attempt."""


def hash_password(password: str, owners: Sequence[str] = ()) -> str:
    """Return a hash to store; `owners` are the account and the address, each of which hashes one password at a time."""
    with _seats.get().acquire(*owners):
        return gevent_compat.run_in_native_thread(_hasher.hash, password)


def matches(
    password_hash: str | None, password: str, check_rate_limit: RateLimitCheck, owners: Sequence[str] = ()
) -> bool:
    """Return whether the password matches the hash; without a hash return False after the same time."""
    with _seats.get().acquire(*owners):
        check_rate_limit()
        genuine = gevent_compat.run_in_native_thread(_verify, password_hash or _DUMMY_HASH, password)
    return genuine and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
