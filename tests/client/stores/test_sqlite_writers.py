"""SQLiteStore beside the app and others who write its file: migrations, shells, processes, schemas that differ."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.client.errors import StoreError
from synckit_notify.client.models import Position, PulledChange
from synckit_notify.client.stores import sqlite as sqlite_store
from synckit_notify.client.stores.sqlite import SQLiteStore
from synckit_notify.client.stores.sqlite_repair import Orphan

from ...support.programs import need
from ...support.store_walk import TASKS, Pair
from ...support.wait import until

ADD = "INSERT INTO tasks (id, title) VALUES (?, ?)"
BATCH_MIGRATION = """
    CREATE TABLE _alembic_tmp_tasks (
        id VARCHAR(36) NOT NULL, title VARCHAR(100), done INTEGER DEFAULT 0 NOT NULL, PRIMARY KEY (id));
    INSERT INTO _alembic_tmp_tasks (id, title, done) SELECT id, title, done FROM tasks;
    DROP TABLE tasks;
    ALTER TABLE _alembic_tmp_tasks RENAME TO tasks;
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    made.laptop.write([(ADD, ("a", "milk")), (ADD, ("b", "bread"))])
    made.both()
    yield made
    made.close()


def test_a_row_that_is_deleted_after_it_beat_another_devices_row_stays_deleted(pair: Pair) -> None:
    pair.phone.write([(ADD, ("c", "the phone's"))])
    pair.phone.sync()
    pair.tick()
    pair.laptop.write([(ADD, ("c", "the laptop's"))])
    pair.laptop._pull(iter(()))
    pair.laptop.write([("DELETE FROM tasks WHERE id = 'c'", ())])
    assert [row for row, *_ in pair.both()] == ["a", "b"]


class TestMigrations:
    def test_a_table_that_is_created_again_and_renamed_gets_its_triggers_again(self, pair: Pair) -> None:
        pair.script(BATCH_MIGRATION)
        assert not pair.laptop.store.wait(0.3)
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())])
        assert pair.laptop.store.wait(5)
        assert pair.both("tasks", "id, title") == [("a", "tea"), ("b", "bread")]
        assert len(pair.log.changes) == 3

    def test_edits_before_the_triggers_are_back_are_found(self, pair: Pair) -> None:
        pair.script(BATCH_MIGRATION + "UPDATE tasks SET title = 'tea' WHERE id = 'a'; DELETE FROM tasks WHERE id = 'b'")
        assert pair.laptop.store.wait(5)
        assert pair.both("tasks", "id, title") == [("a", "tea")]

    def test_alembic(self, pair: Pair) -> None:
        migration = pytest.importorskip("alembic.migration")
        operations = pytest.importorskip("alembic.operations")
        import sqlalchemy as sa

        engine = sa.create_engine(f"sqlite:///{pair.laptop.file}")
        with engine.begin() as connection:
            op = operations.Operations(migration.MigrationContext.configure(connection))
            with op.batch_alter_table("tasks", recreate="always") as batch:
                batch.alter_column("title", type_=sa.String(50))
                batch.add_column(sa.Column("note", sa.String))
        engine.dispose()
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())])
        assert pair.both("tasks", "id, title") == [("a", "tea"), ("b", "bread")]
        assert len(pair.log.changes) == 3

    @pytest.mark.parametrize(
        "sql",
        [
            "ALTER TABLE tasks ADD COLUMN note TEXT",
            "ALTER TABLE tasks RENAME COLUMN id TO uuid",
            "CREATE INDEX by_title ON tasks (title)",
            "VACUUM",
        ],
    )
    def test_the_triggers_survive_alterations(self, pair: Pair, sql: str) -> None:
        pair.script(sql)
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE title = 'milk'", ())])
        pair.settle()
        assert [row[:2] for row in pair.phone.rows("tasks")] == [("a", "tea"), ("b", "bread")]
        assert len(pair.log.changes) == 3

    def test_the_schema_is_left_alone_when_nothing_changed(self, pair: Pair) -> None:
        versions = []
        for _ in range(3):
            pair.laptop.stop()
            pair.laptop.store.position()
            app = sqlite3.connect(pair.laptop.file)
            versions.append(app.execute("PRAGMA schema_version").fetchone())
            app.close()
        assert len(set(versions)) == 1

    def test_a_dropped_column_is_not_lost_on_the_other_device(self, pair: Pair) -> None:
        pair.laptop.write([("UPDATE tasks SET done = 1", ())])
        pair.both()
        pair.script("ALTER TABLE tasks DROP COLUMN done")
        pair.laptop.stop()
        pair.laptop.tables = {"tasks": ["title"]}
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())])
        pair.settle()
        assert pair.phone.rows("tasks") == [("a", "tea", 1), ("b", "bread", 1)]
        assert pair.laptop.rows("tasks") == [("a", "tea"), ("b", "bread")]

    def test_a_column_that_is_gone_while_the_store_names_it_is_an_error(self, pair: Pair) -> None:
        pair.script("ALTER TABLE tasks DROP COLUMN done")
        with pytest.raises(StoreError, match="no column done"):
            pair.laptop.store.position()

    def test_a_column_more_on_one_device_travels_through_the_other(self, pair: Pair) -> None:
        pair.script("ALTER TABLE tasks ADD COLUMN color TEXT")
        pair.laptop.stop()
        pair.laptop.tables = {"tasks": ["title", "done", "color"]}
        pair.laptop.write([("UPDATE tasks SET color = 'red' WHERE id = 'a'", ())])
        pair.settle()
        pair.phone.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())])
        pair.settle()
        assert pair.laptop.rows("tasks") == [("a", "tea", 0, "red"), ("b", "bread", 0, None)]
        pair.phone.write([("ALTER TABLE tasks ADD COLUMN color TEXT", ())])
        pair.phone.stop()
        pair.phone.tables = pair.laptop.tables
        changes = len(pair.log.changes)
        assert pair.both() == [("a", "tea", 0, "red"), ("b", "bread", 0, None)]
        assert len(pair.log.changes) == changes

    def test_a_column_that_a_migration_computes_is_sent_once(self, pair: Pair) -> None:
        for device in pair.devices:
            device.write([("ALTER TABLE tasks RENAME COLUMN title TO name", ())])
            device.stop()
            device.tables = {"tasks": ["name", "done"]}
        assert pair.both() == [("a", "milk", 0), ("b", "bread", 0)]
        assert len(pair.log.changes) == 4
        assert pair.log.changes[-1].data["name"] in ("milk", "bread")

    def test_the_type_of_the_key_may_change(self, tmp_path: Path) -> None:
        pair = Pair(tmp_path, "CREATE TABLE tasks (id INT NOT NULL PRIMARY KEY, title TEXT)", {"tasks": ["title"]})
        pair.laptop.write([(ADD, (1, "milk"))])
        pair.both()
        pair.script(
            "CREATE TABLE new (id TEXT NOT NULL PRIMARY KEY, title TEXT); INSERT INTO new SELECT * FROM tasks; "
            "DROP TABLE tasks; ALTER TABLE new RENAME TO tasks; UPDATE tasks SET title = 'tea'"
        )
        pair.settle()
        assert (pair.laptop.rows("tasks"), pair.phone.rows("tasks")) == ([("1", "tea")], [(1, "tea")])
        assert [each.op for each in pair.log.changes] == ["INSERT", "UPDATE"]
        pair.close()

    def test_a_table_that_is_synced_later_gets_what_the_log_has(self, tmp_path: Path) -> None:
        schema = f"{TASKS}; CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY, text TEXT)"
        pair = Pair(tmp_path, schema, {"tasks": ["title"], "notes": ["text"]})
        pair.phone.tables = {"tasks": ["title"]}
        pair.laptop.write([("INSERT INTO notes VALUES ('n', 'hello')", ())])
        pair.settle()
        assert pair.phone.rows("notes") == []
        pair.phone.stop()
        pair.phone.tables = {}
        assert pair.both("notes") == [("n", "hello")]
        pair.close()


class TestWriters:
    def test_a_writer_without_our_triggers_is_found_at_the_next_opening(self, pair: Pair) -> None:
        changed, gone = "UPDATE tasks SET title = 'tea' WHERE id = 'a'", "DELETE FROM tasks WHERE id = 'b'"
        new = "INSERT INTO tasks VALUES ('c', 'new', 0)"
        pair.laptop.write([(changed, ()), (gone, ()), (new, ())], is_recorded=False)
        pair.laptop.stop()
        pair.laptop.sync()
        pair.phone.sync()
        assert pair.phone.rows("tasks") == [("a", "tea", 0), ("c", "new", 0)] == pair.laptop.rows("tasks")

    def test_it_is_found_every_hour(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())], is_recorded=False)
        pair.laptop.sync()
        assert len(pair.log.changes) == 2
        later = time.monotonic() + 3601
        monkeypatch.setattr(sqlite_store.time, "monotonic", lambda: later)
        assert pair.laptop.store.wait(0)
        pair.laptop.sync()
        assert pair.log.changes[-1].data["title"] == "tea"

    def test_a_change_does_not_overwrite_an_unrecorded_edit_in_silence(self, pair: Pair) -> None:
        pair.phone.write([("UPDATE tasks SET title = 'of the phone' WHERE id = 'a'", ())])
        pair.phone.sync()
        pair.tick()
        pair.laptop.write([("UPDATE tasks SET title = 'tea' WHERE id = 'a'", ())], is_recorded=False)
        assert pair.both()[0] == ("a", "tea", 0)

    def test_the_shell_of_sqlite(self, pair: Pair) -> None:
        sql = "REPLACE INTO tasks VALUES ('a', 'tea', 1); UPDATE tasks SET id = 'z' WHERE id = 'b';"
        sql += "PRAGMA integrity_check"
        said = subprocess.run([need("sqlite3"), str(pair.laptop.file), sql], capture_output=True, text=True, check=True)
        assert said.stdout == "ok\n"
        assert pair.both() == [("a", "tea", 1), ("z", "bread", 0)]

    @pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
    def test_the_journal_mode_stays_the_apps(self, tmp_path: Path, mode: str) -> None:
        pair = Pair(tmp_path)
        pair.script(f"PRAGMA journal_mode = {mode}")
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        app = sqlite3.connect(pair.laptop.file)
        assert app.execute("PRAGMA journal_mode").fetchone() == (("wal",) if mode == "wal" else ("delete",))
        app.close()
        pair.close()

    def test_the_apps_foreign_keys_and_last_row_id_are_untouched(self, tmp_path: Path) -> None:
        schema = (
            "CREATE TABLE lists (id TEXT NOT NULL PRIMARY KEY); "
            "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, list TEXT REFERENCES lists (id) ON DELETE CASCADE)"
        )
        pair = Pair(tmp_path, schema, {"lists": [], "tasks": ["list"]})
        pair.laptop.store.position()
        app = sqlite3.connect(pair.laptop.file, isolation_level=None)
        app.execute("PRAGMA foreign_keys = ON")
        app.execute("INSERT INTO lists VALUES ('l')")
        cursor = app.execute("INSERT INTO tasks VALUES ('a', 'l')")
        assert (cursor.lastrowid, cursor.rowcount) == (1, 1)
        pair.both()
        app.execute("DELETE FROM lists")
        app.close()
        assert pair.both() == []
        assert {each.op for each in pair.log.changes[2:]} == {"DELETE"}
        pair.close()

    def test_triggers_of_the_app_that_change_applied_rows_cause_no_endless_edits(self, tmp_path: Path) -> None:
        touch = (
            "CREATE TRIGGER touch AFTER UPDATE OF title ON tasks BEGIN UPDATE tasks SET done = done + 1 "
            "WHERE id = NEW.id; END"
        )
        pair = Pair(tmp_path, f"{TASKS}; {touch}")
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        pair.settle()
        assert (pair.laptop.rows("tasks"), pair.phone.rows("tasks")) == ([("a", "tea", 1)], [("a", "tea", 2)])
        assert len(pair.log.changes) == 2
        pair.close()

    def test_an_app_with_functions_and_collations_of_its_own(self, tmp_path: Path) -> None:
        file = tmp_path / "app.db"
        app = sqlite3.connect(file)

        def register(connection: sqlite3.Connection) -> None:
            connection.create_function("shout", 1, lambda text: text.upper())
            connection.create_collation("backwards", lambda a, b: (a < b) - (a > b))

        register(app)
        app.executescript(
            f"{TASKS}; CREATE INDEX by_title ON tasks (title COLLATE backwards); CREATE TABLE log (line TEXT); "
            "CREATE TRIGGER t AFTER INSERT ON tasks BEGIN INSERT INTO log VALUES (shout(NEW.title)); END"
        )
        app.close()
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        with closing(SQLiteStore(file, {"tasks": ["title"]}, on_connect=register)) as store:
            store.apply([PulledChange("tasks", "INSERT", "a", at, {"title": "milk"}, 1, "d", at, at)], Position("e", 1))
        app = sqlite3.connect(file)
        assert app.execute("SELECT line FROM log").fetchall() == [("MILK",)]
        app.close()


class TestProcesses:
    def test_wait_notices_another_process_soon(self, pair: Pair) -> None:
        store = pair.laptop.store
        assert store.pending(10) == []
        code = f"import sqlite3; app = sqlite3.connect({str(pair.laptop.file)!r})\n"
        code += "with app: app.execute('DELETE FROM tasks')"
        writer = subprocess.Popen([sys.executable, "-c", code])
        assert store.wait(30)
        assert writer.wait(30) == 0
        assert not store.wait(0.2)
        assert len(store.pending(10)) == 2
        assert not store.wait(0.2)

    def test_wake_and_close_end_a_wait(self, pair: Pair) -> None:
        store = pair.laptop.store
        store.pending(10)
        for end in store.wake, store.close:
            ended = threading.Thread(target=store.wait, args=(60,))
            ended.start()
            end()
            ended.join(10)
            assert not ended.is_alive()
        store.wake()
        assert not store.wait(60)
        with pytest.raises(StoreError, match="closed"):
            store.position()
        pair.laptop.stop()

    def test_a_file_that_another_connection_locks_is_an_error_that_passes(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = pair.laptop.store
        store._database.connection.execute("PRAGMA busy_timeout = 50")
        app = sqlite3.connect(pair.laptop.file, isolation_level=None)
        app.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as raised:
            store.apply((), Position("e", 1))
        assert raised.value.sqlite_errorname == "SQLITE_BUSY"
        assert not store.wait(0.2)
        app.execute("COMMIT")
        app.close()
        store.apply((), Position(pair.log.epoch, 2, is_complete=True))

    def test_a_damaged_file_is_an_error_that_does_not_pass(self, pair: Pair) -> None:
        store = pair.laptop.store
        fresh = pair.laptop.file.with_suffix(".fresh")
        fresh.write_bytes(b"no database" * 1000)
        fresh.replace(pair.laptop.file)
        with pytest.raises(StoreError, match="cannot be synced"):
            store.position()
        pair.laptop.file.unlink()
        with pytest.raises((StoreError, FileNotFoundError)):
            store.position()

    def test_two_processes_with_one_file(self, pair: Pair) -> None:
        twin = SQLiteStore(pair.laptop.file, {"tasks": ["title", "done"]})
        pair.laptop.write([(ADD, (f"r{number}", "x")) for number in range(20)])
        first, second = pair.laptop.store.pending(100), twin.pending(100)
        assert [each.version for each in first] == [each.version for each in second]
        pair.laptop.sync()
        assert twin.pending(100) == []
        assert twin.position() == pair.laptop.store.position()
        twin.close()
        pair.both()

    def test_a_process_with_other_columns_ends_this_one(self, pair: Pair) -> None:
        with closing(SQLiteStore(pair.laptop.file, {"tasks": ["title"]})) as other:
            with pytest.raises(StoreError, match="another process opened"):
                pair.laptop.store.position()
            assert other.compare() == 0

    def test_a_table_that_is_named_no_more_is_left_alone(self, pair: Pair) -> None:
        pair.script("CREATE TABLE notes (id TEXT NOT NULL PRIMARY KEY)")
        pair.laptop.stop()
        with closing(SQLiteStore(pair.laptop.file, {"notes": []})):
            app = sqlite3.connect(pair.laptop.file)
            names = {name for (name,) in app.execute("SELECT name FROM sqlite_master WHERE name LIKE 'synckit%'")}
            app.close()
        assert not {name for name in names if name.endswith("_tasks")}
        assert pair.both() == [("a", "milk", 0), ("b", "bread", 0)]

    def test_the_threads_of_a_program(self, pair: Pair) -> None:
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                app = sqlite3.connect(pair.laptop.file, isolation_level=None, timeout=30)
                for each in range(20):
                    app.execute(ADD, (f"{number}-{each}", "x"))
                    pair.laptop.store.pending(5)
                    pair.laptop.store.wait(0)
                app.close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(pair.both()) == 82

    def test_a_file_that_is_replaced_while_it_is_open(self, pair: Pair) -> None:
        copy = pair.laptop.file.with_suffix(".copy")
        shutil.copy(pair.laptop.file, copy)
        pair.laptop.write([("DELETE FROM tasks WHERE id = 'a'", ())])
        pair.both()
        copy.replace(pair.laptop.file)
        assert [row[0] for row in pair.laptop.rows("tasks")] == ["a", "b"]
        assert [row[0] for row in pair.both()] == ["b"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_has_a_connection_of_its_own(self, pair: Pair) -> None:
        store = pair.laptop.store
        store.position()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.pending(10)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        pair.laptop.write([("DELETE FROM tasks", ())])
        assert pair.both() == []

    def test_a_process_that_is_killed_in_the_middle_of_an_apply(self, pair: Pair, tmp_path: Path) -> None:
        code = f"""
import os
from synckit_notify.client.models import *
from synckit_notify.client.stores.sqlite import SQLiteStore
from synckit_notify.client.stores.sqlite_merge import Merge
from datetime import UTC, datetime
at = datetime(2026, 1, 1, tzinfo=UTC)
store = SQLiteStore({str(pair.laptop.file)!r}, {{"tasks": ["title", "done"]}})
def die(*_):
    os.kill(os.getpid(), 9)
import synckit_notify.client.stores.sqlite as s
s.retry_held = die
store.apply([PulledChange("tasks", "INSERT", "new", at, {{"title": "x"}}, 9, "d", at, at)], Position("e", 9))
"""
        before = pair.laptop.store.position()
        pair.laptop.stop()
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
        assert pair.laptop.store.position() == before
        assert [row[0] for row in pair.both()] == ["a", "b"]


LISTS = """
    CREATE TABLE lists (id TEXT NOT NULL PRIMARY KEY, name TEXT UNIQUE, color TEXT DEFAULT 'blue');
    CREATE TABLE tasks (
        id TEXT NOT NULL PRIMARY KEY, title TEXT, list TEXT REFERENCES lists (id) ON DELETE CASCADE,
        parent TEXT REFERENCES tasks (id));
"""
LINKED = {"tasks": ["title", "list", "parent"], "lists": ["name"]}


class TestReferences:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Iterator[Pair]:
        made = Pair(tmp_path, LISTS, LINKED)
        made.laptop.write([("INSERT INTO lists (id, name) VALUES ('l', 'shopping')", ())])
        made.both("lists")
        yield made
        made.close()

    def test_a_child_of_a_parent_that_was_deleted_elsewhere_is_deleted(self, pair: Pair) -> None:
        pair.laptop.write(
            [
                ("INSERT INTO tasks (id, list) VALUES ('a', 'l')", ()),
                ("INSERT INTO tasks (id, parent) VALUES ('b', 'a')", ()),
            ]
        )
        pair.phone.write([("DELETE FROM lists", ())])
        assert pair.both("tasks") == pair.both("lists") == []

    def test_on_orphan_may_decide_otherwise(self, pair: Pair) -> None:
        orphans: list[Orphan] = []

        def decide(orphan: Orphan) -> dict[str, Any]:
            orphans.append(orphan)
            return {"list": None}

        for device in pair.devices:
            device.stop()
            device.options = {"on_orphan": decide}
        pair.laptop.write([("INSERT INTO tasks (id, list, title) VALUES ('a', 'l', 'milk')", ())])
        pair.phone.write([("DELETE FROM lists", ())])
        assert pair.both("tasks") == [("a", "milk", None, None)]
        assert (orphans[0].row_id, orphans[0].parent_row_id, orphans[0].data["title"]) == ("a", "l", "milk")

    def test_self_references_and_cycles_arrive_whatever_their_order(self, pair: Pair) -> None:
        pair.laptop.write(
            [
                ("INSERT INTO tasks (id, parent) VALUES ('a', 'c')", ()),
                ("INSERT INTO tasks (id, parent) VALUES ('b', 'a')", ()),
                ("INSERT INTO tasks (id, parent) VALUES ('c', 'b')", ()),
                ("INSERT INTO tasks (id, parent) VALUES ('self', 'self')", ()),
            ]
        )
        assert len(pair.both("tasks")) == 4
        pair.phone.write([("DELETE FROM tasks WHERE id = 'b'", ())])
        pair.laptop.write([("UPDATE tasks SET title = 'x' WHERE id = 'a'", ())])
        assert pair.both("tasks", "id") == [("self",)]

    def test_a_child_may_come_before_its_parent(self, pair: Pair) -> None:
        pair.laptop.write([("INSERT INTO tasks (id, list) VALUES ('a', 'unknown')", ())])
        assert pair.both("tasks", "id, list") == [("a", "unknown")]

    def test_of_two_rows_that_clash_the_later_stays(self, pair: Pair) -> None:
        pair.laptop.write([("INSERT INTO lists (id, name) VALUES ('early', 'work')", ())])
        pair.tick()
        pair.phone.write([("INSERT INTO lists (id, name) VALUES ('late', 'work')", ())])
        assert pair.both("lists", "id, name") == [("l", "shopping"), ("late", "work")]

    def test_two_rows_that_swap_a_unique_value_both_stay(self, pair: Pair) -> None:
        pair.laptop.write([("INSERT INTO lists (id, name) VALUES ('m', 'work')", ())])
        pair.both("lists")
        for device in pair.devices:
            device.write([("UPDATE lists SET color = 'red'", ())])
        swap = [("l", "-"), ("m", "shopping"), ("l", "work")]
        pair.laptop.write([("UPDATE lists SET name = ? WHERE id = ?", (name, key)) for key, name in swap])
        assert pair.both("lists") == [("l", "work", "red"), ("m", "shopping", "red")]
        assert len(pair.log.changes) == 4

    def test_a_row_that_the_table_refuses_is_held_until_it_fits(self, tmp_path: Path) -> None:
        pair = Pair(tmp_path)
        pair.phone.write(
            [("DROP TABLE tasks", ()), (TASKS.replace("title TEXT", "title TEXT CHECK (length(title) < 5)"), ())]
        )
        pair.laptop.write([(ADD, ("a", "too long")), (ADD, ("b", "tea"))])
        pair.settle()
        assert pair.phone.rows("tasks") == [("b", "tea", 0)]
        pair.laptop.write([("UPDATE tasks SET title = 'milk' WHERE id = 'a'", ())])
        assert len(pair.both()) == 2
        pair.close()

    @pytest.mark.parametrize(
        "schema",
        [
            f"{TASKS}; CREATE INDEX by_x ON tasks (json_extract(title, '$.x'))",
            TASKS.replace("title TEXT", "title TEXT CHECK (json_extract(title, '$.x') = 1)"),
            f"{TASKS}; CREATE TRIGGER t AFTER INSERT ON tasks BEGIN SELECT json_extract(NEW.title, '$.x'); END",
        ],
        ids=["index", "check", "trigger"],
    )
    def test_a_row_for_which_an_expression_of_the_table_fails_is_held(self, tmp_path: Path, schema: str) -> None:
        file = tmp_path / "app.db"
        with closing(sqlite3.connect(file)) as app:
            app.executescript(schema)
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        log = [
            PulledChange("tasks", "INSERT", row, at, {"title": title}, seq, "d", at, at)
            for seq, (row, title) in enumerate({"a": "malformed", "b": '{"x": 1}'}.items(), 1)
        ]
        with closing(SQLiteStore(file, {"tasks": ["title"]})) as store:
            store.apply(log, Position("e", 2, is_complete=True))
            assert store.pending(1) == []
        with closing(sqlite3.connect(file)) as app:
            assert app.execute("SELECT id FROM tasks").fetchall() == [("b",)]

    def test_a_table_that_no_row_can_be_written_to_is_a_store_error(self, tmp_path: Path) -> None:
        file = tmp_path / "app.db"
        with closing(sqlite3.connect(file)) as app:
            app.executescript(f"{TASKS}; CREATE TRIGGER t AFTER INSERT ON tasks BEGIN SELECT missing(NEW.title); END")
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        with closing(SQLiteStore(file, {"tasks": ["title"]})) as store, pytest.raises(StoreError, match="missing"):
            store.apply([PulledChange("tasks", "INSERT", "a", at, {"title": "x"}, 1, "d", at, at)], Position("e", 1))


def test_wait_costs_little(pair: Pair) -> None:
    store = pair.laptop.store
    store.pending(1)
    began = time.process_time()
    store.wait(1.0)
    assert time.process_time() - began < 0.2


def test_the_wait_notices_this_process_too(pair: Pair) -> None:
    store = pair.laptop.store
    store.pending(1)
    pair.laptop.write([("DELETE FROM tasks", ())])
    assert until(lambda: store.wait(0.5))
