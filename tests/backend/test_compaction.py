"""`flask synckit compact`: what it drops and what it keeps, and what devices are answered afterwards."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Table, select, text

from synckit_notify.backend import Backend, accounts, compaction
from synckit_notify.backend.database import schema

from ..support.backend import SQLITE_ONLY, Caller, Run, change, keep_rows, refused, settings
from ..support.compaction_walk import AWAY
from ..support.server import ROOT, clean_environment
from ..support.wait import until

DAY = 24 * 3600 * 1_000_000
DELETE: dict[str, object] = {"op": "DELETE", "data": None}
IS_AWAY = 409, {"error": AWAY}


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(compaction, "PAUSES", 0)


@pytest.fixture
def laptop(alice: Caller, backend: Backend) -> str:
    """A device of Alice in an app with the log mode `rows`."""
    keep_rows(backend)
    return alice.register("laptop")


def days_pass(backend: Backend, days: int, *devices: str) -> None:
    """Let everything have happened so long ago, but for the devices given, which were seen just now."""

    def shift(connection: Connection) -> None:
        for table, names in ((schema.changes, ["received_at"]), (schema.heads, ["changed_at"])):
            connection.execute(table.update().values({name: table.c[name] - days * DAY for name in names}))
        gone = schema.devices.c.id.not_in(devices)
        long_ago = {"last_seen_at": schema.devices.c.last_seen_at - days * DAY}
        connection.execute(schema.devices.update().where(gone).values(long_ago))

    backend.store.write(shift)


def stored(backend: Backend, table: Table = schema.changes) -> list[int]:
    """Return the `seq` of all rows of a table."""
    query = select(table.c.seq).order_by(table.c.seq)
    return list(backend.store.read(lambda connection: connection.execute(query).scalars().all()))


def place(backend: Backend, device: str) -> tuple[int | None, int | None]:
    """Return what is stored of a device: confirmed, reread."""
    found = backend.store.read(lambda c: accounts.require_device(c, "notes", "alice", device))
    return found.confirmed, found.reread


def pull(alice: Caller, device: str, cursor: int, **fields: object) -> tuple[int, Any]:
    status, answer = alice.post("/pull", {"device_id": device, "cursor": cursor} | fields)
    return (status, answer) if status != 200 else (200, [row["seq"] for row in answer["changes"]])


class TestBeatenChanges:
    def test_are_dropped_whatever_devices_have_read(
        self, run: Run, alice: Caller, backend: Backend, laptop: str
    ) -> None:
        alice.push(laptop, change("1"), change("2"), change("1", data="late", timestamp="2020-01-01T00:00:00Z"))
        alice.push(laptop, change("1", op="UPDATE"), change("3"), change("3", **DELETE))
        assert "3 changes and 0 deletions with" in run("compact", "notes")
        assert stored(backend) == stored(backend, schema.winners) == [2, 4, 6]
        for latest in (False, True):
            page = alice.pull(laptop, latest=latest)
            assert ([row["seq"] for row in page["changes"]], page["cursor"]) == ([2, 4, 6], 6)
        assert alice.get("/status")[1]["change_count"] == 6
        assert alice.push(laptop) == 7

    def test_are_dropped_of_a_log_whose_winners_were_not_found_yet(
        self, run: Run, alice: Caller, backend: Backend, laptop: str
    ) -> None:
        backend.store.write(lambda connection: accounts.set_log(connection, "notes", "history"))
        alice.push(laptop, change("1"), change("1"))
        backend.store.write(lambda connection: accounts.set_log(connection, "notes", "rows"))
        run("compact")
        assert stored(backend) == [2]

    def test_are_dropped_in_small_transactions(
        self, run: Run, alice: Caller, backend: Backend, laptop: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "DROPPED_AT_ONCE", 3)
        monkeypatch.setattr(compaction, "BYTES_AT_ONCE", 25)
        monkeypatch.setattr(compaction, "EXAMINED_AT_ONCE", 9)
        alice.push(laptop, *[change("1", data="x" * 10)] * 20)
        batches: list[int] = []
        write = backend.store.write

        def count(work: Any, **options: Any) -> Any:
            before = len(stored(backend))
            result = write(work, **options)
            batches.append(before - len(stored(backend)))
            return result

        monkeypatch.setattr(type(backend.store), "write", lambda store, work, **options: count(work, **options))
        run("compact", "notes")
        assert [size for size in batches if size] == [2, 2, 2, 2, 1, 2, 2, 2, 2, 1, 1]

    def test_are_kept_where_the_log_keeps_the_history(
        self, run: Run, app: Flask, alice: Caller, backend: Backend
    ) -> None:
        run("app", "add", "notes")
        app_id = run("app", "list").split()[0]
        assert "No app has the log mode rows" in run("compact")
        for word in (app_id, "notes", "unknown"):
            assert f"no app {word} has the log mode rows" in refused(app, "compact", word)


class TestDeletions:
    @pytest.fixture
    def phone(self, alice: Caller, laptop: str) -> str:
        """A second device, which has pulled a row that the laptop has deleted since."""
        alice.push(laptop, change("1"), change("2"))
        alice.pull(laptop, 2)
        phone = alice.register("phone")
        alice.pull(phone, 2)
        alice.push(laptop, change("1", **DELETE))
        return phone

    def test_are_kept_until_they_are_old_and_every_device_has_applied_them(
        self, run: Run, alice: Caller, backend: Backend, laptop: str, phone: str
    ) -> None:
        alice.pull(laptop, 3, confirmed=3)
        run("compact", "notes", "--keep-days", "1")
        assert stored(backend) == [2, 3]
        days_pass(backend, 2, laptop, phone)
        run("compact", "notes", "--keep-days", "1")
        assert stored(backend) == [2, 3]
        for device in (laptop, phone):
            backend.store.write(lambda c, device=device: accounts.note_seen(c, {device: 3}, schema.now()))
        assert "0 changes and 1 deletions" in run("compact", "notes", "--keep-days", "1")
        assert stored(backend) == stored(backend, schema.winners) == [2]
        assert pull(alice, laptop, 3) == pull(alice, phone, 3) == (200, [])

    def test_are_kept_for_a_device_between_the_pages_of_its_first_pull(
        self, run: Run, alice: Caller, backend: Backend, laptop: str, phone: str
    ) -> None:
        for device in (laptop, phone):
            backend.store.write(lambda c, device=device: accounts.note_seen(c, {device: 3}, schema.now()))
        tablet = alice.register("tablet")
        assert pull(alice, tablet, 0, limit=1) == (200, [1])
        days_pass(backend, 2, laptop, phone, tablet)
        run("compact", "notes", "--keep-days", "1")
        assert pull(alice, tablet, 1) == (200, [2, 3])

    def test_are_not_kept_for_a_device_that_has_never_pulled(
        self, run: Run, alice: Caller, backend: Backend, laptop: str, phone: str
    ) -> None:
        sensor = alice.register("sensor")
        for device in (laptop, phone):
            backend.store.write(lambda c, device=device: accounts.note_seen(c, {device: 3}, schema.now()))
        days_pass(backend, 2, laptop, phone)
        assert "1 deletions" in run("compact", "notes", "--keep-days", "1")
        assert place(backend, sensor) == (None, None)
        assert alice.push(sensor) == 4

    @pytest.mark.parametrize(("most", "left"), [(1_000, [2, 3]), (0, [])])
    def test_are_kept_while_an_earlier_change_of_their_row_is_there(
        self, alice: Caller, backend: Backend, laptop: str, monkeypatch: pytest.MonkeyPatch, most: int, left: list[int]
    ) -> None:
        """It came after the log was examined, and would bring the row back."""
        monkeypatch.setattr(compaction, "MAX_LATE", most)
        alice.push(laptop, change("1"), change("1", **DELETE))

        drop_markers = compaction.Compaction._drop_markers

        def push_and_drop_markers(self: compaction.Compaction) -> bool:
            if alice.get("/status")[1]["cursor"] == 2:
                alice.push(laptop, change("1", data="late", timestamp="2020-01-01T00:00:00Z"))
            return drop_markers(self)

        monkeypatch.setattr(compaction.Compaction, "_drop_markers", push_and_drop_markers)
        compaction.Compaction(backend.store, "notes", "alice", schema.now()).run()
        assert stored(backend) == left
        assert stored(backend, schema.winners) == left[:1]

    def test_that_a_change_undoes_are_beaten_changes(
        self, run: Run, alice: Caller, backend: Backend, laptop: str
    ) -> None:
        alice.push(laptop, change("1"), change("1", **DELETE), change("1"))
        days_pass(backend, 300)
        assert "2 changes and 0 deletions" in run("compact", "notes")
        assert stored(backend) == [3]


class TestADeviceThatWasAway:
    @pytest.fixture
    def phone(self, run: Run, alice: Caller, backend: Backend, laptop: str) -> str:
        """A device that was retired; a row that it has was deleted, and the deletion was dropped."""
        alice.push(laptop, change("1"), change("2"))
        phone = alice.register("phone")
        alice.pull(phone, 0)
        alice.push(laptop, change("1", **DELETE), change("3"))
        days_pass(backend, 200)
        assert "1 devices were retired" in run("compact", "notes")
        assert stored(backend) == [2, 4]
        return phone

    def test_reads_the_log_again_before_it_pushes_or_pulls(self, alice: Caller, backend: Backend, phone: str) -> None:
        pushed = {"device_id": phone, "changes": [change("1", op="UPDATE")]}
        assert alice.post("/push", pushed) == alice.post("/push", pushed | {"push_id": "p"}) == IS_AWAY
        assert pull(alice, phone, 2) == pull(alice, phone, 0, tables=["tasks"]) == IS_AWAY
        assert pull(alice, phone, 0, limit=1, latest=True) == (200, [2])
        assert alice.post("/push", pushed) == pull(alice, phone, 3) == IS_AWAY
        assert pull(alice, phone, 0, limit=1) == (200, [2])  # the answer was lost
        assert pull(alice, phone, 2) == (200, [4])
        assert pull(alice, phone, 2) == (200, [4])
        assert alice.push(phone, change("5")) == 5
        assert place(backend, phone) == (2, None)

    def test_is_kept_deletions_for_as_soon_as_it_reads_again(
        self, run: Run, alice: Caller, backend: Backend, laptop: str, phone: str
    ) -> None:
        alice.push(laptop, change("2", **DELETE))
        assert pull(alice, phone, 0, limit=1) == (200, [2])
        days_pass(backend, 200, phone)
        run("compact", "notes")
        assert pull(alice, phone, 2) == (200, [4, 5])

    def test_that_is_silent_again_begins_again(self, run: Run, alice: Caller, backend: Backend, phone: str) -> None:
        assert pull(alice, phone, 0, limit=1) == (200, [2])
        days_pass(backend, 200)
        assert "1 devices were retired" in run("compact", "notes")
        assert pull(alice, phone, 2) == IS_AWAY
        assert "0 devices were retired" in run("compact", "notes")
        assert pull(alice, phone, 0) == (200, [2, 4])

    @pytest.mark.parametrize("fields", [{}, {"latest": True}, {"confirmed": 1}])
    def test_with_a_stale_epoch_is_told_so_too(
        self, run: Run, alice: Caller, phone: str, fields: dict[str, object]
    ) -> None:
        run("restored")
        assert alice.post("/pull", {"device_id": phone, "cursor": 2, "epoch": "old"} | fields) == IS_AWAY
        assert alice.post("/push", {"device_id": phone, "changes": [change("1")]}) == IS_AWAY
        assert pull(alice, phone, 0) == (200, [2, 4])


class TestADeviceThatWentBack:
    @pytest.fixture
    def phone(self, run: Run, alice: Caller, backend: Backend, laptop: str) -> str:
        """A device in step that has applied a deletion which was dropped."""
        alice.push(laptop, change("1"), change("2"), change("1", **DELETE), change("3"))
        phone = alice.register("phone")
        alice.pull(phone, 0)
        backend.store.write(lambda connection: accounts.note_seen(connection, {phone: 4}, schema.now()))
        days_pass(backend, 200, phone)
        assert "1 deletions" in run("compact", "notes")
        return phone

    @pytest.mark.parametrize("fields", [{"cursor": 1}, {"cursor": 2}, {"cursor": 4, "confirmed": 2}])
    def test_before_the_deletion_reads_again(self, alice: Caller, phone: str, fields: dict[str, object]) -> None:
        assert alice.post("/pull", {"device_id": phone} | fields) == IS_AWAY
        assert alice.post("/push", {"device_id": phone, "changes": [change()]}) == IS_AWAY
        assert pull(alice, phone, 4) == IS_AWAY
        assert pull(alice, phone, 0) == (200, [2, 4])
        assert pull(alice, phone, 4) == (200, [])

    @pytest.mark.parametrize("cursor", [0, 3])
    def test_elsewhere_is_answered_and_noted_at_once(
        self, alice: Caller, backend: Backend, phone: str, cursor: int
    ) -> None:
        assert pull(alice, phone, cursor, limit=1) == (200, [4 if cursor else 2])
        assert place(backend, phone) == (cursor, None)
        assert pull(alice, phone, 4) == (200, [])

    @pytest.mark.parametrize(("cursor", "answer"), [(2, IS_AWAY), (3, (200, [4])), (0, (200, [2, 4]))])
    def test_under_a_new_id_is_told_by_its_cursor(
        self, alice: Caller, phone: str, cursor: int, answer: tuple[int, object]
    ) -> None:
        again = alice.register("registered again")
        assert pull(alice, again, cursor) == answer

    def test_may_read_with_a_filter_from_anywhere(self, alice: Caller, backend: Backend, phone: str) -> None:
        for fields in ({}, {"confirmed": 4}):
            assert pull(alice, phone, 1, tables=["tasks"], **fields) == (200, [2, 4])
        assert place(backend, phone) == (4, None)


class TestTheCommand:
    def test_tells_before_what_it_would_do(self, run: Run, alice: Caller, backend: Backend, laptop: str) -> None:
        alice.push(laptop, change("1", data="ü" * 50), change("2"), change("1"), change("2", **DELETE))
        alice.pull(laptop, 4)
        days_pass(backend, 200)
        told = run("compact", "notes", "--dry-run")
        assert "2 changes and 1 deletions with 110 bytes of data would be dropped, 1 devices would be retired" in told
        assert (stored(backend), place(backend, laptop)) == ([1, 2, 3, 4], (4, None))
        assert told.replace("would be", "were") == run("compact", "notes")
        assert stored(backend) == [3]
        assert "0 changes and 0 deletions with 0 bytes" in run("compact", "notes", "notes", "Notes")

    def test_does_not_vacuum_in_a_dry_run(self, app: Flask) -> None:
        result = app.test_cli_runner().invoke(args=["synckit", "compact", "--dry-run", "--vacuum"])
        assert (result.exit_code, "--vacuum cannot be combined with --dry-run" in result.output) == (2, True)

    def test_leaves_logs_that_other_commands_still_work_on(
        self, run: Run, app: Flask, alice: Caller, backend: Backend, laptop: str
    ) -> None:
        alice.push(laptop, change("1", data="a"), change("1", data="b"), change("2"))
        run("compact", "notes")
        assert "there is no change 1 of this user" in refused(app, "changes", "delete", "notes", "alice", "1", "--yes")
        run("changes", "delete", "notes", "alice", "2", "--yes")
        assert [row["data"] for row in alice.pull(laptop, latest=True)["changes"]] == [None, "ciphertext"]
        run("compact", "notes")
        assert stored(backend) == stored(backend, schema.winners) == [2, 3]
        alice.push(laptop, change("1", data="c"))
        run("compact", "notes")
        assert stored(backend) == [3, 4]

    def test_leaves_what_a_deletion_of_the_account_counts(self, run: Run, as_user: Any, backend: Backend) -> None:
        keep_rows(backend)
        user = run("user", "add", "b@example.org", "--password", "secret").split()[-1]
        bob = as_user(user)
        laptop = bob.register()
        bob.push(laptop, change("1"), change("1"), change("2"))
        run("compact")
        assert "with 2 changes permanently" in run("user", "delete", "b@example.org", stdin="y\n")
        assert stored(backend) == stored(backend, schema.winners) == []

    def test_restored_sets_devices_back_to_the_start(
        self, run: Run, alice: Caller, backend: Backend, laptop: str
    ) -> None:
        alice.push(laptop, change("1"), change("1", **DELETE))
        alice.pull(laptop, 2)
        alice.register("never pulled")
        run("restored")
        rows = backend.store.read(lambda c: c.execute(select(schema.devices.c.name, schema.devices.c.confirmed)).all())
        assert sorted(map(tuple, rows)) == [("laptop", 0), ("never pulled", None)]
        days_pass(backend, 200, laptop)
        run("compact", "notes")
        assert stored(backend) == [2]  # kept until the laptop has read the new log
        assert pull(alice, laptop, 0) == (200, [2])


def fill(backend: Backend, laptop: str, edits: int, rows: int = 1_000) -> None:
    """Store a log of rows that were edited so many times."""
    owner = {"app_id": "notes", "user_id": "alice", "device_id": laptop, "table_name": "tasks"}
    rest = {"op": "UPDATE", "timestamp": "2026-01-31T12:00:00Z", "data": "x" * 300, "order_at": 1}
    head = edits * rows
    won = {"app_id": "notes", "user_id": "alice", "seq": head, "changed_at": head, "winners_until": 0}

    def insert(connection: Connection) -> None:
        for edit in range(edits):
            numbers = range(edit * rows + 1, (edit + 1) * rows + 1)
            some = [{"seq": n, "row_id": f"row {n % rows}", "received_at": n} for n in numbers]
            connection.execute(schema.changes.insert(), [owner | rest | each for each in some])
        connection.execute(schema.heads.insert().values(won))

    backend.store.write(insert)


def size(backend: Backend, database: dict[str, str], folder: Path) -> int:
    """Return the bytes on disk."""
    if database:
        query = text("SELECT pg_total_relation_size('changes') + pg_total_relation_size('winners')")
        return int(backend.store.read(lambda connection: connection.execute(query).scalar_one()))
    with sqlite3.connect(folder / "synckit.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return (folder / "synckit.db").stat().st_size


@pytest.mark.thorough
def test_the_space_on_disk_is_given_back_with_vacuum_and_used_again_without(
    run: Run, backend: Backend, laptop: str, database: dict[str, str], app: Flask
) -> None:
    folder = Path(app.instance_path)
    fill(backend, laptop, edits=1)
    run("compact", "notes", "--vacuum")
    rows_alone = size(backend, database, folder)
    for table in (schema.changes, schema.winners, schema.heads):
        backend.store.write(lambda connection, table=table: connection.execute(table.delete()) and None)
    fill(backend, laptop, edits=60)
    run("compact", "notes")
    before = size(backend, database, folder)
    assert "0 changes" in run("compact", "notes", "--vacuum")
    after = size(backend, database, folder)
    print(f"\n{rows_alone} bytes for the rows alone; 60 edits: {before} before and {after} after --vacuum")
    assert after < 2 * rows_alone < before
    assert len(stored(backend)) == 1_000


@SQLITE_ONLY
@pytest.mark.parametrize(
    "sign",
    [signal.SIGKILL, *(pytest.param(sign, marks=pytest.mark.thorough) for sign in (signal.SIGTERM, signal.SIGINT))],
)
def test_a_compaction_that_was_killed_is_finished_by_the_next(
    run: Run, backend: Backend, laptop: str, app: Flask, alice: Caller, sign: signal.Signals
) -> None:
    fill(backend, laptop, edits=10)
    url = f"sqlite:///{app.instance_path}/synckit.db"
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "synckit", "compact"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment() | settings(url),
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as started:
        assert until(lambda: len(stored(backend)) < 9_900, 60.0)
        started.send_signal(sign)
        started.communicate(timeout=60)
        assert started.returncode != 0
    assert len(stored(backend)) > 1_000
    assert alice.push(laptop, change("row 1", data="new")) == 10_001
    run("compact", "notes")
    assert stored(backend) == list(range(9_002, 10_002))
