"""The promises to an app: no change is lost or stored twice, and an invalid argument is refused before any request."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.backend import create_app
from synckit_notify.client.client import SyncKitClient
from synckit_notify.client.errors import (
    DecryptionFailed,
    InvalidEnvelope,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ProtocolError,
    ServerError,
    StateError,
)
from synckit_notify.client.models import BEGINNING, Position, PulledChange, PullFilter, UnreadableChange
from synckit_notify.client.stream import SyncNotifyStream

from ..support.backend import add_account
from ..support.scripted_clients import AT, AT_TEXT, LAPTOP, LOGIN, ScriptedClients, action, page, pulled
from ..support.scripted_server import (
    API_KEY,
    AUTH,
    DEVICES,
    PASSWORD,
    PULL,
    PUSH,
    Answer,
    AnswerWithPage,
    LoseAnswer,
    LoseRequest,
    Refuse,
)
from ..support.tokens import KEY

MakeClient = Callable[..., SyncKitClient]


class TestEntries:
    WRONG: tuple[dict[str, Any], ...] = (
        {"table": ""},
        {"table": "x" * 129},
        {"row_id": ""},
        {"row_id": "x" * 257},
        {"row_id": "a\0b"},
        {"row_id": "\ud800"},
        {"row_id": 7},
        {"op": "insert"},
        {"op": "DELETE", "data": 1},
        {"timestamp": datetime(2026, 1, 31)},
        {"timestamp": "2026-01-31T12:00:00Z"},
    )

    @pytest.mark.parametrize("wrong", WRONG)
    def test_an_entry_that_no_server_accepts_is_a_value_error(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong)) if "op" not in wrong or len(wrong) == 1 else "data"):
            action(**wrong)

    def test_entries_are_immutable_values(self) -> None:
        assert action() == action()
        with pytest.raises(AttributeError):
            action().op = "DELETE"  # type: ignore[misc]


class TestPushing:
    def test_changes_go_out_with_the_device_and_a_push_id(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": 2})])
        assert client.push([action(1, data={"é": [1.5, None]}), action(2, op="DELETE", data=None)]) == 2
        (body,) = clients.server.bodies(PUSH)
        assert body["device_id"] == "d1"
        assert body["push_id"]
        fields = {"table": "tasks", "timestamp": AT_TEXT}
        assert body["changes"] == [
            fields | {"op": "INSERT", "row_id": "1", "data": '{"é": [1.5, null]}'},
            fields | {"op": "DELETE", "row_id": "2", "data": None},
        ]
        assert client.pending_changes == 0

    def test_a_timestamp_is_sent_in_utc(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": 1})])
        client.push([action(timestamp=datetime.fromisoformat("2026-01-31T14:00:00+02:00"))])
        assert clients.server.bodies(PUSH)[0]["changes"][0]["timestamp"] == AT_TEXT

    def test_more_than_500_are_cut_into_batches(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": n}) for n in (500, 1000, 1001)])
        assert client.push(action(row) for row in range(1001)) == 1001
        sent = clients.server.bodies(PUSH)
        assert [len(body["changes"]) for body in sent] == [500, 500, 1]
        assert len({body["push_id"] for body in sent}) == 3

    def test_a_batch_stays_within_six_mebibytes(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": n}) for n in (1, 2)])
        client.push(action(row, data="x" * 250_000) for row in range(30))
        sizes = [len(json.dumps(body)) for body in clients.server.bodies(PUSH)]
        assert len(sizes) == 2
        assert max(sizes) <= 6 * 2**20 + 1000

    def test_a_change_that_is_too_large_is_refused_and_nothing_is_kept(self, clients: ScriptedClients) -> None:
        client = clients.open()
        with pytest.raises(ValueError, match=r"changes\[2\].data must be at most 262144 bytes long"):
            client.push([action(1), action(2), action(3, data="x" * 256 * 1024)])
        assert client.pending_changes == 0

    @pytest.mark.parametrize("data", [float("nan"), {1, 2}, object(), b"bytes"])
    def test_data_that_is_not_json_is_refused_and_not_repeated_in_the_error(
        self, clients: ScriptedClients, data: Any
    ) -> None:
        client = clients.open()
        with pytest.raises(ValueError, match=r"changes\[1\].data must be a JSON value$"):
            client.push([action(1), action(2, data=data)])
        assert client.pending_changes == 0

    def test_number_keys_become_strings_in_json(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": 1})])
        client.push([action(data={1: "one", "two": 2})])
        assert clients.server.bodies(PUSH)[0]["changes"][0]["data"] == '{"1": "one", "two": 2}'

    @pytest.mark.parametrize("trouble", [LoseRequest(), LoseAnswer(), Refuse(503)])
    def test_a_retry_sends_exactly_the_same_request(self, clients: ScriptedClients, trouble: Any) -> None:
        client = clients.open(push=[trouble, trouble, Answer({"cursor": 1})])
        client.push([action()])
        first, second, third = clients.server.bodies(PUSH)
        assert first == second == third

    def test_after_a_crash_the_next_process_first_sends_the_same_pending_batches(
        self, clients: ScriptedClients
    ) -> None:
        client = clients.open(push=[Answer({"cursor": 500}), *[LoseAnswer()] * 4])
        with pytest.raises(NetworkError):
            client.push(action(row) for row in range(600))
        lost = clients.server.bodies(PUSH)[-1]
        again = clients.open(push=[Answer({"cursor": 600}), Answer({"cursor": 601})])
        assert again.pending_changes == 100
        assert again.push([action("new")]) == 601
        assert clients.server.bodies(PUSH)[0] == lost
        assert clients.server.bodies(PUSH)[1]["changes"][0]["row_id"] == "new"

    def test_push_without_entries_sends_what_is_pending_and_returns_the_last_cursor(
        self, clients: ScriptedClients
    ) -> None:
        client = clients.open(push=[LoseAnswer()] * 4)
        assert client.push([]) == 0
        with pytest.raises(NetworkError):
            client.push([action()])
        again = clients.open(push=[Answer({"cursor": 7})])
        assert again.push([]) == 7
        assert again.push([]) == 7
        assert clients.server.over()

    def test_the_same_push_while_it_is_pending_adds_nothing(self, clients: ScriptedClients) -> None:
        """This includes its batches that were answered already."""
        entries = [action(row, data={"b": 1, "a": row}) for row in range(600)]
        client = clients.open(push=[Answer({"cursor": 500}), *[LoseAnswer()] * 4])
        with pytest.raises(NetworkError):
            client.push(entries)
        again = clients.open(push=[Answer({"cursor": 600})])
        same = [action(row, data={"a": row, "b": 1}) for row in range(600)]
        assert again.push(same) == 600
        assert clients.server.over()
        third = clients.open(push=[Answer({"cursor": n}) for n in (1100, 1200)])
        assert third.push(same) == 1200, "once answered it is a new push"

    @pytest.mark.parametrize("status", [400, 402, 403, 409, 413, 422])
    def test_a_refused_batch_stays_pending_until_the_app_discards_it(
        self, clients: ScriptedClients, status: int
    ) -> None:
        client = clients.open(push=[Refuse(status, "not this"), Refuse(status, "not this"), Answer({"cursor": 1})])
        for entries in [action(1)], [action(2)]:
            with pytest.raises(ServerError, match="not this") as raised:
                client.push(entries)
            assert raised.value.status == status
        assert client.pending_changes == 2
        assert client.discard_pending() == 2
        assert client.push([action(3)]) == 1

    def test_after_a_404_for_the_device_registering_again_is_enough(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Refuse(404, "there is no such device"), Answer({"cursor": 1})])
        with pytest.raises(ServerError):
            client.push([action()])
        clients.server.steps[DEVICES] = [Answer(LAPTOP | {"id": "d9"})]
        client.register_device("Laptop", "linux")
        client.push([])
        first, second = clients.server.bodies(PUSH)
        assert (first["device_id"], second["device_id"]) == ("d1", "d9")
        assert first["push_id"] == second["push_id"]

    def test_the_pull_cursor_does_not_move(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[Answer({"cursor": 9})], pull=[page(cursor=9)])
        client.push([action()])
        client.pull()
        assert clients.server.bodies(PULL)[0]["cursor"] == 0

    def test_before_the_first_log_in_nothing_is_kept(self, clients: ScriptedClients) -> None:
        client = clients.open(registered=False)
        with pytest.raises(NotAuthenticated, match="log in first"):
            client.push([action()])
        with pytest.raises(StateError, match="register_device"):
            client.pull()
        assert client.pending_changes == 0

    def test_before_a_device_is_registered_changes_are_queued_and_leave_after_it(
        self, clients: ScriptedClients
    ) -> None:
        client = clients.open(registered=False, auth=[Answer(LOGIN)])
        client.authenticate("alice@example.org", PASSWORD)
        with pytest.raises(StateError, match="register_device"):
            client.push([action()])
        assert client.pending_changes == 1
        clients.server.steps |= {DEVICES: [Answer(LAPTOP)], PUSH: [Answer({"cursor": 1})]}
        client.register_device("Laptop", "linux")
        assert client.push([]) == 1

    def test_without_a_network_changes_are_queued(self, clients: ScriptedClients) -> None:
        client = clients.open(push=[LoseRequest()] * 4)
        with pytest.raises(NetworkError):
            client.push([action(1)])
        assert client.pending_changes == 1

    def test_an_installation_keeps_its_id(self, clients: ScriptedClients) -> None:
        ids = []
        for each in "the first", "started again":
            client = clients.open(registered=each == "the first")
            clients.server.steps[DEVICES] = [Answer(LAPTOP)]
            client.register_device("Laptop", "linux")
            ids.append(clients.server.bodies(DEVICES)[-1]["installation_id"])
        assert ids[0] == ids[1]


class TestPulling:
    def test_a_pull_returns_all_pages_without_this_devices_own_changes(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1), pulled(2, "d1"), cursor=2, more=True), page(pulled(3), cursor=3)])
        result = client.pull()
        assert [change.seq for change in result] == [1, 3]
        assert result[0] == PulledChange("tasks", "INSERT", "1", AT, 1, 1, "d2", AT, AT)
        assert result[-1:] == [result[1]]
        assert [(body["cursor"], body["epoch"]) for body in clients.server.bodies(PULL)] == [(0, None), (2, "e1")]

    def test_unconfirmed_changes_come_again(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1), cursor=1)] * 2)
        client.pull()
        assert client.last_sync_time is None
        client.pull().confirm()
        assert client.last_sync_time == AT
        again = clients.open(pull=[page(cursor=1)])
        again.pull()
        assert clients.server.bodies(PULL)[0] == {
            "cursor": 1,
            "confirmed": 1,
            "device_id": "d1",
            "epoch": "e1",
        }

    def test_a_result_confirms_only_its_own_changes(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[page(pulled(1), cursor=1), page(pulled(1), pulled(2), cursor=2), page(pulled(3), cursor=3)]
        )
        older, newer = client.pull(), client.pull()
        newer.confirm()
        newest = client.pull()
        older.confirm()
        assert client._state.position()[0].cursor == 2
        newest.confirm()
        assert client._state.position()[0].cursor == 3

    def test_a_pull_of_own_changes_alone_is_confirmed_automatically(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1, "d1"), cursor=1)])
        assert len(client.pull()) == 0
        assert client._state.position()[0] == Position("e1", 1)

    def test_with_apply_each_page_is_confirmed_after_it_returned(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[
                page(pulled(1), cursor=1, more=True),
                page(pulled(2, "d1"), cursor=2, more=True),
                page(pulled(3), cursor=3),
            ]
        )
        seen: list[tuple[list[int], int, object]] = []
        result = client.pull(
            apply=lambda changes: seen.append(
                ([change.seq for change in changes], client._state.position()[0].cursor, client.last_sync_time)
            )
        )
        assert seen == [([1], 0, None), ([3], 2, None)]
        assert (len(result), result.position, client.last_sync_time) == (0, Position("e1", 3), AT)
        result.confirm()

    def test_a_crash_in_apply_repeats_that_page_and_no_other(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1), cursor=1, more=True), page(pulled(2), cursor=2)])
        applied = []

        def apply(changes: list[PulledChange]) -> None:
            applied.append(changes[0].seq)
            if changes[0].seq == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            client.pull(apply=apply)
        again = clients.open(pull=[page(pulled(2), cursor=2)])
        again.pull(apply=lambda changes: applied.append(changes[0].seq))
        assert applied == [1, 2, 2]

    def test_a_replaced_log_is_read_from_its_start_with_own_changes_and_restarted_is_true(
        self, clients: ScriptedClients, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = clients.open(
            pull=[page(pulled(1), cursor=7), Refuse(409), page(pulled(1, "d1"), cursor=1, epoch="e2")]
        )
        client.pull().confirm()
        result = client.pull()
        assert result.restarted
        assert [change.device_id for change in result] == ["d1"]
        assert "reading the log again from its start" in caplog.text
        assert client.last_sync_time is None
        again = clients.open(pull=[page(pulled(1, "d1"), cursor=1, epoch="e2"), page(cursor=1, epoch="e2")])
        repeated = again.pull()
        assert repeated.restarted, "the app may have died before it heard of it"
        repeated.confirm()
        assert not again.pull().restarted

    def test_pages_of_two_logs_are_never_mixed(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[
                page(pulled(4), cursor=4),
                page(pulled(5), cursor=5, more=True),
                Refuse(409),
                page(pulled(1, row_id="new"), cursor=1, epoch="e2"),
            ]
        )
        client.pull().confirm()
        result = client.pull()
        assert [change.row_id for change in result] == ["new"]
        assert result.restarted
        result.confirm()
        assert client._state.position() == (Position("e2", 1), False)

    def test_a_409_at_the_start_of_the_log_is_raised(self, clients: ScriptedClients) -> None:
        with pytest.raises(ServerError):
            clients.open(pull=[Refuse(409)]).pull()

    WRONG: tuple[Answer | AnswerWithPage, ...] = (
        AnswerWithPage(200),
        page(cursor=0, more=True),
        page(cursor=-1),
        page(cursor=2**63),
        page(cursor=1, epoch=None),  # type: ignore[arg-type]
        page(cursor=1, server_time="yesterday"),
        page(cursor=1, server_time="2026-01-31T12:00:00"),
        page(cursor=1, changes={}),
        page(cursor=1, changes=["text"]),
        page(pulled(True, data="1"), cursor=1),
        page(pulled(1, device=None), cursor=1),  # type: ignore[arg-type]
        page(pulled(1, received_at="2026-13-31T12:00:00Z"), cursor=1),
        page(pulled(0), cursor=1),
        page(pulled(2), cursor=1),
        page(pulled(2), pulled(1), cursor=2),
        page(pulled(1), pulled(1), cursor=2),
        page(cursor=1, more=True),
    )

    @pytest.mark.parametrize("answer", WRONG)
    def test_an_invalid_answer_does_not_move_the_cursor(self, clients: ScriptedClients, answer: Any) -> None:
        client = clients.open(pull=[answer])
        with pytest.raises(ProtocolError):
            client.pull()
        assert client._state.position() == (BEGINNING, False)


class TestFilters:
    def test_a_filter_is_immutable_and_becomes_the_request_body(self) -> None:
        tasks = PullFilter().table("tasks")
        later = tasks.since(AT).until(AT + timedelta(days=1)).table("notes").table("tasks")
        assert tasks.body() == {"tables": ["tasks"]}
        assert later.body() == {"tables": ["tasks", "notes"], "since": AT_TEXT, "until": "2026-02-01T12:00:00.000000Z"}
        assert later.since(None).until(None).body() == {"tables": ["tasks", "notes"]}
        assert tasks == PullFilter().table("tasks")

    @pytest.mark.parametrize(
        "build",
        [
            lambda f: f.table(""),
            lambda f: f.table("x" * 129),
            lambda f: f.since(datetime(2026, 1, 31)),
            lambda f: f.until("2026-01-31T12:00:00Z"),
            lambda f: f.since(AT).until(AT),
            lambda f: f.until(AT).since(AT + timedelta(seconds=1)),
            lambda f: [f := f.table(str(number)) for number in range(101)],
        ],
    )
    def test_an_invalid_filter_is_a_value_error(self, build: Callable[[PullFilter], object]) -> None:
        with pytest.raises(ValueError):
            build(PullFilter())

    def test_a_filtered_pull_has_a_position_of_its_own_and_leaves_the_cursor(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[page(pulled(1), cursor=1, more=True), page(pulled(3), cursor=9), page(cursor=9)], push=[]
        )
        tasks = PullFilter().table("tasks").since(client.last_sync_time)
        found = client.pull_filtered(tasks)
        assert [change.seq for change in found] == [1, 3]
        assert client._state.position() == (BEGINNING, False)
        assert client.last_sync_time is None
        assert len(client.pull_filtered(tasks.after(found.position))) == 0
        assert clients.server.bodies(PULL)[-1] == {
            "tables": ["tasks"],
            "device_id": "d1",
            "cursor": 9,
            "confirmed": 0,
            "epoch": "e1",
        }

    def test_a_replaced_log_restarts_only_the_filtered_pull(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[Refuse(409), page(pulled(1), cursor=1, epoch="e2")])
        found = client.pull_filtered(PullFilter().after(Position("e1", 5)))
        assert (found.restarted, found.position) == (True, Position("e2", 1))
        assert client._state.position() == (BEGINNING, False)


class TestWithoutAKey:
    def test_nothing_is_pushed_in_the_clear_by_accident(self, clients: ScriptedClients) -> None:
        client = clients.open(encrypt=True)
        with pytest.raises(NoMasterKey):
            client.push([action()])
        assert client.pending_changes == 0

    def test_changes_need_a_key_but_own_changes_and_empty_pages_do_not(self, clients: ScriptedClients) -> None:
        client = clients.open(encrypt=True, pull=[page(pulled(1, "d1"), cursor=1), page(pulled(2), cursor=2)])
        assert len(client.pull()) == 0
        with pytest.raises(NoMasterKey):
            client.pull(apply=lambda changes: None)
        assert client._state.position()[0].cursor == 1

    def test_a_client_without_encryption_creates_no_master_key(self, clients: ScriptedClients) -> None:
        client = clients.open()
        with pytest.raises(ValueError, match="encrypt=False"):
            client.setup_encryption("passphrase")
        for call in (client.change_passphrase, client.rotate_master_key):
            with pytest.raises(ValueError, match="encrypt=False"):
                call("passphrase", "another")


def test_closing_ends_the_streams_and_may_be_repeated(clients: ScriptedClients) -> None:
    client = clients.open()
    stream = client.subscribe_notifications()
    assert isinstance(stream, SyncNotifyStream)
    client.close()
    client.close()
    assert list(stream) == []


def test_a_state_of_another_account_is_refused(clients: ScriptedClients) -> None:
    client = clients.open()
    clients.server.steps[AUTH] = [Answer(LOGIN | {"user_id": "bob"})]
    with pytest.raises(StateError, match="another account"):
        client.authenticate("bob@example.org", PASSWORD)


def test_a_client_that_cannot_be_made_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="server_url"):
        SyncKitClient("nowhere", api_key=API_KEY, state=tmp_path / "tasks.state")


class TestAgainstTheBackend:
    """The client with the routes of the reference backend and real encryption."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Callable[..., SyncKitClient]]:
        app = create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=tmp_path / "instance")
        backend = app.extensions["synckit_backend"]
        credentials = add_account(backend)
        made: list[SyncKitClient] = []

        def client(name: str, **options: Any) -> SyncKitClient:
            http = httpx2.Client(transport=httpx2.WSGITransport(app))
            key = credentials["api_key"]
            made.append(SyncKitClient("http://server", api_key=key, state=tmp_path / name, http=http, **options))
            made[-1].authenticate(credentials["email"], credentials["password"])
            made[-1].register_device(name, "linux")
            return made[-1]

        yield client
        for each in made:
            each.close()
        backend.store.dispose()

    def test_two_devices_share_what_the_server_cannot_read(self, make: MakeClient) -> None:
        laptop, phone, stranger = make("laptop"), make("phone"), make("clear", encrypt=False)
        assert laptop.setup_encryption("correct horse").created
        with pytest.raises(InvalidEnvelope):
            phone.setup_encryption("another horse")
        assert not phone.setup_encryption("correct horse").created
        assert laptop.push([action(1, data={"title": "milk"}), action(1, op="DELETE", data=None)]) == 2
        assert [(change.op, change.data) for change in phone.pull()] == [
            ("INSERT", {"title": "milk"}),
            ("DELETE", None),
        ]
        assert (len(stranger.pull()), stranger.pull_filtered(PullFilter()).locked) == (0, 2)
        stranger.push([action(2, op="DELETE", data=None)])
        assert (len(phone.pull()), phone.pull_filtered(PullFilter()).unreadable) == (2, 1)

    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        """The server's database, to store what no route accepts."""
        connection = sqlite3.connect(tmp_path / "instance" / "synckit.db", isolation_level=None)
        yield connection
        connection.close()

    @pytest.mark.usefixtures("quick_passphrases")
    def test_no_change_in_the_log_stops_a_device(self, make: MakeClient, log: sqlite3.Connection) -> None:
        laptop, stranger = make("laptop"), make("clear", encrypt=False)
        laptop.setup_encryption("correct horse")
        laptop.push([action(row) for row in range(6)])
        stranger.push([action("json"), action("gone", op="DELETE", data=None)])
        log.execute("UPDATE changes SET row_id = 'moved' WHERE seq = 2")
        log.execute("UPDATE changes SET timestamp = '9999-12-31T23:59:60Z' WHERE seq = 3")
        log.execute("UPDATE changes SET data = NULL WHERE seq = 4")
        log.execute("UPDATE changes SET data = 'ciphertext' WHERE seq = 5")
        ways: list[Callable[[SyncKitClient, list[PulledChange], list[UnreadableChange]], object]] = [
            lambda client, seen, told: client.pull(seen.extend, on_unreadable=told.append),
            lambda client, seen, told: seen.extend(client.pull(on_unreadable=told.append)),
            lambda client, seen, told: seen.extend(client.pull_filtered(PullFilter(), on_unreadable=told.append)),
        ]
        for number, pull in enumerate(ways):
            phone = make(f"phone {number}")
            phone.setup_encryption("correct horse")
            seen, told = [], []
            pull(phone, seen, told)
            assert [change.seq for change in seen] == [1, 6]
            assert [(change.seq, change.row_id) for change in told] == [
                *((2, "moved"), (3, "2"), (5, "4"), (7, "json"), (8, "gone"))
            ]
        strict = make("strict", strict=True)
        strict.setup_encryption("correct horse")
        with pytest.raises(DecryptionFailed) as raised:
            strict.pull()
        assert (raised.value.seq, raised.value.row_id) == (2, "moved")
        log.execute("UPDATE changes SET row_id = '1' WHERE seq = 2")
        mended = make("phone 0")
        mended.setup_encryption("correct horse")
        assert len(mended.pull()) == 0
        assert mended.retry_unreadable()
        assert [change.seq for change in mended.pull()] == [2, 6]

    def test_a_filter_by_table_and_time_leaves_the_cursor_of_pull(self, make: MakeClient) -> None:
        laptop, phone = make("laptop", encrypt=False), make("phone", encrypt=False)
        laptop.push([action(1)])
        phone.pull().confirm()
        laptop.push([action(2), action(3, table="notes")])
        found = phone.pull_filtered(PullFilter().table("tasks").since(phone.last_sync_time))
        assert [change.row_id for change in found] == ["2"]
        assert phone.status().cursor == 3
        assert [change.row_id for change in phone.pull()] == ["2", "3"]

    def test_the_session_continues_with_its_refresh_token(self, make: MakeClient) -> None:
        laptop = make("laptop", encrypt=False)
        for _ in range(3):
            laptop._session.refresh()
        laptop.push([action()])
        assert laptop.status().change_count == 1


def test_after_a_log_out_calls_are_not_authenticated(clients: ScriptedClients) -> None:
    client = clients.open(registered=False)
    for call in (client.status, lambda: client.register_device("Laptop", "linux")):
        with pytest.raises(NotAuthenticated):
            call()
