"""Random walks of several devices with SQLiteStores over one LogModel, driven as `client.run` does.

A walk edits rows, syncs, loses requests and answers, kills processes between any two statements, sets clocks wrong, and
restores the server, app files, state files, or both on another machine. A device may be silent for 200 days, while the
server forgets what was deleted. `World.settle` then lets all devices sync without faults.
"""

import shutil
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from synckit_notify.client.models import BEGINNING, ChangeEntry, Position, RefusedChange
from synckit_notify.client.stores.sqlite import SQLiteStore

from .log_model import LogModel, MustReadAgain

HOUR = 3_600_000_000
MICROSECOND = timedelta(microseconds=1)
TABLES = {"tasks": ["title", "done"]}
TASKS = "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title TEXT, done INTEGER NOT NULL DEFAULT 0)"


class Crash(BaseException):
    """The process dies here."""


class Outage(Exception):
    """The network is down."""


class MortalConnection:
    """A connection of a process that dies before its statement number `left`."""

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self._connection, self.left = connection, left

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":  # what SQLite does when the file is opened again
            return self._connection.execute(sql)
        self.left -= 1
        if self.left == 0:
            raise Crash
        return self._connection.execute(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@dataclass
class State:
    """What the state file holds: who the device is, its position, and the batch that is on its way."""

    device_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    batch: tuple[str, list[str], list[ChangeEntry]] | None = None
    position: Position = BEGINNING


@dataclass
class Edit:
    """One edit of the app: `past` are the log's entries and the edits that its file had of that row."""

    id: str
    row: str
    past: frozenset[Any]
    is_deletion: bool


@dataclass
class Memory:
    """What an app file knows, as its copies do: entries of the log it has read, and its own edits."""

    seen: set[tuple[str, Any]] = field(default_factory=set)


class Device:
    """One machine: an app with its file, a state file, a clock that may be wrong."""

    def __init__(self, world: "World", file: Path, state: State, memory: Memory, error: int) -> None:
        self.world, self.file, self.state, self.memory, self.error = world, file, state, memory, error
        self.tables: Mapping[str, Sequence[str]] = {}
        self.dropped: list[RefusedChange] = []
        self.options: dict[str, Any] = {"on_refused": self.dropped.append}
        self._store: SQLiteStore | None = None

    @property
    def store(self) -> SQLiteStore:
        if self._store is None:
            self._store = SQLiteStore(
                self.file,
                self.tables or self.world.tables,
                on_connect=lambda connection: connection.execute("PRAGMA synchronous = OFF"),
                **self.options,
            )
        return self._store

    def stop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def write(self, statements: Sequence[tuple[str, Sequence[Any]]], *, is_recorded: bool = True) -> None:
        """Run statements of the app in one transaction; without our triggers if not `is_recorded`."""
        self.store.position()
        app = sqlite3.connect(self.file, isolation_level=None)
        try:
            app.execute("PRAGMA synchronous = OFF")
            app.execute("BEGIN")
            app.execute("UPDATE synckit_store SET clock_offset = ?", (self.world.elapsed + self.error,))
            app.execute("UPDATE synckit_store SET is_applying = ?", (int(not is_recorded),))
            for sql, values in statements:
                app.execute(sql, values)
            app.execute("UPDATE synckit_store SET is_applying = 0")
            app.execute("COMMIT")
        finally:
            app.close()

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        app = sqlite3.connect(self.file)
        try:
            return app.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()
        finally:
            app.close()

    def sync(
        self,
        *,
        die_at: int = 0,
        faults: Sequence[str] = (),
        meanwhile: Callable[[], object] = lambda: None,
        sends_first: bool = False,
    ) -> int:
        """Do what `run` does at each CHANGED; return the number of changes sent.

        `meanwhile` is called between any two steps. With `sends_first` it was in step before, as far as it knows.
        """
        self._meanwhile = meanwhile
        coming = iter([*faults])
        if die_at:
            connection, identity = self.store._database._open  # type: ignore[misc]
            self.store._database._open = MortalConnection(connection, die_at), identity  # type: ignore[assignment]
        try:
            sent = self._send(coming) if sends_first else 0
            self._pull(coming)
            return sent + self._send(coming)
        except (Crash, Outage):
            return 0
        finally:
            if die_at:
                self.stop()

    def _pull(self, coming: Any) -> None:
        log, state, is_again = self.world.log, self.state, False
        position = self._common_start()
        while True:
            self._meanwhile()
            if next(coming, "") == "lost":
                raise Outage
            confirmed = min(position.cursor, state.position.cursor)
            try:
                changes, end = log.pull(
                    state.device_id, position, confirmed, self.world.page, latest=self.world.is_latest
                )
            except MustReadAgain as again:
                if is_again:
                    raise Outage from None
                is_again = True
                position = self._begin_again(was_away=again.was_away)
                continue
            self._meanwhile()
            self.store.apply(changes, end)
            state.position = position = end
            self.error = 0
            self.memory.seen |= {(change.row_id, self.world.uid(change)) for change in changes}
            if end.is_complete:
                return

    def _common_start(self) -> Position:
        stored, own = self.store.position(), self.state.position
        if stored.epoch is None:
            return Position(own.epoch, 0)
        if own.epoch not in (None, stored.epoch):
            own = self.state.position = BEGINNING
        start = min(stored.cursor, own.cursor)
        return Position(stored.epoch, start) if start else self._begin_again(was_away=False)

    def _begin_again(self, *, was_away: bool) -> Position:
        self.state.batch = None
        self.store.begin_again(was_away=was_away)
        self.state.position = BEGINNING
        return BEGINNING

    def _send(self, coming: Any) -> int:
        sent = 0
        while True:
            if self.state.batch is None:
                pending = self.store.pending(self.world.batch)
                if not pending:
                    return sent
                entries = [each.entry for each in pending]
                self.state.batch = uuid.uuid4().hex, [each.version for each in pending], entries
            push_id, versions, entries = self.state.batch
            self._meanwhile()
            fault = next(coming, "")
            if fault == "lost":
                raise Outage
            try:
                orders = self.world.log.push(self.state.device_id, push_id, entries)
            except MustReadAgain as again:
                self._begin_again(was_away=again.was_away)
                return sent
            if fault == "unanswered":
                raise Outage
            self._meanwhile()
            self.store.sent(dict(zip(versions, orders, strict=True)))
            self.state.batch = None
            sent += len(entries)


class World:
    """The log, its devices, and a clock that a test moves."""

    tables: Mapping[str, Sequence[str]] = TABLES
    page, batch = 4, 3

    def __init__(
        self, folder: Path, seed: int, schema: str = TASKS, tables: Mapping[str, Sequence[str]] = TABLES
    ) -> None:
        self.folder, self.random, self.schema, self.tables = folder, Random(seed), schema, tables
        self.elapsed = 0
        self.log = LogModel(self.now)
        self.backup = self.log.backup()
        self.is_latest = self.random.random() < 0.5
        self.edits: list[Edit] = []
        self.new_rows: set[str] = set()
        self.deleted_rows: set[str] = set()
        self.copies: list[tuple[Device, Path, State, Memory]] = []
        self._files = 0
        self.devices = [
            Device(self, self._made_file(), State(), Memory(), self.random.choice([-5, -1, 0, 0, 1, 5]) * HOUR)
            for _ in range(3)
        ]

    def now(self) -> datetime:
        return datetime.now(UTC) + self.elapsed * MICROSECOND

    def uid(self, change: Any) -> Any:
        """Return what names an entry of the log also after a restore: only a repetition has the same."""
        return change.device_id, change.seq, change.received_at

    def tick(self) -> None:
        self.elapsed += self.random.randint(1, 3_000_000)

    def edit(self, device: Device, row: str, *, is_recorded: bool = True) -> None:
        """Let the app insert, change or delete a row."""
        kind = self.random.choice(["upsert", "upsert", "replace", "delete", "twice"])
        past = frozenset(known for at, known in device.memory.seen if at == row)
        edit = Edit(f"e{len(self.edits)}", row, past, kind == "delete")
        self.edits.append(edit)
        values = (edit.id, self.random.randint(0, 9), row)
        upsert = [
            (
                "INSERT INTO tasks (title, done, id) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
                values,
            )
        ]
        if kind == "replace":
            upsert = [("INSERT OR REPLACE INTO tasks (title, done, id) VALUES (?, ?, ?)", values)]
        if kind == "delete":
            upsert = [*upsert, ("DELETE FROM tasks WHERE id = ?", (row,))]
        if kind == "twice":
            upsert = [("DELETE FROM tasks WHERE id = ?", (row,)), *upsert]
        device.write(upsert, is_recorded=is_recorded)
        device.memory.seen.add((row, edit.id))

    def leave_alone(self, device: Device) -> None:
        """Let 200 days pass, in which only the other devices sync and the log is compacted.

        The silent device has a row that another one deletes meanwhile, perhaps edits it, and makes one that is new.
        """
        others = [each for each in self.devices if each is not device]
        number = len(self.deleted_rows)
        self.insert(device, gone := f"gone {number}")
        for each in self.devices:
            each.sync()
        self.insert(device, new := f"new {number}")
        self.new_rows.add(new)
        if self.random.random() < 0.5:
            device.write([("UPDATE tasks SET title = 'late' WHERE id = ?", (gone,))])
        self.elapsed += HOUR
        for _ in range(2):
            others[0].error = 0
            others[0].write([("DELETE FROM tasks WHERE id = ?", (gone,))])
            for _ in range(2):
                for each in others:
                    each.sync()
            self.elapsed += 100 * 24 * HOUR
        self.deleted_rows.add(gone)
        for each in others:
            each.sync()
        self.log.compact()

    def insert(self, device: Device, row: str) -> None:
        device.write([("INSERT INTO tasks (id, title) VALUES (?, 'first')", (row,))])

    def copy(self, device: Device) -> None:
        """Back up one machine: its app file and its state file."""
        device.stop()
        copy = self._new_file()
        shutil.copy(device.file, copy)
        state = replace(device.state)
        self.copies.append((device, copy, state, Memory(set(device.memory.seen))))

    def restore(self, device: Device, *, app: bool, state: bool, is_own: bool = False) -> None:
        """Go back to a copy, perhaps one of another machine.

        Not while the device reads the log again: its server would take an older cursor for the place of that reading.
        """
        if self.log.is_reading_again(device.state.device_id):
            return
        copies = [each for each in self.copies if not is_own or each[0] is device]
        if not copies:
            return
        _, copy, old_state, memory = self.random.choice(copies)
        device.stop()
        if app:
            fresh = self._new_file()
            shutil.copy(copy, fresh)
            fresh.replace(device.file)
            device.memory = Memory(set(memory.seen))
        if state:
            device.state = replace(old_state)

    def settle(self) -> None:
        """Let all devices sync until nothing is left to send."""
        for _ in range(30):
            self.tick()
            sent = 0
            for device in self.devices:
                device.store.compare()
                sent += device.sync()
            if not sent and all(device.store.position().cursor == self.log.head for device in self.devices):
                return
        raise AssertionError("the devices send without end")

    def close(self) -> None:
        for device in self.devices:
            device.stop()

    def _made_file(self) -> Path:
        file = self._new_file()
        app = sqlite3.connect(file)
        app.executescript(self.schema)
        app.close()
        return file

    def _new_file(self) -> Path:
        self._files += 1
        return self.folder / f"{self._files}.db"


LINKED_TABLES = {"lists": ["name"], "tasks": ["list_id", "parent_id", "position", "title"]}
LINKED_SCHEMA = """
    CREATE TABLE lists (id TEXT NOT NULL PRIMARY KEY, name TEXT UNIQUE, color TEXT DEFAULT 'blue');
    CREATE TABLE tasks (
        id TEXT NOT NULL PRIMARY KEY, title TEXT, position INTEGER,
        list_id TEXT REFERENCES lists (id) ON DELETE CASCADE, parent_id TEXT REFERENCES tasks (id),
        UNIQUE (list_id, position));
"""


class LinkedWorld(World):
    """Devices whose rows clash on UNIQUE indexes and refer to each other, also to themselves and in cycles."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, LINKED_SCHEMA, LINKED_TABLES)

    def edit(self, device: Device, row: str, *, is_recorded: bool = True) -> None:
        random, name = self.random, f"e{len(self.edits)}"
        self.edits.append(Edit(name, row, frozenset(), False))
        lists, other = random.choice("abc"), random.choice("abc")
        position = random.randint(1, 3)
        swap = [
            (f"UPDATE tasks SET position = {number} WHERE id = ?", (which,))
            for number, which in ((-1, row), (1, other), (2, row))
        ]
        task = row, name, lists, random.choice([None, row, other]), position
        statements = random.choice(
            [
                [("INSERT OR REPLACE INTO lists (id, name) VALUES (?, ?)", (lists, random.choice("xyz")))],
                [("UPDATE OR IGNORE lists SET name = ? WHERE id = ?", (random.choice("xyz"), lists))],
                [("DELETE FROM lists WHERE id = ?", (lists,))],
                [("DELETE FROM tasks WHERE id = ?", (row,))],
                [
                    ("INSERT OR IGNORE INTO lists (id, name) VALUES (?, ?)", (lists, name)),
                    (
                        "INSERT OR REPLACE INTO tasks (id, title, list_id, parent_id, position) VALUES (?, ?, ?, ?, ?)",
                        task,
                    ),
                ],
                [("UPDATE OR IGNORE tasks SET id = ?, title = ? WHERE id = ?", (other, name, row))],
                [(sql.replace("UPDATE", "UPDATE OR REPLACE"), values) for sql, values in swap],
            ]
        )
        device.write(statements, is_recorded=is_recorded)


class Pair(World):
    """Two devices with right clocks."""

    def __init__(self, folder: Path, schema: str = TASKS, tables: dict[str, list[str]] | None = None) -> None:
        super().__init__(folder, 0, schema, tables or {"tasks": ["title", "done"]})
        del self.devices[2]
        self.laptop, self.phone = self.devices
        self.laptop.error = self.phone.error = 0

    def both(self, table: str = "tasks", columns: str = "*") -> list[tuple[Any, ...]]:
        """Let both sync, require equal tables, and return their rows."""
        self.settle()
        rows = self.laptop.rows(table, columns)
        assert self.phone.rows(table, columns) == rows
        return rows

    def script(self, sql: str) -> None:
        """Run a script on the laptop's file, as another program does."""
        app = sqlite3.connect(self.laptop.file)
        app.executescript(sql)
        app.close()
