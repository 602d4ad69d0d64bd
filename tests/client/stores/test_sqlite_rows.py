"""SQLiteStore between two devices: what is sent, what is applied, and which of two edits stays."""

import base64
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.client import json_text
from synckit_notify.client.errors import StoreError
from synckit_notify.client.models import ChangeEntry, Order, Position, PulledChange, RefusedChange
from synckit_notify.client.stores.sqlite import SQLiteStore

from ...support.store_walk import HOUR, TASKS, Device, Pair, State

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
ADD = "INSERT INTO tasks (id, title) VALUES (?, ?)"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def change(
    seq: int, row: str, data: Any, at: datetime = AT, *, op: str = "INSERT", table: str = "tasks"
) -> PulledChange:
    return PulledChange(table, op, row, at, data, seq, "other", at, at)


def apply(store: SQLiteStore, *changes: PulledChange) -> None:
    store.apply(changes, Position("e1", changes[-1].seq if changes else 0, is_complete=True))


def send(store: SQLiteStore, seq: int = 1000) -> list[ChangeEntry]:
    """Send what is pending, and return it."""
    pending = store.pending(500)
    store.sent({each.version: Order(each.entry.timestamp, "own", seq + n) for n, each in enumerate(pending)})
    return [each.entry for each in pending]


def test_an_edit_after_the_year_9999_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    file, told = tmp_path / "tasks.db", list[RefusedChange]()
    with sqlite3.connect(file) as app:
        app.execute(TASKS)
    store = SQLiteStore(file, {"tasks": ["title", "done"]}, on_refused=told.append)
    apply(store, change(1, "a", {"title": "far", "done": 0}, datetime.max.replace(tzinfo=UTC)))
    with app:
        app.execute("UPDATE tasks SET done = 1")
        app.execute(ADD, ("b", "bread"))
    assert [entry.row_id for entry in send(store)] == ["b"]
    assert [(each.row_id, each.reason) for each in told] == [("('a',)", "the timestamp must be in the years 1 to 9999")]
    app.close()
    store.close()


class TestRows:
    def test_rows_travel_both_ways_and_deletions_too(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk")), (ADD, ("b", "bread"))])
        pair.phone.write([(ADD, ("c", "tea"))])
        assert pair.both() == [("a", "milk", 0), ("b", "bread", 0), ("c", "tea", 0)]
        pair.phone.write([("DELETE FROM tasks WHERE id = ?", ("a",)), ("UPDATE tasks SET done = 1", ())])
        assert pair.both() == [("b", "bread", 1), ("c", "tea", 1)]

    def test_applying_is_no_edit(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        assert len(pair.log.changes) == 1

    def test_a_write_that_changes_no_synced_column_is_not_sent(self, tmp_path: Path) -> None:
        pair = Pair(
            tmp_path, "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title TEXT, opened INT)", {"tasks": ["title"]}
        )
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both("tasks", "id, title")
        pair.laptop.write([("UPDATE tasks SET opened = 7, title = title", ())])
        pair.phone.write([("UPDATE tasks SET title = 'tea'", ())])
        assert pair.both("tasks", "id, title") == [("a", "tea")]
        assert pair.laptop.rows("tasks") == [("a", "tea", 7)]
        assert len(pair.log.changes) == 2
        pair.close()

    def test_a_changed_key_is_a_deletion_and_an_insertion(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET id = 'z'", ())])
        assert pair.both() == [("z", "milk", 0)]
        assert [(each.op, each.row_id) for each in pair.log.changes[1:]] in (
            [("DELETE", "a"), ("INSERT", "z")],
            [("INSERT", "z"), ("DELETE", "a")],
        )

    def test_a_key_that_changes_its_case_moves_too(self, tmp_path: Path) -> None:
        pair = Pair(
            tmp_path,
            "CREATE TABLE tasks (id TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, title TEXT)",
            {"tasks": ["title"]},
        )
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET id = 'A'", ())])
        assert pair.both() == [("A", "milk")]
        pair.close()

    def test_insert_or_replace_deletes_a_row_by_a_second_unique_index(self, tmp_path: Path) -> None:
        pair = Pair(
            tmp_path, "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title TEXT UNIQUE)", {"tasks": ["title"]}
        )
        pair.laptop.write([(ADD, ("a", "milk")), (ADD, ("b", "bread"))])
        pair.both()
        pair.laptop.write([("INSERT OR REPLACE INTO tasks (id, title) VALUES ('c', 'milk')", ())])
        assert pair.both() == [("b", "bread"), ("c", "milk")]
        assert ("DELETE", "a") in [(each.op, each.row_id) for each in pair.log.changes]
        pair.close()

    def test_a_replace_of_the_same_key_keeps_what_is_known_of_the_row(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.error = -5 * HOUR
        pair.laptop.write([("INSERT OR REPLACE INTO tasks (id, title) VALUES ('a', 'tea')", ())])
        assert pair.both() == [("a", "tea", 0)]


class TestTheOneOrder:
    def test_a_slow_clock_does_not_lose_against_what_was_seen(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.phone.error = -5 * HOUR
        pair.phone.write([("UPDATE tasks SET title = 'tea'", ())])
        assert pair.both() == [("a", "tea", 0)]

    def test_a_fast_clock_does_not_win_against_what_saw_it(self, pair: Pair) -> None:
        pair.laptop.error = 5 * HOUR
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.phone.write([("UPDATE tasks SET title = 'tea'", ())])
        assert pair.both() == [("a", "tea", 0)]

    def test_of_two_edits_the_later_whole_row_stays(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        pair.tick()
        pair.phone.write([("UPDATE tasks SET done = 1", ())])
        assert pair.both() == [("a", "milk", 1)]

    def test_the_timestamp_is_fixed_when_the_edit_is_made(self, pair: Pair) -> None:
        before = pair.now()
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.laptop.sync()
        after, pair.elapsed = pair.now(), pair.elapsed + HOUR
        assert before - timedelta(milliseconds=2) <= pair.log.changes[0].timestamp <= after

    def test_the_offset_of_the_clock_is_kept_for_the_triggers_of_all_processes(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        store.clock_offset = timedelta(hours=-3)
        pair.laptop.stop()
        assert pair.laptop.store.clock_offset == timedelta(hours=-3)
        app = sqlite3.connect(pair.laptop.file)
        app.execute(ADD, ("a", "milk"))
        app.commit()
        app.close()
        timestamp = send(pair.laptop.store)[0].timestamp
        assert abs(timestamp + timedelta(hours=3) - datetime.now(UTC)) < timedelta(minutes=10)

    def test_an_edit_during_a_push_is_sent_too(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "milk"))])
        first = store.pending(10)
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        store.sent({each.version: Order(each.entry.timestamp, "own", 1) for each in first})
        second = store.pending(10)
        assert [each.entry.data for each in second] == [{"done": 0, "title": "tea"}]
        assert second[0].entry.timestamp > first[0].entry.timestamp
        assert second[0].version != first[0].version

    def test_an_edit_that_is_reverted_while_it_is_sent_is_sent_again(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        pair.laptop.sync(faults=["", "unanswered"])
        pair.laptop.write([("UPDATE tasks SET title = 'milk'", ())])
        assert pair.both() == [("a", "milk", 0)]

    def test_a_later_change_beats_a_pending_edit_and_an_earlier_one_does_not(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "mine")), (ADD, ("b", "mine"))])
        soon = pair.now() + timedelta(hours=1)
        apply(store, change(1, "a", {"title": "theirs"}), change(2, "b", {"title": "theirs"}, soon))
        assert pair.laptop.rows("tasks", "id, title") == [("a", "mine"), ("b", "theirs")]
        assert [(entry.row_id, entry.op) for entry in send(store)] == [("a", "INSERT")]

    def test_a_push_that_turns_out_to_be_earlier_shows_the_winner(self, pair: Pair) -> None:
        """A repeated push answers its first order, and the log may have a later change by then."""
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "mine"))])
        version = store.pending(1)[0].version
        apply(store, change(2, "a", {"title": "theirs"}))
        assert pair.laptop.rows("tasks", "title") == [("mine",)]
        store.sent({version: Order(AT - timedelta(hours=1), "own", 1)})
        assert pair.laptop.rows("tasks", "title") == [("theirs",)]
        assert store.pending(10) == []

    def test_its_own_change_that_comes_back_settles_an_edit(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "milk"))])
        entry = store.pending(1)[0].entry
        apply(store, PulledChange("tasks", entry.op, "a", entry.timestamp, entry.data, 1, "own", AT, AT))
        assert store.pending(10) == []
        assert store.compare() == 0

    def test_a_repetition_of_an_older_change_revives_nothing(self, pair: Pair) -> None:
        store = pair.laptop.store
        first, last = change(1, "a", {"title": "milk"}), change(2, "a", None, AT + timedelta(hours=1), op="DELETE")
        apply(store, first, last)
        apply(store, first, last)
        apply(store, first)
        assert pair.laptop.rows("tasks") == []

    @pytest.mark.parametrize(("days", "sent"), [(0, []), (200, [("a", "DELETE", AT + timedelta(hours=1))])])
    def test_a_deletion_that_the_log_may_have_forgotten_is_sent_again(
        self, pair: Pair, days: int, sent: list[tuple[str, str, datetime]]
    ) -> None:
        """A device that was restored from an old copy sends an edit of before; not all others remember the deletion."""
        store = pair.laptop.store
        apply(store, change(1, "a", None, AT + timedelta(hours=1), op="DELETE"))
        late = replace(change(2, "a", {"title": "milk"}), received_at=AT + timedelta(days=days, hours=2))
        apply(store, late)
        apply(store, late)
        assert pair.laptop.rows("tasks") == []
        assert [(each.row_id, each.op, each.timestamp) for each in send(store)] == sent
        apply(store, change(3, "a", None, AT + timedelta(hours=1), op="DELETE"))
        assert store.pending(9) == []

    def test_two_devices_on_one_device_id_do_not_lose_each_others_edits(self, pair: Pair) -> None:
        pair.phone.state = State(pair.laptop.state.device_id)
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.phone.write([(ADD, ("b", "tea"))])
        assert pair.both() == [("a", "milk", 0), ("b", "tea", 0)]


class TestRowsThatWereThere:
    def test_they_are_sent_after_the_first_pull_and_never_win(self, tmp_path: Path) -> None:
        schema = TASKS + "; INSERT INTO tasks VALUES ('a', 'old', 0), ('b', 'only here', 1)"
        pair = Pair(tmp_path, schema)
        store = pair.laptop.store
        assert store.pending(10) == []
        store.apply([change(1, "a", {"title": "of the account", "done": 1})], Position("e1", 1))
        assert store.pending(10) == []
        apply(store, change(2, "c", {"title": "more"}))
        assert pair.laptop.rows("tasks", "id, title") == [("a", "of the account"), ("b", "only here"), ("c", "more")]
        assert [(entry.row_id, entry.timestamp.year) for entry in send(store)] == [("b", 1970)]
        pair.close()

    def test_two_devices_with_different_rows_end_equal(self, tmp_path: Path) -> None:
        pair = Pair(tmp_path, TASKS + "; INSERT INTO tasks VALUES ('a', 'same key', 0)")
        pair.phone.write(
            [(ADD, ("b", "tea")), ("UPDATE tasks SET title = 'of the phone' WHERE id = 'a'", ())], is_recorded=False
        )
        assert [row[0] for row in pair.both()] == ["a", "b"]
        pair.close()

    def test_an_edit_of_such_a_row_has_its_own_time(self, tmp_path: Path) -> None:
        pair = Pair(tmp_path, TASKS + "; INSERT INTO tasks VALUES ('a', 'old', 0)")
        pair.laptop.write([("UPDATE tasks SET title = 'new'", ())])
        apply(pair.laptop.store, change(1, "a", {"title": "of the account", "done": 1}))
        assert pair.laptop.rows("tasks", "title") == [("new",)]
        pair.close()


class TestALogThatIsReadAgain:
    def test_rows_that_it_does_not_have_are_deleted_unless_they_were_never_sent(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(
            store,
            change(1, "kept", {"title": "1"}),
            change(2, "gone", {"title": "2"}),
            change(3, "edited", {"title": "3"}),
        )
        reported: list[RefusedChange] = []
        store._on_refused = reported.append
        pair.laptop.write([(ADD, ("new", "4")), ("UPDATE tasks SET title = '5' WHERE id = 'edited'", ())])
        store.begin_again(was_away=True)
        assert store.position() == Position()
        assert store.pending(10) == []
        store.apply([change(1, "kept", {"title": "1"})], Position("e1", 1, is_complete=True))
        assert pair.laptop.rows("tasks", "id") == [("kept",), ("new",)]
        assert [entry.row_id for entry in send(store)] == ["new"]
        assert [(refused.row_id, refused.table) for refused in reported] == [("edited", "tasks")]

    def test_a_log_with_another_epoch_gets_the_rows_that_it_lost(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store, change(1, "a", {"title": "1"}), change(2, "deleted", None, op="DELETE"))
        store.apply([change(1, "b", {"title": "2"})], Position("e2", 1, is_complete=True))
        assert pair.laptop.rows("tasks", "id") == [("a",), ("b",)]
        assert store.position() == Position("e2", 1)
        assert {entry.row_id for entry in send(store)} >= {"a"}

    def test_a_server_that_lost_its_database_gets_everything_again(self, pair: Pair) -> None:
        empty = pair.log.backup()
        pair.laptop.write([(ADD, ("a", "milk")), (ADD, ("b", "bread"))])
        pair.both()
        pair.phone.write([("DELETE FROM tasks WHERE id = 'b'", ())])
        pair.both()
        pair.log.restore(empty)
        assert pair.both() == [("a", "milk", 0)]
        assert pair.log.winners()["tasks", "a"].timestamp == pair.log.winners()["tasks", "a"].order_at

    def test_an_edit_that_a_restored_server_lost_is_sent_again_with_its_old_time(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        backup = pair.log.backup()
        pair.tick()
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        pair.both()
        pair.log.restore(backup)
        assert pair.both() == [("a", "tea", 0)]
        assert len(pair.log.changes) == 2

    def test_an_unrecorded_edit_survives_it(self, pair: Pair) -> None:
        pair.laptop.write([(ADD, ("a", "milk"))])
        pair.both()
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())], is_recorded=False)
        pair.log.restore(pair.log.backup())
        assert pair.both() == [("a", "tea", 0)]


class TestRefusedRows:
    def test_it_is_set_aside_until_its_next_edit(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "too large")), (ADD, ("b", "tea"))])
        store.refused(store.pending(1)[0].version, "too large")
        assert [entry.row_id for entry in send(store)] == ["b"]
        assert not store.wait(0)
        pair.laptop.write([("UPDATE tasks SET title = 'small' WHERE id = 'a'", ())])
        assert [(entry.row_id, entry.op) for entry in send(store)] == [("a", "INSERT")]

    def test_a_version_of_another_edit_is_ignored(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([(ADD, ("a", "milk"))])
        version = store.pending(1)[0].version
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        store.refused(version, "an old one")
        store.sent({"unknown": Order(AT, "own", 1), version: Order(AT, "own", 1)})
        assert [entry.data["title"] for entry in send(store)] == ["tea"]

    @pytest.mark.parametrize("key", ["x" * 257, "nul\0", b"\xff".decode("utf-8", "surrogateescape")])
    def test_a_key_that_cannot_be_a_row_id_is_reported_once(self, tmp_path: Path, key: str) -> None:
        pair, reported = Pair(tmp_path), list[RefusedChange]()
        apply(pair.laptop.store)
        pair.laptop.store._on_refused = reported.append
        raw = key.encode("utf-8", "surrogateescape")
        pair.laptop.write([("INSERT INTO tasks VALUES (CAST(? AS TEXT), 'x', 0)", (raw,)), (ADD, ("b", "tea"))])
        assert [entry.row_id for entry in send(pair.laptop.store)] == ["b"]
        assert pair.laptop.store.pending(10) == []
        assert len(reported) == 1
        assert pair.laptop.store.compare() == 0
        pair.close()

    def test_values_that_are_no_json_are_left_to_the_encoder(self, tmp_path: Path) -> None:
        """`run` seals the entries one by one, and refuses those for which the encoder raises ValueError."""
        pair = Pair(tmp_path, "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title)", {"tasks": ["title"]})
        store = pair.laptop.store
        apply(store)
        pair.laptop.write([("INSERT INTO tasks (id, title) VALUES ('a', 9e999), ('b', CAST(x'ff' AS TEXT))", ())])
        for entry in send(store):
            with pytest.raises(ValueError):
                json_text.encode(entry.data)
        pair.close()


class TestMembersWithoutAColumn:
    def test_they_are_kept_and_sent_again(self, pair: Pair) -> None:
        store = pair.laptop.store
        apply(store, change(1, "a", {"title": "milk", "done": 0, "color": "red"}))
        pair.laptop.write([("UPDATE tasks SET title = 'tea'", ())])
        assert send(store)[0].data == {"title": "tea", "done": 0, "color": "red"}

    def test_a_member_that_is_missing_is_the_default(self, pair: Pair) -> None:
        apply(
            pair.laptop.store,
            change(1, "a", {"title": "milk", "done": 1}),
            change(2, "a", {"title": "tea"}, AT + timedelta(1)),
        )
        assert pair.laptop.rows("tasks") == [("a", "tea", 0)]

    @pytest.mark.parametrize(
        "data", [None, [1], "text", {"title": math.inf}, {"title": 2**64}, {"x": {"$blob": 1}}, {"x": {"$int": "a"}}]
    )
    def test_data_of_another_writer_that_is_no_row_is_left_out(self, pair: Pair, data: Any) -> None:
        apply(pair.laptop.store, change(1, "a", data), change(2, "b", {"title": "tea"}))
        assert pair.laptop.rows("tasks") == [("b", "tea", 0)]

    @pytest.mark.parametrize("row", ["[null]", '["\\ud800"]'])
    def test_a_row_id_that_is_no_key_is_left_out(self, pair: Pair, row: str) -> None:
        apply(pair.laptop.store, change(1, row, {"title": "x"}), change(2, "b", {"title": "tea"}))
        assert pair.laptop.rows("tasks") == [("b", "tea", 0)]

    def test_other_tables_are_ignored(self, pair: Pair) -> None:
        apply(pair.laptop.store, change(1, "a", {"title": "x"}, table="others"))
        assert pair.laptop.rows("tasks") == []


VALUES = [
    *(None, 0, 1, -1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0.5, -1e300, 5e-324, "", "text", "nul\0inside", "ü𝄞"),
    *(b"", b"\0\xff", "x" * 200_000, b"y" * 100_000, '{"$int": "1"}'),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {str(value)[:12]!r}")
def test_every_value_of_sqlite_arrives_as_it_is(tmp_path: Path, value: Any) -> None:
    pair = Pair(tmp_path, "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title)", {"tasks": ["title"]})
    pair.laptop.write([(ADD, ("a", value))])
    assert pair.both("tasks", "id, title, typeof(title)")[0][:2] == ("a", value)
    assert type(pair.laptop.rows("tasks")[0][1]) is type(pair.phone.rows("tasks")[0][1]) is type(value)
    pair.close()


def test_a_table_with_the_longest_name(tmp_path: Path) -> None:
    name = "t" * 128
    pair = Pair(
        tmp_path, f'CREATE TABLE {name} (id TEXT NOT NULL PRIMARY KEY, "odd ""name" TEXT)', {name: ['odd "name']}
    )
    pair.laptop.write([(f"INSERT INTO {name} VALUES ('a', 'b')", ())])
    assert pair.both(name) == [("a", "b")]
    pair.close()


def test_how_blobs_and_large_integers_are_sent(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title)", {"tasks": ["title"]})
    for number, value in enumerate([b"\0\xff", 2**53, 2**53 + 1]):
        pair.laptop.write([(ADD, (str(number), value))])
    pair.both()
    assert [each.data["title"] for each in pair.log.changes] == [
        {"$blob": base64.b64encode(b"\0\xff").decode()},
        2**53,
        {"$int": str(2**53 + 1)},
    ]
    pair.close()


KEYS = {
    "text": ("id TEXT NOT NULL PRIMARY KEY", [("a",), ("1",), ("",), ('["x"]',), ("[",), ("ü" * 128,), ("x" * 256,)]),
    "integer": ("id INT NOT NULL PRIMARY KEY", [(1,), (-5,), (2**62,), ("text",)]),
    "blob": ("id BLOB NOT NULL PRIMARY KEY", [(b"\0\xff",), ("text",), ("1",), (1,)]),
    "real": ("id REAL NOT NULL PRIMARY KEY", [(0.5,), (1e300,), (2.0,)]),
    "rowid": ("id INTEGER PRIMARY KEY", [(1,), (7,)]),
    "without rowid": ("id TEXT PRIMARY KEY, other TEXT) WITHOUT ROWID; CREATE TABLE z (z", [("a",), ("b",)]),
    "composite": (
        "id TEXT NOT NULL, k INT NOT NULL, PRIMARY KEY (k, id)",
        [("a", 1), ("a", 2), ("[", 2**60), ('"', -1)],
    ),
    "three": (
        "id, k BLOB, l TEXT, PRIMARY KEY (l, id, k)) WITHOUT ROWID; CREATE TABLE z (z",
        [(1, b"x", "a"), ("1", 2, "a")],
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key(tmp_path: Path, kind: str) -> None:
    columns, keys = KEYS[kind]
    pair = Pair(tmp_path, f"CREATE TABLE tasks (title TEXT, {columns})", {"tasks": ["title"]})
    for device in pair.devices:
        device.options = {"device_made_keys": True}
    names = ", ".join(["id", "k", "l"][: len(keys[0])])
    for key in keys:
        marks = ", ".join("?" * len(key))
        pair.laptop.write([(f"INSERT INTO tasks ({names}, title) VALUES ({marks}, 'x')", key)])
    rows = pair.both("tasks", f"{names}, title")
    assert sorted(map(repr, rows)) == sorted(repr((*key, "x")) for key in keys)
    pair.phone.write([("UPDATE tasks SET title = 'y'", ())])
    assert {row[-1] for row in pair.both("tasks", f"{names}, title")} == {"y"}
    pair.laptop.write([("DELETE FROM tasks", ())])
    assert pair.both() == []
    pair.close()


REFUSED = {
    "no such table": ("CREATE TABLE other (id)", "create its tables first"),
    "a view": (
        "CREATE TABLE t (id TEXT NOT NULL PRIMARY KEY, title); CREATE VIEW tasks AS SELECT * FROM t",
        "the tables that it reads",
    ),
    "a virtual table": ("CREATE VIRTUAL TABLE tasks USING fts5(id, title)", "the table that it is made from"),
    "no key": ("CREATE TABLE tasks (id TEXT, title)", "such as a UUID as TEXT"),
    "a key that may be null": ("CREATE TABLE tasks (id TEXT PRIMARY KEY, title)", "declare it NOT NULL"),
    "half a key": (
        "CREATE TABLE tasks (id TEXT NOT NULL, k INT, title, PRIMARY KEY (id, k))",
        "column k of tasks may be NULL",
    ),
    "a counted key": ("CREATE TABLE tasks (id INTEGER PRIMARY KEY, title)", "device_made_keys=True"),
    "autoincrement": ("CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, title)", "device_made_keys=True"),
    "no such column": ("CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY)", "no column title"),
    "generated": ("CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title AS (id || '!'))", "do not name it"),
    "a column to fill": (
        "CREATE TABLE tasks (id TEXT NOT NULL PRIMARY KEY, title, n INT NOT NULL)",
        "or give it a default",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_synced_is_refused_with_what_to_do(tmp_path: Path, reason: str) -> None:
    schema, advice = REFUSED[reason]
    app = sqlite3.connect(tmp_path / "app.db")
    app.executescript(schema)
    with pytest.raises(StoreError, match=advice.replace("(", "\\(")):
        SQLiteStore(tmp_path / "app.db", {"tasks": ["title"]})
    assert not app.execute("SELECT 1 FROM sqlite_master WHERE name LIKE 'synckit%'").fetchall()
    app.close()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="create its tables first"):
        SQLiteStore(tmp_path / "app.db", {"tasks": ["title"]})
    assert not (tmp_path / "app.db").exists()
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(StoreError, match="cannot be synced"):
        SQLiteStore(tmp_path / "text", {"tasks": ["title"]})


@pytest.mark.parametrize(
    "arguments",
    [("app.db", {}), ("app.db", {"tasks": "title"}), (":memory:", {"t": ["a"]}), ("app.db", {"t": [], "T": []})],
)
def test_arguments_that_make_no_sense(arguments: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        SQLiteStore(*arguments)


def test_a_device_that_only_watches_never_sends(pair: Pair) -> None:
    device: Device = pair.phone
    assert device.sync() == 0
    assert pair.log.changes == []
