"""A client process of the torture: SDK devices with state files, each pushing at random and pulling when notified.

    stdin   one line of JSON, an Order; then commands: `sever` shuts down every socket, `finish` ends the pushing, the
            end of the file ends the process
    stdout  one line of JSON for each event: {"is", "device", "at", ...}

    pushing  rows        before they are given to the SDK
    pushed               the server has answered all pushes of this device so far
    pulled   changes     a page, before it is confirmed: [[seq, row, data is sound], ...]
    noticed              after a CHANGED and the pull that followed it
    state    state       of the stream, with its reason
    logged_in            the device had to log in again, and could
    trouble  text        an error of the SDK; the device tries again
    broken   text        an unexpected exception
    finished             nothing is left to push
    device   id          registered
    edited   row         a device with a store: the app has committed a new row, which is never deleted

The process may be killed at any moment and started again with the same Order.
"""

import contextlib
import json
import logging
import os
import random
import socket
import sqlite3
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from synckit_notify.client import (
    ChangeEntry,
    NotAuthenticated,
    PulledChange,
    RunState,
    SQLiteStore,
    StreamState,
    SyncKitClient,
    SyncKitError,
    SyncNotification,
)

AGAIN_SECONDS = 0.5
MAX_ROWS = 3

SCHEMA = "CREATE TABLE IF NOT EXISTS notes (id TEXT NOT NULL PRIMARY KEY, text TEXT)"
TABLES = {"notes": ["text"]}
SHARED_ROWS = "abcde"
"""Rows that all devices with a store edit and delete."""


class DeviceSettings(NamedTuple):
    """One device of this process."""

    name: str
    email: str
    pushes_per_second: float
    api_key: str
    has_store: bool = False
    """Whether its app keeps rows in a SQLite file, with `run(SQLiteStore)`."""


class Order(NamedTuple):
    """The devices of this process, and the address of the servers."""

    url: str
    password: str
    folder: str
    seed: int
    devices: list[DeviceSettings]


class Device:
    """One device: a thread that listens and pulls, a thread that pushes."""

    def __init__(self, order: Order, settings: DeviceSettings, finishing: threading.Event) -> None:
        self._name, self._email, self._pace = settings.name, settings.email, settings.pushes_per_second
        self._password = order.password
        self._finishing = finishing
        self._random = random.Random(f"{order.seed} {self._name}")
        state = Path(order.folder) / f"{self._name}.state"
        self._client = SyncKitClient(order.url, api_key=settings.api_key, state=state, encrypt=False)
        self._rows = 0

    def start(self) -> None:
        """Register, then listen and push until the process ends."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._retry(self._register)
        threading.Thread(target=self._push, daemon=True).start()
        while True:
            self._retry(self._listen)

    def _register(self) -> None:
        self._report("device", id=self._client.register_device(self._name, "linux").id)

    def _listen(self) -> None:
        with self._client.subscribe_notifications(on_state=self._state_changed) as stream:
            for notification in stream:
                if notification is SyncNotification.CHANGED:
                    self._retry(lambda: self._client.pull(apply=self._pulled))
                    self._report("noticed")

    def _pulled(self, changes: list[PulledChange]) -> None:
        self._report("pulled", changes=[[c.seq, c.row_id, c.data == {"row": c.row_id}] for c in changes])

    def _push(self) -> None:
        while not self._finishing.wait(self._random.expovariate(self._pace)):
            entries = [self._entry() for _ in range(self._random.randint(1, MAX_ROWS))]
            self._report("pushing", rows=[entry.row_id for entry in entries])
            self._succeeds(partial(self._send, entries))
        self._retry(lambda: self._send([]))
        self._report("finished")

    def _send(self, entries: list[ChangeEntry]) -> None:
        self._client.push(entries)
        self._report("pushed")

    def _entry(self) -> ChangeEntry:
        self._rows += 1
        row = f"{self._name} {os.getpid()} {self._rows}"
        return ChangeEntry("rows", "INSERT", row, datetime.now(UTC), {"row": row})

    def _retry(self, call: Callable[[], object]) -> None:
        while not self._succeeds(call):
            time.sleep(AGAIN_SECONDS)

    def _succeeds(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except NotAuthenticated:
            with contextlib.suppress(SyncKitError):
                self._client.authenticate(self._email, self._password)
                self._report("logged_in")
        except SyncKitError as error:
            self._report("trouble", text=f"{type(error).__name__}: {error}")
        else:
            return True
        return False

    def _state_changed(self, state: StreamState | RunState, reason: str) -> None:
        self._report("state", state=state, reason=reason)

    def _report(self, what: str, **fields: Any) -> None:
        report({"is": what, "device": self._name, "at": time.time(), **fields})


class StoreDevice(Device):
    """A device whose app edits a SQLite file, which `run` keeps in step."""

    def __init__(self, order: Order, settings: DeviceSettings, finishing: threading.Event) -> None:
        super().__init__(order, settings, finishing)
        self._file = Path(order.folder) / f"{self._name}.db"
        self._app().execute(SCHEMA)

    def _listen(self) -> None:
        store = SQLiteStore(self._file, TABLES)
        try:
            self._client.run(store, on_state=self._state_changed)
        except NotAuthenticated:
            raise
        except SyncKitError as error:
            raise RuntimeError("run ended by itself") from error
        finally:
            store.close()

    def _push(self) -> None:
        app = self._app()
        while not self._finishing.wait(self._random.expovariate(self._pace)):
            row, shared = self._entry().row_id, self._random.choice(SHARED_ROWS)
            app.execute("BEGIN IMMEDIATE")
            app.execute("INSERT INTO notes VALUES (?, ?)", (row, row))
            app.execute("DELETE FROM notes WHERE id = ?", (shared,))
            if self._random.random() < 0.7:
                app.execute("INSERT INTO notes VALUES (?, ?)", (shared, row))
            app.execute("COMMIT")
            self._report("edited", row=row)
        self._report("finished")

    def _app(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=60.0, isolation_level=None)


_reporting = threading.Lock()


def report(message: dict[str, Any]) -> None:
    """Write a line without buffering, so that it is not lost if the process is killed at once."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    with _reporting:
        while line:
            line = line[os.write(1, line) :]


def report_exception(failure: threading.ExceptHookArgs) -> None:
    """Report an exception that ended a thread."""
    text = "".join(traceback.format_exception(failure.exc_type, failure.exc_value, failure.exc_traceback))
    report({"is": "broken", "device": "", "at": time.time(), "text": text})


def sever() -> None:
    """Shut down every socket of this process."""
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)


def main() -> int:
    """Run the devices until stdin ends."""
    threading.excepthook = report_exception
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(name)s %(threadName)s %(message)s", datefmt="%H:%M:%S"
    )
    order = Order(**json.loads(sys.stdin.readline()))
    finishing = threading.Event()
    for settings in map(DeviceSettings._make, order.devices):
        kind = StoreDevice if settings.has_store else Device
        kind(order, settings, finishing).start()
    for command in sys.stdin:
        if command == "sever\n":
            sever()
        elif command == "finish\n":
            finishing.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
