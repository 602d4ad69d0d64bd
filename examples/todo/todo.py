"""A todo list on the command line that all devices of an account share; it works without a network too.

    python todo.py laptop sync                  keeps laptop.db in step with the account, until Ctrl-C
    python todo.py laptop add "Buy milk"        writes into laptop.db, which is an ordinary SQLite file
    python todo.py laptop list
    python todo.py laptop done 1f0c

SYNCKIT_URL, SYNCKIT_API_KEY, SYNCKIT_EMAIL, SYNCKIT_PASSWORD and SYNCKIT_PASSPHRASE are read from the environment.
"""

import os
import sqlite3
import sys
import uuid

from synckit_notify.client import SQLiteStore, SyncKitClient


def open_database(device: str) -> sqlite3.Connection:
    """Open the app's own database. Keys are random, so that two devices never choose the same one."""
    database = sqlite3.connect(f"{device}.db", isolation_level=None)
    database.execute("CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)")
    return database


def add(database: sqlite3.Connection, title: str) -> None:
    database.execute("INSERT INTO tasks VALUES (?, ?, 0)", (str(uuid.uuid4()), title))


def done(database: sqlite3.Connection, beginning_of_id: str) -> None:
    database.execute("UPDATE tasks SET done = 1 WHERE id LIKE ? || '%'", (beginning_of_id,))


def list_tasks(database: sqlite3.Connection) -> None:
    for key, title, is_done in database.execute("SELECT id, title, done FROM tasks ORDER BY title"):
        print(f"{key[:4]} [{'x' if is_done else ' '}] {title}")


def sync(device: str) -> None:
    """Keep the table in step with the account; the other commands may write at any time, from other processes."""
    store = SQLiteStore(f"{device}.db", tables={"tasks": ["title", "done"]})
    with SyncKitClient(
        os.environ["SYNCKIT_URL"], api_key=os.environ["SYNCKIT_API_KEY"], state=f"{device}.state"
    ) as client:
        if client.device is None:
            client.authenticate(os.environ["SYNCKIT_EMAIL"], os.environ["SYNCKIT_PASSWORD"])
            client.register_device(device, "linux")
        client.setup_encryption(os.environ["SYNCKIT_PASSPHRASE"])
        client.run(store, on_state=lambda state, reason: print(state, reason, flush=True))


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
