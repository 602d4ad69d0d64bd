"""`flask synckit compact` beside a server under gunicorn: how long pushes wait, and that nobody misses anything.

    EDITS=60 pytest -s -m thorough tests/backend/test_compaction_beside_a_server.py

prints the waits of pushes of the account whose log is compacted, without and beside the command.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synckit_notify.backend import create_app

from ..support.backend import Caller, change, keep_rows, over_http, settings, start
from ..support.server import ROOT, Server, clean_environment
from ..support.tokens import make_token

pytestmark = pytest.mark.thorough

EDITS = int(os.environ.get("EDITS", "5"))
ROWS = 1_000
PUSHES = 200
MAX_WAIT = 5.0
"""Seconds; a push takes milliseconds, and after so long the server would refuse it."""


def timed_pushes(alice: Caller, device: str, goes_on: Callable[[int], bool]) -> list[float]:
    """Push new rows and return how long each took, in seconds, ordered."""
    took: list[float] = []
    while goes_on(len(took)):
        began = time.perf_counter()
        alice.push(device, change(f"{device} {len(took)}"))
        took.append(time.perf_counter() - began)
        time.sleep(0.005)
    return sorted(took)


def told(took: list[float]) -> str:
    p50, p99 = (1000 * took[int(len(took) * part)] for part in (0.5, 0.99))
    return f"{len(took)} pushes, p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {1000 * took[-1]:.0f} ms"


@pytest.fixture
def url(clone: Path, database: dict[str, str]) -> str:
    return database.get("SYNCKIT_DATABASE_URL", f"sqlite:///{clone}/synckit.db")


@pytest.fixture
def server(clone: Path, url: str) -> Iterator[Server]:
    env = settings(url) | {"SYNCKIT_ENV": "production", "SYNCKIT_BROKER_URL": "memory://"}
    with start(clone, **env) as server:
        yield server


def test_pushes_and_pulls_go_on(server: Server, url: str) -> None:
    app = create_app(settings(url))
    keep_rows(app.extensions["synckit_backend"])
    alice = Caller(over_http(server.url), make_token("alice", "notes"))
    laptop, phone, tablet = (alice.register(name) for name in ("laptop", "phone", "tablet"))
    for _ in range(EDITS):
        for first in range(0, ROWS, 500):
            alice.push(laptop, *[change(f"row {n}", op="UPDATE", data="x" * 300) for n in range(first, first + 500)])
    alone = timed_pushes(alice, phone, lambda number: number < PUSHES)
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "synckit", "compact"]
    env = clean_environment() | settings(url)
    read: set[str] = set()
    reader = threading.Thread(target=lambda: read.update(pull_all(alice, tablet)))
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as running:
        reader.start()
        beside = timed_pushes(alice, laptop, lambda number: running.poll() is None)
        output = running.communicate()[0]
    reader.join()
    assert f"{(EDITS - 1) * ROWS} changes and 0 deletions" in output
    assert beside[-1] < MAX_WAIT
    assert {f"row {n}" for n in range(ROWS)} <= read
    rows = pull_all(alice, phone)
    assert sorted(set(rows)) == sorted(rows)
    assert len(rows) == ROWS + PUSHES + len(beside)
    print(f"\n{url.partition(':')[0]}, {EDITS} x {ROWS} changes: alone {told(alone)}; beside {told(beside)}")
    app.extensions["synckit_backend"].store.dispose()


def pull_all(alice: Caller, device: str) -> list[str]:
    """Pull from the start, some changes at a time, and return the rows."""
    rows: list[str] = []
    cursor, has_more = 0, True
    while has_more:
        page = alice.pull(device, cursor, limit=100)
        rows += [row["row_id"] for row in page["changes"]]
        cursor, has_more = page["cursor"], page["has_more"]
    return rows
