"""A device that was away for so long that the server forgot deletions: it reads the log again, then it sends the rest.

Nothing that it kept revives a row that was deleted meanwhile, and nothing that it never sent is lost.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.backend import changelog
from synckit_notify.backend.database import schema
from synckit_notify.client import (
    ChangeEntry,
    PullFilter,
    RefusedChange,
    RunState,
    ServerError,
    SQLiteStore,
    SyncKitClient,
)
from synckit_notify.client import run as run_module
from synckit_notify.client.encryption import Cipher
from synckit_notify.client.schedule import RetryPolicy

from ..support.dict_store import DictStore
from ..support.fake_keys import FakeKeys, with_keys
from ..support.local_server import LOSE_REQUEST, LocalServer, Refusal
from ..support.retirement import AWAY as REFUSAL
from ..support.retirement import Retired
from ..support.running import Runner
from ..support.store_walk import TABLES, TASKS
from ..support.wait import until

AWAY = "this device was away for too long"
ADD = "INSERT INTO tasks (id, title) VALUES (?, ?)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "RetryPolicy", lambda: RetryPolicy(base=0.02, cap=0.02, floor=0.01))


class App:
    """An app with a SQLite file and a client that may be started several times."""

    def __init__(self, server: LocalServer, folder: Path, name: str = "laptop") -> None:
        self.server, self.name = server, name
        self.file, self.state = folder / f"{name}.db", folder / f"{name}.state"
        self.dropped: list[RefusedChange] = []
        with closing(sqlite3.connect(self.file)) as app:
            app.execute(TASKS)
        self.store = SQLiteStore(self.file, TABLES, on_refused=self.dropped.append)

    def client(self) -> SyncKitClient:
        return self.server.client(name=self.name, state=self.state, wait=lambda seconds: None)

    def write(self, *statements: tuple[str, tuple[str, ...]]) -> None:
        with closing(sqlite3.connect(self.file)) as app, app:
            for sql, values in statements:
                app.execute(sql, values)

    def rows(self) -> list[str]:
        with closing(sqlite3.connect(self.file)) as app:
            return [row for (row,) in app.execute("SELECT id FROM tasks ORDER BY id")]

    def syncs(self) -> None:
        """Run until there is nothing to do."""
        with Runner(self.client(), self.store) as runner:
            assert until(lambda: runner.is_in_step() and not self.store.pending(1)), runner.states
        assert runner.error is None


@pytest.fixture
def app(server: LocalServer, tmp_path: Path) -> Iterator[App]:
    """Return an app whose rows "kept", "gone" and "edited" are in step with the account."""
    made = App(server, tmp_path)
    made.write(*((ADD, (row, row)) for row in ("kept", "gone", "edited")))
    made.syncs()
    made.syncs()  # its own changes come back, so that its position is behind them
    yield made
    made.store.close()


def entry(row: str) -> ChangeEntry:
    return ChangeEntry("tasks", "INSERT", row, datetime.now(UTC), {"title": row})


def pushed(server: LocalServer) -> list[str]:
    return [change.row_id for change in server.client(name="reader").pull_filtered(PullFilter())]


class TestRun:
    def test_it_reads_the_log_from_its_start_and_tells_so(self, server: LocalServer, app: App) -> None:
        retired = Retired(server)
        for row in "gone", "edited":
            retired.forget("tasks", row)
        app.write((ADD, ("new", "1")), ("UPDATE tasks SET title = '2' WHERE id IN (?, ?)", ("edited", "kept")))
        with Runner(app.client(), app.store) as runner:
            assert until(lambda: runner.is_in_step() and not app.store.pending(1)), runner.states
        assert app.rows() == ["kept", "new"]
        assert sorted(retired.pushed) == ["kept", "new"]
        assert f"{AWAY}: reading the log again from its start" in runner.told(RunState.SYNCING)
        assert [(each.table, each.row_id) for each in app.dropped] == [("tasks", "edited")]
        assert runner.error is None

    def test_a_push_that_is_refused_is_sent_after_the_log_was_read_again(self, server: LocalServer, app: App) -> None:
        retired = Retired(server, at_push=True)
        with Runner(app.client(), app.store) as runner:
            assert runner.settles()
            retired.forget("tasks", "edited")
            app.write((ADD, ("new", "1")), ("UPDATE tasks SET title = '2' WHERE id = ?", ("edited",)))
            assert until(lambda: retired.pushed == ["new"]), (runner.states, retired.pushed)
            assert until(lambda: app.rows() == ["gone", "kept", "new"])
            assert f"{AWAY}: reading the log again from its start" in runner.told(RunState.SYNCING)
            assert retired.cursors[-1] in (0, 4), retired.cursors
            assert runner.told(RunState.WAITING) == [], "the first time it does not wait"
        assert [each.row_id for each in app.dropped] == ["edited"]

    @pytest.mark.parametrize("when", ["the pull is refused", "the push is refused"])
    def test_a_batch_that_was_queued_before_revives_nothing(self, server: LocalServer, app: App, when: str) -> None:
        server.faults["push"] = [LOSE_REQUEST] * 9
        app.write((ADD, ("new", "1")), ("UPDATE tasks SET title = '2' WHERE id = ?", ("edited",)))
        with Runner(app.client(), app.store):
            assert until(lambda: server.asked.count("push") > 1)
        client = app.client()
        assert client.pending_changes == 2
        client.close()
        retired = Retired(server, at_push=when == "the push is refused")
        retired.forget("tasks", "edited")
        app.syncs()
        assert retired.pushed == ["new"]
        assert "edited" not in app.rows()

    def test_it_is_begun_again_after_a_crash_between_store_and_state(
        self, server: LocalServer, app: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        retired = Retired(server)
        retired.forget("tasks", "gone")
        app.write(("UPDATE tasks SET title = '2' WHERE id = ?", ("gone",)))
        with monkeypatch.context() as crash:
            crash.setattr("synckit_notify.client.state.State.restart", lambda *_: 1 / 0)
            with Runner(app.client(), app.store) as runner:
                assert until(lambda: isinstance(runner.error, ZeroDivisionError))
        app.syncs()
        assert app.rows() == ["edited", "kept"]
        assert retired.pushed == []

    def test_a_state_file_that_begins_again_by_itself_begins_the_store_again(
        self, server: LocalServer, app: App
    ) -> None:
        """So does a new column: the first pull then has cursor 0, and the server cannot refuse it."""
        retired = Retired(server)
        retired.forget("tasks", "gone")
        app.write(("UPDATE tasks SET title = '2' WHERE id = ?", ("gone",)))
        client = app.client()
        client._state.restart(client._state.position()[0])
        client.close()
        app.syncs()
        assert app.rows() == ["edited", "kept"]
        assert retired.pushed == []

    def test_a_server_that_was_restored_meanwhile_gets_nothing_that_was_deleted(
        self, server: LocalServer, app: App
    ) -> None:
        """The backup is younger than what a retired device knows, so what it lacks was deleted and not lost."""
        retired = Retired(server)
        retired.forget("tasks", "gone")
        server.backend.store.write(changelog.renew_epoch)
        app.write((ADD, ("new", "1")))
        app.syncs()
        assert app.rows() == ["edited", "kept", "new"]
        assert retired.pushed == ["new"]

    def test_a_server_that_was_restored_gets_what_it_lost_from_a_device_in_step(
        self, server: LocalServer, app: App
    ) -> None:
        retired = Retired(server, at_push=True)
        retired.forget("tasks", "gone")
        server.backend.store.write(changelog.renew_epoch)
        retired.at_push = False
        app.syncs()
        assert app.rows() == ["edited", "gone", "kept"]
        assert retired.pushed == ["gone"]

    def test_a_server_that_always_refuses_is_not_flooded(
        self, server: LocalServer, app: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        retired = Retired(server, for_ever=True)
        app.write((ADD, ("new", "1")))
        with Runner(app.client(), app.store) as runner:
            assert until(lambda: server.asked.count("push") >= 6)
            assert runner.told(RunState.WAITING)[0].startswith(f"{AWAY}; next attempt in ")
        pushes = server.asked.count("push") - 1
        assert len(runner.told(RunState.WAITING)) >= pushes - 2, "it waits before each but the first two"
        assert runner.error is None
        assert retired.cursors.count(0) <= pushes + 1
        retired.for_ever = False
        app.syncs()
        assert retired.pushed == ["new"]

    def test_a_push_id_that_is_taken_is_replaced_after_a_wait(self, server: LocalServer) -> None:
        taken = Refusal(409, "push_id: was already used for other changes")
        server.faults["push"] = [taken] * 3
        store = DictStore()
        with Runner(server.client(wait=lambda seconds: None), store) as runner:
            assert runner.settles()
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1)), runner.states
            assert len(runner.told(RunState.WAITING)) == 3
        assert pushed(server) == ["1"]

    def test_two_409_in_one_pull_are_waited_out(self, server: LocalServer, app: App) -> None:
        server.faults["pull"] = [REFUSAL] * 4
        with Runner(app.client(), app.store) as runner:
            assert runner.settles()
            assert len(runner.told(RunState.WAITING)) >= 2
        assert app.rows() == ["edited", "gone", "kept"]


class TestRowsThatCannotBeRead:
    """While the log is read again, the changes of a row may be locked, unreadable, blanked or malformed."""

    def test_locked_changes_are_not_missing(self, server: LocalServer, tmp_path: Path) -> None:
        app = App(server, tmp_path)
        app.write((ADD, ("mine", "1")), (ADD, ("gone", "1")))
        first, second = Cipher(b"1" * 32), Cipher(b"2" * 32)
        with Runner(with_keys(app.client(), FakeKeys(first)), app.store) as runner:
            assert until(lambda: runner.is_in_step() and not app.store.pending(1))
        retired = Retired(server)
        retired.forget("tasks", "gone")
        with Runner(with_keys(app.client(), FakeKeys(second)), app.store) as runner:
            assert runner.settles()
        assert app.rows() == ["mine"]
        assert retired.pushed == []
        with Runner(with_keys(app.client(), FakeKeys(first)), app.store) as runner:
            assert runner.settles()
        assert app.rows() == ["mine"]
        retired.forget("tasks", "mine")
        retired.retire()
        with Runner(with_keys(app.client(), FakeKeys(first)), app.store) as runner:
            assert runner.settles()
        assert app.rows() == [], "also if the log is empty now, and ends where it did"
        app.store.close()

    @pytest.mark.parametrize("damage", ["{", "[1]", None], ids=["not JSON", "not a row", "blanked"])
    def test_nor_are_other_changes_that_are_left_out(self, server: LocalServer, app: App, damage: str | None) -> None:
        retired = Retired(server)
        retired.forget("tasks", "gone")
        retired.damage("tasks", "edited", damage)
        app.write(("UPDATE tasks SET title = '2' WHERE id = ?", ("kept",)))
        app.syncs()
        assert app.rows() == ["edited", "kept"]
        assert retired.pushed == ["kept"]


class TestOneCall:
    def test_a_push_says_that_a_pull_comes_first_and_keeps_its_changes(self, server: LocalServer) -> None:
        client = server.client(wait=lambda seconds: None)
        client.push([entry("old")])
        client.pull(apply=lambda changes: None)
        server.client(name="other").push([entry("theirs")])
        retired = Retired(server)
        for _ in range(2):
            with pytest.raises(ServerError, match=f"^{AWAY}: call pull first$") as caught:
                client.push([entry("mine")])
            assert caught.value.status == 409
        result = client.pull()
        assert (result.restarted, [change.row_id for change in result]) == (True, ["old", "theirs"])
        assert client.pending_changes == 2
        client.push([])
        assert retired.pushed == ["mine", "mine"]

    def test_so_does_a_filtered_pull(self, server: LocalServer) -> None:
        client = server.client(wait=lambda seconds: None)
        client.push([entry("1")])
        client.pull()
        Retired(server)
        with pytest.raises(ServerError, match=f"^{AWAY}: call pull first$"):
            client.pull_filtered(PullFilter().table("tasks"))

    def test_follow_reads_the_log_again_and_then_sends_what_was_pushed(self, server: LocalServer) -> None:
        client, seen = server.client(wait=lambda seconds: None), list[str]()
        server.client(name="other").push([entry("theirs")])
        client.pull(apply=lambda changes: None)
        server.faults["push"] = [LOSE_REQUEST] * 4
        with pytest.raises(Exception, match="lost"):
            client.push([entry("mine")])
        retired = Retired(server)
        with Runner(client, lambda changes: seen.extend(each.row_id for each in changes)) as runner:
            assert runner.settles()
        assert (seen, retired.pushed) == (["theirs"], ["mine"])
        assert f"{AWAY}: reading the log again from its start" in runner.told(RunState.SYNCING)


class TestLatest:
    """Which calls ask for the winner of each row only."""

    @pytest.mark.parametrize(
        ("way", "asks"), [("run", True), ("follow", False), ("follow latest", True), ("pull", False)]
    )
    def test_for_a_first_pull_and_after_a_restart(self, server: LocalServer, way: str, asks: bool) -> None:
        bodies: list[dict[str, Any]] = []

        def note(request: httpx2.Request) -> httpx2.Response | None:
            server.faults["pull"].append(note)
            bodies.append(json.loads(request.read()))
            return REFUSAL.response() if len(bodies) == 2 else None

        notes = {"id": "notes", "name": "notes", "api_key_hash": "", "created_at": 0, "log": schema.ROWS}
        server.backend.store.write(lambda connection: connection.execute(schema.apps.insert().values(notes)))
        server.client(name="other").push([entry("theirs")])
        server.faults["pull"] = [note]
        client = server.client(wait=lambda seconds: None)
        if way == "pull":
            for _ in range(2):
                client.pull(apply=lambda changes: None)
        else:
            work: Any = DictStore() if way == "run" else lambda changes: None
            options = {"latest": True} if way == "follow latest" else {}
            with Runner(client, work, **options) as runner:
                assert runner.settles()
                server.notify()
                assert until(lambda: len(bodies) >= 3 and runner.is_in_step())
        assert [body["cursor"] for body in bodies[:3]] == [0, 1, 0]
        assert [body.get("latest", False) for body in bodies] == [asks] * len(bodies)
