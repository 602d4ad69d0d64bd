"""Three devices with `run(SQLiteStore)` and a real server that crashes and is restored: equal tables in the end.

A walk is a list of random steps from a seed: apps edit rows, the server is killed and started again, devices stop and
start; with restores, the server's database, an app's file, a state file, or both files go back to an older copy. With
silence a device is off for 200 days, while another one deletes a row and the server forgets that.
"""

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from synckit_notify.client import (
    NotAuthenticated,
    PullFilter,
    RunState,
    SQLiteStore,
    SyncKitClient,
    SyncKitError,
)

from ...support.service import EMAIL, PASSWORD, Service
from ...support.store_walk import TABLES, TASKS
from ...support.wait import until

pytestmark = pytest.mark.thorough

SETTLES_WITHIN = 180.0
STEPS = 40
CRASHES = (*["edit"] * 6, "new row", "new row", "server crash", "stop and start")
SILENCE = (*CRASHES, "compact", "silence", "silence")
DAYS_200 = 200 * 86_400_000_000
RESTORES = (*CRASHES, "copy", "app restore", "state restore", "both restored", "server backup", "server restore")


class Machine:
    """A device whose app logs in again when it must."""

    def __init__(self, service: Service, folder: Path, name: str) -> None:
        self.url, self.api_key, self.name = service.server.url, service.api_key, name
        self.file, self.state_file = folder / f"{name}.db", folder / f"{name}.state"
        with closing(sqlite3.connect(self.file)) as app:
            app.execute(TASKS)
        self.failure: BaseException | None = None
        self.state = ""
        service.client(name=name, state=self.state_file).close()
        self.start()

    def start(self) -> None:
        self.client = SyncKitClient(self.url, api_key=self.api_key, state=self.state_file, encrypt=False)
        self.store = SQLiteStore(self.file, TABLES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.client.close()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.store.close()

    def write(self, sql: str, *values: object) -> None:
        with closing(sqlite3.connect(self.file, timeout=60)) as app, app:
            app.execute(sql, values)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file, timeout=60)) as app:
            return app.execute("SELECT id, title, done FROM tasks ORDER BY id").fetchall()

    def is_up_to_date(self) -> bool:
        return self.state == RunState.UP_TO_DATE and not self.store.pending(1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.client.run(self.store, on_state=self._state_changed)
            except NotAuthenticated:
                self._log_in()
            except BaseException as failure:
                self.failure = failure
                return

    def _log_in(self) -> None:
        try:
            self.client.authenticate(EMAIL, PASSWORD)
        except SyncKitError:
            self._stopping.wait(0.2)

    def _state_changed(self, state: RunState, reason: str) -> None:
        self.state = state


class Walk:
    """The machines, the server, and the copies of both."""

    def __init__(self, service: Service, folder: Path, seed: int) -> None:
        self.service, self.folder, self.random = service, folder, Random(seed)
        self.port = service.server.port
        self.machines = [Machine(service, folder, name) for name in ("laptop", "phone", "tablet")]
        self.database = service.folder / "instance" / "synckit.db"
        self.backup = folder / "backup.db"
        self.copies: list[tuple[Path, Path]] = []
        self.new_rows: set[str] = set()
        self.deleted_rows: set[str] = set()
        self.back_up()

    def step(self, kind: str) -> None:
        machine = self.random.choice(self.machines)
        match kind:
            case "edit":
                self.edit(machine, self.random.choice("abc"))
            case "new row":
                row = f"row {len(self.new_rows)}"
                machine.write("INSERT INTO tasks (id, title) VALUES (?, ?)", row, machine.name)
                self.new_rows.add(row)
            case "server crash":
                self.crash()
            case "server backup":
                self.back_up()
            case "server restore":
                self.crash(restore=True)
            case "stop and start":
                self.restart(machine, restored=())
            case "compact":
                self.compact()
            case "silence":
                self.leave_alone(machine)
            case "copy":
                self.copy(machine)
            case "app restore":
                self.restart(machine, restored=(0,))
            case "state restore":
                self.restart(machine, restored=(1,))
            case "both restored":
                self.restart(machine, restored=(0, 1))
        time.sleep(self.random.choice([0.0, 0.0, 0.1, 0.4]))

    def edit(self, machine: Machine, row: str) -> None:
        if self.random.random() < 0.3:
            machine.write("DELETE FROM tasks WHERE id = ?", row)
        else:
            values = row, f"{machine.name} {self.random.random()}", self.random.randint(0, 1)
            machine.write("INSERT OR REPLACE INTO tasks (id, title, done) VALUES (?, ?, ?)", *values)

    def crash(self, *, restore: bool = False) -> None:
        self.service.server.__exit__()
        if restore:
            self.service.runner.app.extensions["synckit_backend"].store.dispose()
            replace(self.database, self.backup)
            result = self.service.runner.invoke(args=["synckit", "restored"])
            assert result.exit_code == 0, result.output
        self.service.server = self.service.start(self.port)

    def back_up(self) -> None:
        with closing(sqlite3.connect(self.database)) as live, closing(sqlite3.connect(self.backup)) as backup:
            live.backup(backup)

    def copy(self, machine: Machine) -> None:
        machine.stop()
        number = len(self.copies)
        copies = self.folder / f"copy-{number}.db", self.folder / f"copy-{number}.state"
        shutil.copy(machine.file, copies[0])
        shutil.copy(machine.state_file, copies[1])
        self.copies.append(copies)
        machine.start()

    def leave_alone(self, silent: Machine) -> None:
        """Let 200 days pass, in which another one deletes a row that the silent one has edited; then compact."""
        gone = f"gone {len(self.deleted_rows)}"
        silent.write("INSERT INTO tasks (id, title) VALUES (?, 'first')", gone)
        others = [machine for machine in self.machines if machine is not silent]
        assert until(lambda: all(gone in [row for row, *_ in each.rows()] for each in others), SETTLES_WITHIN)
        silent.stop()
        silent.write("UPDATE tasks SET title = 'late' WHERE id = ?", gone)
        others[0].write("DELETE FROM tasks WHERE id = ?", gone)
        assert until(lambda: all(gone not in [row for row, *_ in each.rows()] for each in others), SETTLES_WITHIN)
        assert until(lambda: all(each.is_up_to_date() for each in others), SETTLES_WITHIN)
        with closing(sqlite3.connect(self.database, timeout=60)) as database, database:
            database.execute("UPDATE changes SET received_at = received_at - ?", (DAYS_200,))
            database.execute(
                "UPDATE devices SET last_seen_at = last_seen_at - ? WHERE name = ?", (DAYS_200, silent.name)
            )
        self.compact()
        self.deleted_rows.add(gone)
        silent.start()

    def compact(self) -> None:
        result = self.service.runner.invoke(args=["synckit", "compact", "notes"])
        assert result.exit_code == 0, result.output

    def restart(self, machine: Machine, restored: tuple[int, ...]) -> None:
        """Stop and start a device, after some of its files went back to a copy, perhaps one of another device."""
        machine.stop()
        if self.copies:
            copies = self.random.choice(self.copies)
            for part in restored:
                replace((machine.file, machine.state_file)[part], copies[part])
        machine.start()

    def settled(self) -> bool:
        """Return whether nothing is left to do, and all tables are equal."""
        failures = [machine.failure for machine in self.machines if machine.failure]
        if failures:
            raise failures[0]
        rows = [machine.rows() for machine in self.machines]
        return rows[0] == rows[1] == rows[2] and all(machine.is_up_to_date() for machine in self.machines)

    def winners(self) -> list[tuple[Any, ...]]:
        """Return the rows that the server's log has, by the one order."""
        changes = sorted(self.service.client(name="reader").pull_filtered(PullFilter()), key=lambda each: each.order)
        rows = {change.row_id: change.data for change in changes}
        return sorted((row, data["title"], data["done"]) for row, data in rows.items() if data)

    def close(self) -> None:
        for machine in self.machines:
            machine.stop()


def replace(file: Path, copy: Path) -> None:
    """Put a copy in the place of a database that nobody has open."""
    for rest in ("-wal", "-shm", "-journal"):
        file.with_name(file.name + rest).unlink(missing_ok=True)
    shutil.copy(copy, file.with_name("incoming"))
    file.with_name("incoming").replace(file)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("steps", "log"),
    [(CRASHES, "rows"), (CRASHES, "history"), (RESTORES, "rows"), (RESTORES, "history"), (SILENCE, "rows")],
    ids=["crashes", "crashes, history", "restores", "restores, history", "silence"],
)
def test_devices_end_with_equal_tables(tmp_path: Path, seed: int, log: str, steps: tuple[str, ...]) -> None:
    service = Service(tmp_path / "service")
    try:
        result = service.runner.invoke(args=["synckit", "app", "set", "notes", "--log", log])
        assert result.exit_code == 0, result.output
        walk = Walk(service, tmp_path, seed)
        try:
            for _ in range(STEPS):
                walk.step(walk.random.choice(steps))
            assert until(walk.settled, SETTLES_WITHIN), [(each.name, each.state, each.rows()) for each in walk.machines]
            rows = walk.machines[0].rows()
            assert rows == walk.winners()
            if steps is not RESTORES:
                assert walk.new_rows <= {row for row, *_ in rows}
                assert not walk.deleted_rows & {row for row, *_ in rows}
        finally:
            walk.close()
    finally:
        service.close()
