"""Counters of failed attempts: in Redis for all processes together, or in the memory of this process without Redis.

    Counters ──▶ RedisStorage of the package `limits`, whose keys expire by themselves
             └─▶ Table, of a bounded size: where no Redis is configured, and while Redis does not answer

The storage in memory that `limits` has is not used: it starts a thread where it is made, which may be before a fork,
looks at every key after each count, and has no upper bound. Nothing is opened before the first count.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..runtime.redis_py import no_client_info

MAX_COUNTERS = 20_000
"""Upper bound of a Table, which then takes 7 MB. Forgetting half of them takes 8 ms; each cost a failed attempt."""

ANSWER_SECONDS = 0.5
"""How long a request waits for Redis, which normally answers within a millisecond."""

PAUSE_SECONDS = 5.0
"""How long Redis is not asked again after it failed to answer."""

MAX_CONNECTIONS = 8
"""Connections to Redis of one process."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Counting(Protocol):
    """What RedisStorage and Table have in common."""

    def incr(self, key: str, expiry: int) -> int: ...
    def get(self, key: str) -> int: ...
    def get_expiry(self, key: str) -> float: ...


class Table:
    """Counters in memory, each with the time of its end. When there are too many, the smallest ones are forgotten.

    So an attacker who wants a full counter forgotten must fill thousands of others as far.
    """

    def __init__(self, most: int = MAX_COUNTERS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter and return the sum. A counter ends `expiry` seconds after its first count."""
        now = self._clock()
        with self._lock:
            count, end = self._counters.get(key, (0, 0.0))
            if end <= now:
                count, end = 0, now + expiry
                self._make_room(now)
            self._counters[key] = count + amount, end
            return count + amount

    def get(self, key: str) -> int:
        """Return the sum, 0 for a counter that has ended."""
        count, end = self._counters.get(key, (0, 0.0))
        return count if end > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the counter ends, in Unix seconds. Setting the system clock does not change how long that is."""
        _, end = self._counters.get(key, (0, 0.0))
        return time.time() + max(0.0, end - self._clock())

    def _make_room(self, now: float) -> None:
        if len(self._counters) < self._most:
            return
        alive = [item for item in self._counters.items() if item[1][1] > now]
        if len(alive) > self._most // 2:
            alive = sorted(alive, key=lambda item: item[1], reverse=True)[: self._most // 2]
        self._counters = dict(alive)


class Counters:
    """The counters of one process; without a `redis_url` all of them are in memory.

    Any thread may call any method. None raises because Redis is down, hangs or refuses.
    """

    def __init__(self, redis_url: str | None, namespace: str) -> None:
        self._table = Table()
        self._redis = None if redis_url is None else _redis(redis_url, namespace)
        self._is_lost = False
        self._ask_at = 0.0

    def incr(self, key: str, expiry: int) -> int:
        """Add 1 to a counter and return the sum. A counter ends `expiry` seconds after its first count."""
        return self._run(lambda counters: counters.incr(key, expiry))

    def get(self, key: str) -> int:
        """Return the sum, 0 for a counter that has ended."""
        return self._run(lambda counters: counters.get(key))

    def get_expiry(self, key: str) -> float:
        """Return when the counter ends, in Unix seconds; now for one that has ended."""
        return self._run(lambda counters: counters.get_expiry(key))

    def _run(self, work: Callable[[Counting], T]) -> T:
        if self._redis is None or not self._may_ask_redis():
            return work(self._table)
        try:
            result = work(self._redis)
        except Exception as error:  # only its type is logged: its text may quote the URL with a password
            if not self._is_lost:
                reason = type(error).__name__
                log.warning("Redis does not answer (%s): failed log-ins are counted in each process alone", reason)
            self._is_lost, self._ask_at = True, time.monotonic() + PAUSE_SECONDS
            return work(self._table)
        if self._is_lost:
            self._is_lost = False
            log.warning("Redis answers again: failed log-ins are counted for all processes together")
        return result

    def _may_ask_redis(self) -> bool:
        """Return whether to ask Redis; while it is away, one request in PAUSE_SECONDS does."""
        now = time.monotonic()
        if self._is_lost and now < self._ask_at:
            return False
        self._ask_at = now + PAUSE_SECONDS
        return True


def _redis(url: str, namespace: str) -> Counting:
    """Return the storage of `limits`, which connects at its first use."""
    from limits.storage import RedisStorage
    from redis.connection import AbstractConnection, BlockingConnectionPool

    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        protocol=2,
        retry=None,
        **no_client_info(AbstractConnection),
    )
    return RedisStorage("redis://", connection_pool=pool, key_prefix=f"{namespace}:limits")
