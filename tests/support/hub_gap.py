"""Run as a program: measures how long a gevent process is blocked while it pushes, logs in and waits for SQLite.

Prints one number, in milliseconds: the largest gap between two turns of a greenlet that only sleeps. The load is twelve
greenlets on the whole WSGI application, while another connection holds the database's write lock for a while.
"""

from gevent import monkey

monkey.patch_all()

import sqlite3  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from synckit_notify.backend import Backend, accounts, create_app, passwords  # noqa: E402

from .hub_ticks import tick  # noqa: E402

PUSHERS, PUSHES, LOG_INS = 8, 15, 3
LOCKED_SECONDS = 0.4


def largest_gap(folder: Path) -> float:
    """Return the largest gap in seconds."""
    database = folder / "synckit.db"
    config = {"SYNCKIT_JWT_KEY": "k" * 32, "SYNCKIT_DATABASE_URL": f"sqlite:///{database}"}
    app = create_app(config, instance_path=folder)
    backend: Backend = app.extensions["synckit_backend"]
    app_id, api_key = backend.store.write(lambda connection: accounts.add_app(connection, "notes"))
    password_hash = passwords.hash_password("secret")
    backend.store.write(lambda connection: accounts.add_user(connection, "a@example.org", password_hash))
    credentials = {"email": "a@example.org", "password": "secret", "api_key": api_key}

    def log_in() -> None:
        assert app.test_client().post("/api/sync/auth", json=credentials).status_code == 200

    def push(user: str) -> None:
        client = app.test_client()
        headers = {"Authorization": f"Bearer {backend.signer.sign(app_id, user)}"}
        device = client.post("/api/sync/devices", json={"device_name": "d", "platform": "linux"}, headers=headers)
        change = {"table": "t", "op": "INSERT", "row_id": "1", "timestamp": "2026-01-01T00:00:00Z", "data": "x" * 1000}
        body = {"device_id": device.get_json()["id"], "changes": [change] * 20}
        for _ in range(PUSHES):
            assert client.post("/api/sync/push", json=body, headers=headers).status_code == 200

    push("warm-up")
    gaps: list[float] = []
    ticker = gevent.spawn(tick, gaps)
    work = [gevent.spawn(push, f"user {number}") for number in range(PUSHERS)]
    work += [gevent.spawn(log_in) for _ in range(LOG_INS)]
    gevent.sleep(0.05)
    lock = gevent.get_hub().threadpool.spawn(_hold_write_lock, str(database))
    gevent.joinall([*work, lock], raise_error=True)
    ticker.kill()
    backend.store.dispose()
    return max(gaps)


def _hold_write_lock(database: str) -> None:
    connection = sqlite3.connect(database, timeout=5, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    monkey.get_original("time", "sleep")(LOCKED_SECONDS)
    connection.execute("ROLLBACK")
    connection.close()


if __name__ == "__main__":
    print(largest_gap(Path(sys.argv[1])) * 1000)
