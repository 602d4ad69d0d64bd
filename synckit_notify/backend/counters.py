"""How often something has happened: counted in Redis for all processes, or in this one where there is no Redis.

    Counters, a storage of the package `limits` ──▶ Redis, where keys expire by themselves
                                                └─▶ Table, of a bounded size, also while Redis does not answer

`limits` has a storage in memory of its own: it starts a thread where it is made, which may be before a fork, looks at
all keys after every count, and holds as many as somebody makes. And a Redis that hangs would hold up every log-in.
Nothing is opened at import or by the constructor: each process opens for itself, at the first count.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from limits.storage import Storage

SCHEME = "synckit"

MAX_COUNTERS = 20_000
"""In memory: 7 MB at most. To forget the half of them takes 8 ms, and each has cost somebody a failed attempt."""

ANSWER_SECONDS = 0.5
"""Redis answers within a millisecond; whoever logs in waits for one that hangs so long, and then for none."""

PAUSE_SECONDS = 5.0
"""So long a Redis that did not answer is not asked again."""

MAX_CONNECTIONS = 8

T = TypeVar("T")

log = logging.getLogger(__name__)


class Counting(Protocol):
    """What Redis and a Table have in common."""

    def incr(self, key: str, expiry: int, amount: int = 1) -> int: ...
    def get(self, key: str) -> int: ...
    def get_expiry(self, key: str) -> float: ...
    def clear(self, key: str) -> None: ...


class Table:
    """Counters in memory, each with the time of its end; when there are too many, those that say least are forgotten.

    So whoever wants a full counter forgotten must fill thousands of others as far.
    """

    def __init__(self, most: int = MAX_COUNTERS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count, and return the sum; a counter ends so many seconds after its first."""
        now = self._clock()
        with self._lock:
            count, end = self._counters.get(key, (0, 0.0))
            if end <= now:
                count, end = 0, now + expiry
                self._make_room(now)
            self._counters[key] = count + amount, end
            return count + amount

    def get(self, key: str) -> int:
        """Return the sum."""
        count, end = self._counters.get(key, (0, 0.0))
        return count if end > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the counter ends, in Unix seconds; how long that is does not change if the clock is set."""
        _, end = self._counters.get(key, (0, 0.0))
        return time.time() + max(0.0, end - self._clock())

    def clear(self, key: str) -> None:
        """Forget a counter."""
        self._counters.pop(key, None)

    def _make_room(self, now: float) -> None:
        if len(self._counters) < self._most:
            return
        alive = [item for item in self._counters.items() if item[1][1] > now]
        if len(alive) > self._most // 2:
            alive = sorted(alive, key=lambda item: item[1], reverse=True)[: self._most // 2]
        self._counters = dict(alive)


class Counters(Storage):
    """What Flask-Limiter counts with; never raises for a Redis that is down, hangs or refuses.

    `redis_url` is None where there is none.
    """

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012

    def __init__(self, uri: str | None = None, *, redis_url: str | None = None, namespace: str = "", **_: Any) -> None:
        super().__init__(uri)
        self._redis_url, self._namespace = redis_url, namespace
        self._opened: dict[int, _Opened] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError  # none comes out

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self._run(lambda counters: counters.incr(key, expiry, amount))

    def get(self, key: str) -> int:
        return self._run(lambda counters: counters.get(key))

    def get_expiry(self, key: str) -> float:
        return self._run(lambda counters: counters.get_expiry(key))

    def clear(self, key: str) -> None:
        self._run(lambda counters: counters.clear(key))

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        raise NotImplementedError("the counters end by themselves")

    def _run(self, work: Callable[[Counting], T]) -> T:
        pid = os.getpid()
        opened = self._opened.get(pid) or self._opened.setdefault(pid, _Opened(self._redis_url, self._namespace))
        return opened.run(work)


class _Opened:
    """One process's."""

    def __init__(self, redis_url: str | None, namespace: str) -> None:
        self._table = Table()
        self._redis = None if redis_url is None else _redis(redis_url, namespace)
        self._lost = False
        self._ask_at = 0.0

    def run(self, work: Callable[[Counting], T]) -> T:
        if self._redis is None or not self._may_ask():
            return work(self._table)
        try:
            result = work(self._redis)
        except Exception as error:  # its text may quote the address, with a password in it
            self._lose(type(error).__name__)
            return work(self._table)
        if self._lost:
            self._lost = False
            log.warning("Redis answers again: failed log-ins are counted for all processes together")
        return result

    def _may_ask(self) -> bool:
        """Return whether to ask Redis; of those who come while it is away, one in some seconds."""
        now = time.monotonic()
        if self._lost and now < self._ask_at:
            return False
        self._ask_at = now + PAUSE_SECONDS
        return True

    def _lose(self, reason: str) -> None:
        if not self._lost:
            log.warning("Redis gives no answer (%s): failed log-ins are counted in each process alone", reason)
        self._lost = True
        self._ask_at = time.monotonic() + PAUSE_SECONDS


def _redis(url: str, namespace: str) -> Storage:
    """Return the storage of `limits`; it connects at its first use."""
    from limits.storage import RedisStorage
    from redis import BlockingConnectionPool

    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        protocol=2,
        retry=None,
        driver_info=None,
    )
    return RedisStorage("redis://", connection_pool=pool, key_prefix=f"{namespace}:limits")
