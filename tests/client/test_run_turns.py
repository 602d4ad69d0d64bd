"""What `run` does when something fails: which row is set aside, what is repeated, what is raised, what is told.

The server is the real backend in this process; a test writes its streams and makes its requests fail.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Connection

from synckit_notify.backend import changelog
from synckit_notify.backend.database import schema
from synckit_notify.client import (
    ChangeEntry,
    DecryptionFailed,
    InvalidEnvelope,
    NoMasterKey,
    Order,
    PendingEntry,
    Position,
    PulledChange,
    PullFilter,
    RefusedChange,
    RunState,
    ServerError,
    StateError,
)
from synckit_notify.client import run as run_module
from synckit_notify.client.encryption import Cipher
from synckit_notify.client.schedule import RetryPolicy

from ..support.dict_store import DictStore
from ..support.fake_keys import FakeKeys, with_keys
from ..support.local_server import LOSE_ANSWER, LocalServer, Refusal
from ..support.running import Runner
from ..support.wait import until


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "RetryPolicy", lambda: RetryPolicy(base=0.02, cap=0.02, floor=0.01))
    monkeypatch.setattr(run_module, "KEY_SECONDS", 0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path)
    yield server
    server.close()


def quick(server: LocalServer, **options: Any) -> Any:
    return server.client(wait=lambda seconds: None, **options)


def log_of(server: LocalServer) -> list[PulledChange]:
    """Return all changes of the log."""
    return list(server.client(name="reader").pull_filtered(PullFilter()))


def lose_the_log(connection: Connection) -> None:
    """Do what a restore from an empty backup does."""
    for table in schema.changes, schema.pushes, schema.heads:
        connection.execute(table.delete())
    changelog.renew_epoch(connection)


def refuse_bad_row(server: LocalServer, status: int) -> None:
    """Answer each push that has the row "bad" with this status, without a word of which change it is."""

    def refuse(request: httpx2.Request) -> httpx2.Response | None:
        server.faults["push"].append(refuse)
        return Refusal(status).response() if b'"bad"' in request.read() else None

    server.faults["push"] = [refuse]


def push_entry(row: str) -> ChangeEntry:
    return ChangeEntry("tasks", "INSERT", row, datetime.now(UTC), 1)


class TestARefusedRow:
    BAD: tuple[tuple[object, str], ...] = (
        (float("inf"), "data must be a JSON value"),
        ("\ud800", "data must be a JSON value"),
        ("x" * 256 * 1024, "data must be at most 262144 bytes long as it is sent"),
        ({1, 2}, "data must be a JSON value"),
    )

    @pytest.mark.parametrize(("data", "reason"), BAD, ids=["infinity", "surrogate", "size", "set"])
    def test_a_value_that_cannot_be_sent_is_set_aside_once_and_the_rest_goes_on(
        self, server: LocalServer, data: object, reason: str
    ) -> None:
        store = DictStore()
        store.edit("tasks", "bad", data)
        store.edit("tasks", "good", 1)
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            store.edit("tasks", "later", 2)
            assert until(lambda: not store.pending(9))
            assert runner.refused == [RefusedChange("tasks", "bad", reason)]
            assert store.refusals() == {("tasks", "bad"): reason}
            store.edit("tasks", "bad", "now well")
            assert until(lambda: not store.refusals() and not store.pending(9))
        assert sorted(change.row_id for change in log_of(server)) == ["bad", "good", "later"]

    def test_the_row_that_the_server_names_is_set_aside(self, server: LocalServer) -> None:
        refusal = Refusal(422, "changes[1].row_id: must not be like this")
        server.faults["push"] = [refusal]
        store = DictStore()
        for row in "abc":
            store.edit("tasks", row, 1)
        with Runner(quick(server), store) as runner:
            assert until(lambda: not store.pending(9))
        assert runner.refused == [RefusedChange("tasks", "b", refusal.message)]
        assert [change.row_id for change in log_of(server)] == ["a", "c"]

    @pytest.mark.parametrize("status", [413, 422])
    def test_if_the_server_names_none_the_batch_is_halved_until_it_is_found(
        self, server: LocalServer, status: int
    ) -> None:
        refuse_bad_row(server, status)
        store = DictStore()
        for row in ("a", "b", "bad", "c", "d"):
            store.edit("tasks", row, 1)
        with Runner(quick(server), store) as runner:
            assert until(lambda: not store.pending(9))
        assert [refused.row_id for refused in runner.refused] == ["bad"]
        assert sorted(change.row_id for change in log_of(server)) == ["a", "b", "c", "d"]

    def test_a_pushed_change_that_the_server_names_is_dropped_and_reported(self, server: LocalServer) -> None:
        server.faults["push"] = [Refusal(422), Refusal(422, "changes[0].data: no")]
        client = quick(server)
        with pytest.raises(Exception, match="no"):
            client.push([push_entry("refused"), push_entry("kept")])
        with Runner(client, lambda changes: None) as runner:
            assert until(lambda: client.pending_changes == 0)
        assert [refused.row_id for refused in runner.refused] == ["refused"]
        assert [change.row_id for change in log_of(server)] == ["kept"]

    @pytest.mark.parametrize("status", [413, 422])
    def test_a_pushed_batch_is_halved_in_its_place_until_the_refused_change_is_found(
        self, server: LocalServer, status: int
    ) -> None:
        refuse_bad_row(server, status)
        client, store = quick(server), DictStore()
        with pytest.raises(ServerError):
            client.push([push_entry(row) for row in ("a", "b", "bad", "c", "d")])
        with pytest.raises(ServerError):
            client.push([push_entry("later")])
        store.edit("tasks", "edit", 1)
        with Runner(client, store) as runner:
            assert until(lambda: client.pending_changes == 0 and not store.pending(9))
        assert [refused.row_id for refused in runner.refused] == ["bad"]
        assert [change.row_id for change in log_of(server)] == ["a", "b", "c", "d", "later", "edit"]


class TestADeviceThatTheServerForgot:
    def test_it_is_registered_again_with_its_name(self, server: LocalServer) -> None:
        store, client = DictStore(), quick(server, name="My laptop")
        with Runner(client, store) as runner:
            assert runner.settles()
            before = client._state.device_id()
            server.forget_device(client)
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1)), runner.states
            device = client._state.device()
            assert device is not None
            assert (device.id != before, device.name, device.platform) == (True, "My laptop", "linux")

    def test_a_404_that_stays_is_waited_out(self, server: LocalServer) -> None:
        store = DictStore()
        server.faults["pull"] = [Refusal(404, "no such device")] * 5
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            assert server.asked.count("devices") == 2, "once by the app, once by run"
            assert len(runner.told(RunState.WAITING)) == 4


class TestTheOrderOfWork:
    def test_it_pulls_before_it_sends_and_after_a_failure_again(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        server.faults["push"] = [Refusal(429, headers={"retry-after": "61"})]
        with Runner(quick(server), store) as runner:
            assert until(lambda: server.asked.count("push") == 1)
            assert until(lambda: runner.state is RunState.WAITING)
            assert "next attempt in 61" in runner.told(RunState.WAITING)[-1]
        asked = [name for name in server.asked if name in ("pull", "push")]
        assert asked == ["pull"] * (len(asked) - 1) + ["push"]

    def test_a_stream_that_connects_again_shortens_the_wait(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = DictStore()
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            monkeypatch.setattr(run_module, "RetryPolicy", lambda: RetryPolicy(base=1e6, cap=1e6, floor=1e6))
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1) and runner.is_in_step())
            server.faults["push"] = [Refusal(503)] * 4
            store.edit("tasks", "2", 1)
            assert until(lambda: "next attempt in 1" in runner.states[-1][1]), runner.states
            server.streams[-1].end()
            assert until(lambda: not store.pending(1)), runner.states

    @pytest.mark.parametrize("trouble", [Refusal(503), LOSE_ANSWER, Refusal(500)])
    def test_a_changed_is_not_lost_if_the_pull_fails(self, server: LocalServer, trouble: Any) -> None:
        store = DictStore()
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            other = server.client(name="other")
            other.push([push_entry("remote")])
            server.faults["pull"] = [trouble] * 10
            server.notify()
            assert until(lambda: ("tasks", "remote") in store.rows())
            assert any(runner.told(RunState.WAITING))

    def test_without_a_stream_it_pulls_about_once_a_minute(
        self, server: LocalServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_module, "POLL_SECONDS", 0.1)
        server.stream = Refusal(503)
        store = DictStore()
        with Runner(quick(server), store) as runner:
            assert until(lambda: server.asked.count("pull") > 0)
            server.client(name="other").push([push_entry("remote")])
            assert until(lambda: ("tasks", "remote") in store.rows())
            assert until(lambda: any("the server answered 503" in why for why in runner.told(RunState.WAITING)))

    def test_own_changes_reach_the_store_with_their_place(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        client = quick(server)
        device_id = client._state.device_id()
        with Runner(client, store):
            assert until(lambda: not store.pending(1))
        (change,) = log_of(server)
        assert store._content.rows["tasks", "1"].order == change.order
        assert change.order == Order(min(change.timestamp, change.received_at), device_id, 1)

    def test_a_restored_store_sends_nothing_twice(self, server: LocalServer, tmp_path: Path) -> None:
        file, state = tmp_path / "rows", tmp_path / "state"
        store = DictStore(file)
        store.edit("tasks", "1", 1)
        copy = file.read_bytes()
        with Runner(quick(server, state=state), store):
            assert until(lambda: not store.pending(1))
        file.write_bytes(copy)
        store = DictStore(file)
        assert store.pending(1)
        with Runner(quick(server, state=state), store) as runner:
            assert runner.settles()
            assert not store.pending(1)
        assert len(log_of(server)) == 1


class BrokenStore(DictStore):
    """Its next calls of `apply` raise these errors."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def apply(self, changes: Any, position: Position) -> None:
        if self.errors:
            raise self.errors.pop(0)
        super().apply(changes, position)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("the database says no")
    error.sqlite_errorcode = code
    return error


def state_error(cause: Exception) -> StateError:
    error = StateError("the state file cannot be used")
    error.__cause__ = cause
    return error


class TestAStoreThatFails:
    PASSING: tuple[Exception, ...] = (
        OSError("no space left on device"),
        sqlite_error(5),
        sqlite_error(13),
        sqlite_error(10 | 3 << 8),
        type("OperationalError", (Exception,), {})("the connection was lost"),
        state_error(sqlite_error(5)),
    )
    LASTING: tuple[Exception, ...] = (
        sqlite_error(1),
        sqlite3.DatabaseError("the disk image is malformed"),
        TypeError("a mistake of the store"),
        StateError("the state file is damaged"),
    )

    @pytest.mark.parametrize("error", PASSING, ids=repr)
    def test_what_may_pass_is_repeated(self, server: LocalServer, error: Exception) -> None:
        store = BrokenStore(error, error)
        server.client(name="other").push([push_entry("remote")])
        with Runner(quick(server), store) as runner:
            assert until(lambda: ("tasks", "remote") in store.rows())
            assert len(runner.told(RunState.WAITING)) == 2
            assert runner.told(RunState.WAITING)[0].startswith(f"{error}; next attempt in ")

    @pytest.mark.parametrize("error", LASTING, ids=repr)
    def test_what_does_not_pass_is_raised(self, server: LocalServer, error: Exception) -> None:
        with Runner(quick(server), BrokenStore(error)) as runner:
            assert until(lambda: runner.error is error)
        assert runner.states[-1] == (RunState.CLOSED, str(error))


class TestALogThatIsReadAgain:
    def test_after_a_restore_the_store_begins_again(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            server.backend.store.write(changelog.renew_epoch)
            server.notify()
            epoch = store.position().epoch
            assert until(lambda: store.position().epoch not in (None, epoch))
            assert store.rows() == {("tasks", "1"): 1}

    def test_an_edit_is_sent_again_if_the_log_that_has_it_is_replaced_before_the_store_is_told(
        self, server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        with monkeypatch.context() as crash:
            crash.setattr(store, "sent", lambda versions: 1 / 0)
            with Runner(quick(server, state=tmp_path / "state"), store) as runner:
                assert until(lambda: isinstance(runner.error, ZeroDivisionError))
        server.backend.store.write(lose_the_log)
        with Runner(quick(server, state=tmp_path / "state"), store) as runner:
            assert until(lambda: not store.pending(1))
        assert [change.row_id for change in log_of(server)] == ["1"]
        assert runner.error is None

    def test_a_push_that_is_answered_409_reads_the_log_again_and_is_repeated(self, server: LocalServer) -> None:
        store = DictStore()
        server.faults["push"] = [Refusal(409, "this device was away for too long: pull from cursor 0")]
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1)), runner.states
        assert len(log_of(server)) == 1


FIRST, SECOND = Cipher(b"1" * 32), Cipher(b"2" * 32)


class TestKeys:
    def test_without_a_key_it_raises_at_once(self, server: LocalServer) -> None:
        with pytest.raises(NoMasterKey, match="set up encryption"):
            quick(server, encrypt=True).run(DictStore())

    def test_after_a_rotation_it_says_so_and_goes_on_with_the_new_key(self, server: LocalServer) -> None:
        with_keys(server.client(name="other"), FakeKeys(SECOND)).push([push_entry("rotated")])
        keys, store = FakeKeys(FIRST), DictStore()
        keys.is_old = True
        with Runner(with_keys(quick(server), keys), store) as runner:
            assert until(lambda: runner.state is RunState.NEEDS_PASSPHRASE)
            assert "passphrase was changed" in runner.states[-1][1]
            store.edit("tasks", "meanwhile", 1)
            assert store.pending(1)
            assert "push" not in server.asked[server.asked.index("pull") :]
            keys.is_old, keys.cipher = False, SECOND
            assert until(lambda: not store.pending(1))
            assert store.rows() == {("tasks", "rotated"): 1, ("tasks", "meanwhile"): 1}

    def test_locked_changes_come_when_their_key_is_there(self, server: LocalServer) -> None:
        for cipher, row in (FIRST, "before"), (SECOND, "locked"), (FIRST, "after"):
            with_keys(server.client(name=row), FakeKeys(cipher)).push([push_entry(row)])
        keys, store, client = FakeKeys(FIRST), DictStore(), quick(server)
        with Runner(with_keys(client, keys), store) as runner:
            assert runner.settles()
            assert set(store.rows()) == {("tasks", "before"), ("tasks", "after")}
            assert store.position().cursor == 3
            keys.cipher = Cipher(b"2" * 32)
            server.notify()
            assert until(lambda: ("tasks", "locked") in store.rows())
            assert store.position().cursor == 3

    def test_unreadable_changes_are_reported_and_read_again_on_request(self, server: LocalServer) -> None:
        server.client(name="other").push([push_entry("clear")])
        store, client = DictStore(), quick(server)
        with Runner(with_keys(client, FakeKeys(FIRST)), store) as runner:
            assert runner.settles()
            assert [each.row_id for each in runner.unreadable] == ["clear"]
            assert client.retry_unreadable()
            assert until(lambda: len(runner.unreadable) == 2), "at once, without a notification"

    @pytest.mark.parametrize("way", ["run", "follow"])
    def test_an_error_in_on_unreadable_does_not_end_it(self, server: LocalServer, way: str) -> None:
        server.client(name="other").push([push_entry("clear")])
        store, client = DictStore(), with_keys(quick(server), FakeKeys(FIRST))
        work: Any = store if way == "run" else lambda changes: None
        with Runner(client, work, on_unreadable=lambda change: 1 / 0) as runner:
            assert runner.settles()
        assert runner.error is None

    def test_a_strict_client_ends_at_a_change_that_cannot_be_read(self, server: LocalServer) -> None:
        server.client(name="other").push([push_entry("clear")])
        store = DictStore()
        with Runner(with_keys(quick(server, strict=True), FakeKeys(FIRST)), store) as runner:
            runner.thread.join(20)
        assert isinstance(runner.error, DecryptionFailed)
        assert (runner.error.row_id, store.position().cursor) == ("clear", 0)

    def test_an_envelope_that_the_server_damaged_is_waited_out(self, server: LocalServer) -> None:
        with_keys(server.client(name="other"), FakeKeys(SECOND)).push([push_entry("locked")])
        keys, store = FakeKeys(FIRST), DictStore()
        keys.trouble = InvalidEnvelope("the server's envelope was altered")
        with Runner(with_keys(quick(server), keys), store) as runner:
            assert until(lambda: any("was altered" in reason for reason in runner.told(RunState.WAITING)))
            store.edit("tasks", "mine", 1)
            keys.trouble, keys.cipher = None, SECOND
            assert until(lambda: not store.pending(1))
        assert runner.error is None


class TestTheClock:
    @pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
    def test_a_clock_that_is_wrong_is_corrected_by_the_servers(self, server: LocalServer, wrong: float) -> None:
        store = DictStore(clock=lambda: time.time() + wrong)
        client = quick(server)
        client._here.get().wall_clock = lambda: time.time() + wrong
        with Runner(client, store) as runner:
            assert runner.settles()
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1))
            assert until(lambda: abs(store.clock_offset.total_seconds() + wrong) < 60)
            store.edit("tasks", "2", 1)
            assert until(lambda: not store.pending(1))
        second = log_of(server)[-1]
        assert abs(second.timestamp - second.received_at) < timedelta(seconds=60)

    def test_a_clock_that_is_right_is_left_alone(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        with Runner(quick(server), store):
            assert until(lambda: not store.pending(1))
        assert store.clock_offset == timedelta()


class TestPositions:
    def test_with_a_new_state_file_the_store_reads_all_again_and_sends_nothing_twice(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "1", 1)
        for name in "laptop", "the laptop again":
            with Runner(quick(server, name=name), store) as runner:
                assert runner.settles()
                assert not store.pending(1)
        assert store.rows() == {("tasks", "1"): 1}
        assert len(log_of(server)) == 1

    def test_a_state_of_another_log_than_the_stores_is_read_from_the_start(self, server: LocalServer) -> None:
        store, client = DictStore(), quick(server)
        server.client(name="other").push([push_entry("remote")])
        client._state.advance(0, Position("another log", 5), None)
        with Runner(client, store) as runner:
            assert runner.settles()
            assert store.rows() == {("tasks", "remote"): 1}
            assert client._state.position()[0] == store.position()

    def test_a_store_that_goes_back_when_it_is_told_of_an_answer_is_read_again_at_once(
        self, server: LocalServer
    ) -> None:
        class ForgetfulStore(DictStore):
            def sent(self, versions: Any) -> None:
                super().sent(versions)
                self._content.position = Position(self._content.position.epoch, 0)

        server.client(name="other").push([push_entry("remote")])
        store = ForgetfulStore()
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            store.edit("tasks", "1", 1)
            assert until(lambda: not store.pending(1) and store.position().cursor == 2)

    def test_an_app_without_rows_is_read_whole_and_that_is_said_once(
        self, server: LocalServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(request: httpx2.Request) -> httpx2.Response | None:
            server.faults["pull"].append(refuse)
            if b'"latest"' in request.read():
                return Refusal(422, "latest: the log of this app keeps the history").response()
            return None

        server.faults["pull"] = [refuse]
        server.client(name="other").push([push_entry("remote")])
        store = DictStore()
        with Runner(quick(server), store) as runner:
            assert runner.settles()
            server.notify()
            assert until(lambda: server.asked.count("pull") == 3)
        assert store.rows() == {("tasks", "remote"): 1}
        assert [record.message for record in caplog.records].count(
            "reading the whole history instead of the newest rows: latest: the log of this app keeps the history"
        ) == 1


class TestALongPull:
    def test_its_progress_is_told(self, server: LocalServer) -> None:
        other = server.client(name="other")
        for number in range(3):
            other.push([push_entry(f"{number} {each}") for each in range(500)])
        with Runner(quick(server), DictStore()) as runner:
            assert runner.settles()
        assert runner.told(RunState.SYNCING)[:4] == [
            "",
            "500 of 1500 changes",
            "1000 of 1500 changes",
            "1500 of 1500 changes",
        ]


class TestSending:
    def test_the_number_of_changes_is_told(self, server: LocalServer) -> None:
        store = DictStore()
        store.edit("tasks", "one", 1)
        with Runner(quick(server), store) as runner:
            assert runner.settles()
        assert runner.told(RunState.SENDING) == ["1 change"]


class TestClosing:
    def test_a_running_apply_is_finished_first(self, server: LocalServer) -> None:
        begun, go_on = threading.Event(), threading.Event()

        class SlowStore(DictStore):
            def apply(self, changes: Any, position: Position) -> None:
                begun.set()
                go_on.wait(60)
                super().apply(changes, position)

        store = SlowStore()
        with Runner(quick(server), store) as runner:
            assert begun.wait(60)
            runner.client.close()
            assert runner.thread.is_alive()
            go_on.set()
            runner.thread.join(5)
            assert not runner.thread.is_alive()
        assert runner.error is None
        assert store.position().epoch is not None


class StubbornStore(DictStore):
    """It forgets nothing, against the protocol."""

    def sent(self, versions: Any) -> None:
        """Do nothing."""

    def apply(self, changes: Any, position: Position) -> None:
        """Do nothing."""


def test_a_store_that_forgets_nothing_does_not_flood_the_server(server: LocalServer) -> None:
    store = StubbornStore()
    store.edit("tasks", "1", 1)
    with Runner(quick(server), store) as runner:
        assert runner.settles()
        store.edit("tasks", "2", 1)
        assert until(lambda: server.asked.count("push") == 2)
        assert isinstance(store.pending(1)[0], PendingEntry)
    assert [change.row_id for change in log_of(server)] == ["1", "2"]
