"""Run as a program: measures how long a gevent process is blocked while it waits for PostgreSQL.

Prints one number, in milliseconds: the largest gap between two turns of a greenlet that only sleeps. Meanwhile five
greenlets wait for a slow query, and one pushes and pulls.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402
from sqlalchemy import Connection, text  # noqa: E402

from synckit_notify.backend import accounts, changelog, pulls  # noqa: E402
from synckit_notify.backend.changelog import Change, Query  # noqa: E402
from synckit_notify.backend.database.store import Store  # noqa: E402

from .hub_ticks import tick  # noqa: E402

SLOW_SECONDS = 1.0


def largest_gap(url: str) -> float:
    """Return the largest gap in seconds."""
    store = Store(url, has_schema=True)

    def register(connection: Connection) -> str:
        found = accounts.register_device(connection, "a", "u", name="d", platform="linux", installation_id=None)
        return str(found.id)

    device = store.write(register)
    pushed = [Change("t", "INSERT", "1", "2026-01-01T00:00:00Z", "x" * 1000)] * 100

    def push() -> None:
        for _ in range(20):
            store.write(lambda connection: changelog.push(connection, "a", "u", device, pushed, None))
            pulls.pull(store, "a", "u", device, Query(cursor=0))

    def sleep(connection: Connection) -> None:
        connection.execute(text(f"SELECT pg_sleep({SLOW_SECONDS})"))

    push()
    gaps: list[float] = []
    ticker = gevent.spawn(tick, gaps)
    gevent.joinall([*(gevent.spawn(store.read, sleep) for _ in range(5)), gevent.spawn(push)], raise_error=True)
    ticker.kill()
    store.dispose()
    return max(gaps)


if __name__ == "__main__":
    print(largest_gap(sys.argv[1]) * 1000)
