"""The app of examples/todo without `run` and SQLiteStore: what it must write itself on `push`, `pull` and the stream.

The commands are the same, and all devices of the account have the same tasks. `benchmarks.sdk` counts its lines. It
does less than `run`: rows that the server refuses block the later ones, it repeats after a fixed time, a wrong clock of
the device is not corrected, a device that the server deleted is not registered again, and after a restore of the server
from a backup it does not send again what the log lost.
"""

import os
import sqlite3
import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

from synckit_notify.client import (
    ChangeEntry,
    NotAuthenticated,
    PulledChange,
    SyncKitClient,
    SyncKitError,
    SyncNotification,
)

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
BATCH, POLL_SECONDS, AGAIN_SECONDS = 500, 0.1, 5.0


def open_database(device: str) -> sqlite3.Connection:
    """Open the app's own database. `edits` has the time of each row's newest edit, in microseconds."""
    database = sqlite3.connect(f"{device}.db", isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)")
    database.execute("CREATE TABLE IF NOT EXISTS edits (id TEXT PRIMARY KEY NOT NULL, at INTEGER, unsent INTEGER)")
    return database


def edit(database: sqlite3.Connection, key: str, statement: str, *values: str) -> None:
    """Change a row and record the edit, in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        database.execute(statement, values)
        known = database.execute("SELECT at FROM edits WHERE id = ?", (key,)).fetchone()
        at = max((datetime.now(UTC) - EPOCH) // MICROSECOND, known[0] + 1 if known else 0)
        database.execute("INSERT OR REPLACE INTO edits VALUES (?, ?, 1)", (key, at))


def add(database: sqlite3.Connection, title: str) -> None:
    key = str(uuid.uuid4())
    edit(database, key, "INSERT INTO tasks VALUES (?, ?, 0)", key, title)


def done(database: sqlite3.Connection, beginning_of_id: str) -> None:
    for (key,) in database.execute("SELECT id FROM tasks WHERE id LIKE ? || '%'", (beginning_of_id,)).fetchall():
        edit(database, key, "UPDATE tasks SET done = 1 WHERE id = ?", key)


def list_tasks(database: sqlite3.Connection) -> None:
    for key, title, is_done in database.execute("SELECT id, title, done FROM tasks ORDER BY title"):
        print(f"{key[:4]} [{'x' if is_done else ' '}] {title}")


def apply(database: sqlite3.Connection, changes: list[PulledChange]) -> None:
    """Store a page; of two edits of a row, the later one stays."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        for change in changes:
            at = (change.timestamp - EPOCH) // MICROSECOND
            known = database.execute(
                "SELECT at, title, done FROM edits JOIN tasks USING (id) WHERE id = ?", (change.row_id,)
            ).fetchone()
            coming = at, change.data["title"], change.data["done"]
            if known is None or coming > known:
                database.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?)", (change.row_id, *coming[1:]))
                database.execute("INSERT OR REPLACE INTO edits VALUES (?, ?, 0)", (change.row_id, at))


def send(client: SyncKitClient, database: sqlite3.Connection) -> None:
    """Send the edits that are left. After a crash they go again, which changes nothing on the other devices."""
    edits = database.execute(
        "SELECT id, at, title, done FROM edits JOIN tasks USING (id) WHERE unsent LIMIT ?", (BATCH,)
    ).fetchall()
    if not edits:
        return
    client.push(
        [
            ChangeEntry("tasks", "UPDATE", key, EPOCH + at * MICROSECOND, {"title": title, "done": is_done})
            for key, at, title, is_done in edits
        ]
    )
    database.executemany("UPDATE edits SET unsent = 0 WHERE id = ? AND at = ?", [(key, at) for key, at, *_ in edits])


def send_always(client: SyncKitClient, device: str) -> None:
    """Send the edits of all processes as they come, in a thread of its own."""
    database = open_database(device)
    while True:
        try:
            send(client, database)
            time.sleep(POLL_SECONDS)
        except (SyncKitError, sqlite3.OperationalError) as error:
            print("not sent:", error, flush=True)
            time.sleep(AGAIN_SECONDS)


def listen(client: SyncKitClient, database: sqlite3.Connection) -> None:
    """Pull whenever the stream says that there is something."""
    with client.subscribe_notifications(on_state=lambda *state: print(*state, flush=True)) as stream:
        for notification in stream:
            if notification is SyncNotification.CHANGED:
                client.pull(apply=lambda changes: apply(database, changes))


def sync(device: str) -> None:
    """Keep the table in step with the account; the other commands may write at any time, from other processes."""
    database = open_database(device)
    with SyncKitClient(
        os.environ["SYNCKIT_URL"], api_key=os.environ["SYNCKIT_API_KEY"], state=f"{device}.state"
    ) as client:
        if client.device is None:
            client.authenticate(os.environ["SYNCKIT_EMAIL"], os.environ["SYNCKIT_PASSWORD"])
            client.register_device(device, "linux")
        client.setup_encryption(os.environ["SYNCKIT_PASSPHRASE"])
        threading.Thread(target=send_always, args=(client, device), daemon=True).start()
        while True:
            try:
                listen(client, database)
            except NotAuthenticated:
                raise
            except (SyncKitError, sqlite3.OperationalError) as error:
                print("not pulled:", error, flush=True)
                time.sleep(AGAIN_SECONDS)


if __name__ == "__main__":
    device, command, *words = sys.argv[1:]
    database = open_database(device)
    match command:
        case "sync":
            sync(device)
        case "add":
            add(database, " ".join(words))
        case "done":
            done(database, words[0])
        case "list":
            list_tasks(database)
