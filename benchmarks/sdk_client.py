"""A client process of `benchmarks.sdk`: one device with a SQLiteStore, `run`, and a thread of the app that edits.

stdin    one line of JSON, a Settings; then commands: `edit ROW` inserts a row, the end of the file ends the process
stdout   one line of JSON for each event: {"is", "at", ...}; `at` is the steady clock that all processes share

state    state, reason     what `run` is doing
applied  rows              the ids of the rows of one page, after its transaction
edited   row               `at` is the moment before the app's statement
"""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from synckit_notify.client import Position, PulledChange, SQLiteStore, SyncKitClient

SCHEMA = "CREATE TABLE IF NOT EXISTS tasks (id TEXT NOT NULL PRIMARY KEY, title TEXT, done INTEGER)"
TABLES = {"tasks": ["title", "done"]}
PASSPHRASE = "a passphrase"
INSERT = "INSERT INTO tasks VALUES (?, ?, 0)"
TITLE = "A task whose title is about as long as titles are: buy milk, bread, butter and a bag of apples"


class Settings(NamedTuple):
    """One device; its files are in `folder`, named after it."""

    url: str
    api_key: str
    email: str
    password: str
    folder: str
    name: str

    @property
    def database(self) -> Path:
        """Return the path of the app's file."""
        return Path(self.folder, f"{self.name}.db")


class ReportingStore(SQLiteStore):
    """A SQLiteStore that reports what it has applied."""

    def apply(self, changes: Sequence[PulledChange], position: Position) -> None:
        """Apply a page, and report its rows."""
        super().apply(changes, position)
        if changes:
            report("applied", time.monotonic(), rows=[change.row_id for change in changes])


_reporting = threading.Lock()


def report(what: str, at: float, **fields: Any) -> None:
    """Write one line; from any thread."""
    with _reporting:
        print(json.dumps({"is": what, "at": at, **fields}), flush=True)


def keep_in_step(settings: Settings) -> None:
    """Log in and run, until the process ends."""
    client = SyncKitClient(
        settings.url, api_key=settings.api_key, state=Path(settings.folder, f"{settings.name}.state")
    )
    client.authenticate(settings.email, settings.password)
    client.register_device(settings.name, "linux")
    client.setup_encryption(PASSPHRASE)
    store = ReportingStore(settings.database, TABLES)
    report("state", time.monotonic(), state="ready", reason="")
    client.run(store, on_state=lambda state, reason: report("state", time.monotonic(), state=state, reason=reason))


def main() -> None:
    """Run the device; do what stdin says."""
    settings = Settings(*json.loads(sys.stdin.readline()))
    app = sqlite3.connect(settings.database, isolation_level=None)
    app.execute(SCHEMA)
    threading.Thread(target=keep_in_step, args=(settings,), daemon=True).start()
    for line in sys.stdin:
        row, at = line.split()[1], time.monotonic()
        app.execute(INSERT, (row, TITLE))
        report("edited", at, row=row)


if __name__ == "__main__":
    main()
