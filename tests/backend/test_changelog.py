"""Push, pull, status and the sweep's question."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import func, select

from synckit_notify.backend import Backend, changelog, log_pages
from synckit_notify.backend.database import schema
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from ..support.backend import Caller, Send, change
from ..support.tokens import make_token


def seqs(answer: dict[str, list[dict[str, int]]]) -> list[int]:
    return [row["seq"] for row in answer["changes"]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Return a function that moves the server's clock."""
    offset = 0
    true_now = schema.now

    def advance(by: timedelta) -> None:
        nonlocal offset
        offset += by // timedelta(microseconds=1)

    monkeypatch.setattr(changelog, "now", lambda: true_now() + offset)
    return advance


def test_what_is_pushed_is_pulled_verbatim_with_its_number_and_the_servers_time(alice: Caller) -> None:
    laptop, phone = alice.register("laptop"), alice.register("phone")
    sent = [
        change("1", timestamp="2026-01-31t12:00:00.123456789+01:00", data="ü\u2028💩"),
        change("2", op="UPDATE"),
        change("2", op="DELETE", data=None),
    ]
    before = datetime.now(UTC)
    assert alice.push(laptop, *sent) == 3
    page = alice.pull(phone)
    assert [{name: row[name] for name in sent[0]} for row in page["changes"]] == sent
    assert seqs(page) == [1, 2, 3]
    assert {row["device_id"] for row in page["changes"]} == {laptop}
    received = {row["received_at"] for row in page["changes"]}
    assert before <= datetime.fromisoformat(received.pop()) <= datetime.now(UTC)
    assert not received
    assert (page["cursor"], page["has_more"]) == (3, False)


def test_numbers_count_per_app_and_user(alice: Caller, as_user: Callable[..., Caller]) -> None:
    laptop = alice.register()
    assert [alice.push(laptop), alice.push(laptop, change(), change()), alice.push(laptop)] == [1, 3, 4]
    for other in (as_user("bob"), as_user("alice", "mail")):
        assert other.push(other.register()) == 1
    assert alice.get("/status")[1]["cursor"] == 4


def test_a_push_is_all_or_nothing(alice: Caller) -> None:
    laptop = alice.register()
    assert alice.post("/push", {"device_id": laptop, "changes": [change(), change(op="UPSERT")]})[0] == 422
    assert alice.pull(laptop)["changes"] == []
    assert alice.push(laptop) == 1


def test_a_device_of_another_user_is_unknown(alice: Caller, as_user: Callable[..., Caller]) -> None:
    laptop = alice.register()
    for stranger in (as_user("bob"), as_user("alice", "mail")):
        assert stranger.post("/push", {"device_id": laptop, "changes": [change()]})[0] == 404
        assert stranger.post("/pull", {"device_id": laptop, "cursor": 0})[0] == 404
        assert stranger.get("/status")[1]["change_count"] == 0


class TestARepeatedPush:
    def test_stores_nothing_and_returns_the_first_cursor(self, alice: Caller) -> None:
        laptop = alice.register()
        assert alice.push(laptop, change("a"), push_id="p") == 1
        assert alice.push(laptop, change("b")) == 2
        assert alice.push(laptop, change("a"), push_id="p") == 1
        assert alice.get("/status")[1]["change_count"] == 2

    def test_with_other_changes_is_a_conflict(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, change("a"), push_id="p")
        status, answer = alice.post("/push", {"device_id": laptop, "changes": [change("b")], "push_id": "p"})
        assert (status, answer) == (409, {"error": "push_id: was already used for other changes"})

    def test_does_not_depend_on_the_order_of_fields_or_on_unknown_fields(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, change(), push_id="p")
        reordered = dict(reversed(change(unknown=1).items()))
        assert alice.push(laptop, reordered, push_id="p") == 1

    def test_of_another_device_is_another_push(self, alice: Caller) -> None:
        alice.push(alice.register("laptop"), push_id="p")
        assert alice.push(alice.register("phone"), push_id="p") == 2

    def test_is_forgotten_after_seven_days(
        self, alice: Caller, backend: Backend, clock: Callable[[timedelta], None]
    ) -> None:
        laptop = alice.register()
        alice.push(laptop, push_id="p")
        clock(timedelta(days=7, seconds=-5))
        assert alice.push(laptop, push_id="p") == 1
        clock(timedelta(seconds=10))
        alice.push(laptop, push_id="q")
        assert alice.push(laptop, push_id="p") == 3
        count = select(func.count()).select_from(schema.pushes)
        assert backend.store.read(lambda connection: connection.execute(count).scalar()) == 2

    def test_is_announced_again(self, app: Flask, alice: Caller) -> None:
        laptop = alice.register()
        with open_stream(app.test_client(), "notes", make_token()) as stream:
            assert stream.next_frame() == CONNECTED
            for _ in range(2):
                alice.push(laptop, push_id="p")
                assert stream.next_frame() == CHANGED


def test_a_push_is_announced_to_the_other_devices_only(app: Flask, alice: Caller) -> None:
    laptop, phone = alice.register("laptop"), alice.register("phone")
    client = app.test_client()
    with (
        open_stream(client, "notes", make_token(), device_id=phone) as of_phone,
        open_stream(client, "notes", make_token(), device_id=laptop) as of_laptop,
    ):
        assert of_phone.next_frame() == of_laptop.next_frame() == CONNECTED
        alice.push(laptop)
        assert of_phone.next_frame() == CHANGED
        with pytest.raises(TimeoutError):
            of_laptop.next_frame(0.1)


class TestAPage:
    def test_has_at_most_the_limit_and_the_next_one_continues(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, *[change(str(number)) for number in range(7)])
        pages = []
        cursor, has_more = 0, True
        while has_more:
            page = alice.pull(laptop, cursor, limit=3)
            cursor, has_more = page["cursor"], page["has_more"]
            pages.append(seqs(page))
        assert pages == [[1, 2, 3], [4, 5, 6], [7]]

    def test_is_not_followed_by_an_empty_one(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, change(), change())
        assert alice.pull(laptop, limit=2)["has_more"] is False

    def test_holds_about_1_mib_of_data_and_always_one_row(self, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
        laptop = alice.register()
        alice.push(laptop, *[change(data="x" * 262_144)] * 4, *[change(data="\N{GRINNING FACE}" * 65_536)] * 5)
        first, second = alice.pull(laptop), alice.pull(laptop, 4)
        assert (seqs(first), first["cursor"], first["has_more"]) == ([1, 2, 3, 4], 4, True)
        assert (seqs(second), second["cursor"], second["has_more"]) == ([5, 6, 7, 8], 8, True)
        monkeypatch.setattr(log_pages, "PAGE_BYTES", 10)
        assert seqs(alice.pull(laptop, 5)) == [6]

    def test_takes_no_more_bytes_than_its_data(self, app: Flask, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, change(data="\N{GRINNING FACE}" * 1000))
        body = {"device_id": laptop, "cursor": 0}
        assert len(app.test_client().post("/api/sync/pull", json=body, headers=alice.headers).data) < 4_500

    def test_behind_everything_is_empty_and_keeps_the_cursor(self, alice: Caller) -> None:
        laptop = alice.register()
        assert alice.pull(laptop)["cursor"] == 0
        alice.push(laptop)
        page = alice.pull(laptop, 1)
        assert (page["changes"], page["cursor"], page["has_more"]) == ([], 1, False)


class TestAFilteredPull:
    def test_by_table_skips_other_tables(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, *[change(table=table) for table in ("a", "b", "a", "c", "a", "b", "c")])
        page = alice.pull(laptop, tables=["a"])
        assert (seqs(page), page["cursor"], page["has_more"]) == ([1, 3, 5], 7, False)
        page = alice.pull(laptop, tables=["a", "b"], limit=2)
        assert (seqs(page), page["cursor"], page["has_more"]) == ([1, 2], 2, True)
        page = alice.pull(laptop, 2, tables=["a", "b"], limit=3)
        assert (seqs(page), page["cursor"], page["has_more"]) == ([3, 5, 6], 7, False)
        assert alice.pull(laptop, tables=["unknown"])["cursor"] == 7

    def test_by_time_includes_since_and_excludes_until(self, alice: Caller) -> None:
        laptop = alice.register()
        for _ in range(3):
            alice.push(laptop)
        times = [row["received_at"] for row in alice.pull(laptop)["changes"]]
        assert seqs(alice.pull(laptop, since=times[1])) == [2, 3]
        assert seqs(alice.pull(laptop, until=times[1])) == [1]
        assert seqs(alice.pull(laptop, since=times[1], until=times[2])) == [2]
        assert seqs(alice.pull(laptop, since="9999-12-31T23:59:59Z")) == []
        assert seqs(alice.pull(laptop, until="0001-01-01T00:00:00Z")) == []
        assert seqs(alice.pull(laptop, since=times[2], until=times[1])) == []

    def test_since_the_last_server_time_returns_exactly_the_new_changes(self, alice: Caller) -> None:
        laptop = alice.register()
        last = alice.pull(laptop)["server_time"]
        for number in range(1, 4):
            alice.push(laptop)
            page = alice.pull(laptop, since=last)
            assert seqs(page) == [number]
            last = page["server_time"]

    def test_passes_over_the_changes_of_other_tables(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop, *[change(table=table) for table in "xxxaxxaxxxxxxxxbxx"])
        pages, cursor, has_more = [], 0, True
        while has_more:
            page = alice.pull(laptop, cursor, tables=["a", "b", "none", "a"], limit=2)
            cursor, has_more = page["cursor"], page["has_more"]
            pages.append((seqs(page), cursor, has_more))
        assert pages == [([4, 7], 7, True), ([16], 18, False)]
        assert alice.pull(laptop, tables=["none"])["cursor"] == 18

    def test_skips_missing_numbers_in_the_log(self, alice: Caller, backend: Backend) -> None:
        laptop = alice.register()
        for number in range(8):
            alice.push(laptop, change(table="ab"[number % 2]))
        times = [row["received_at"] for row in alice.pull(laptop)["changes"]]
        gone = schema.changes.delete().where(schema.changes.c.seq.in_([1, 4, 5, 8]))
        backend.store.write(lambda connection: connection.execute(gone) and None)
        page = alice.pull(laptop, since=times[3])
        assert (seqs(page), page["cursor"]) == ([6, 7], 8)
        page = alice.pull(laptop, until=times[4], tables=["a"])
        assert (seqs(page), page["cursor"]) == ([3], 8)
        assert seqs(alice.pull(laptop, tables=["b"])) == [2, 6]

    def test_with_null_filters_is_a_plain_pull(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop)
        assert seqs(alice.pull(laptop, tables=None, since=None, until=None, limit=None, epoch=None)) == [1]


def test_received_at_never_runs_backwards_in_a_channel(alice: Caller, clock: Callable[[timedelta], None]) -> None:
    laptop = alice.register()
    alice.push(laptop)
    clock(timedelta(days=-1))
    alice.push(laptop)
    alice.push(laptop)
    times = [row["received_at"] for row in alice.pull(laptop)["changes"]]
    assert times == sorted(set(times))


def test_an_answers_time_leaves_room_for_pushes_that_are_not_committed_yet(alice: Caller) -> None:
    laptop = alice.register()
    before = datetime.now(UTC)
    answered = datetime.fromisoformat(alice.pull(laptop)["server_time"])
    assert before <= answered + timedelta(seconds=2) <= datetime.now(UTC)


class TestTheEpoch:
    def test_is_answered_and_accepted(self, alice: Caller) -> None:
        laptop = alice.register()
        epoch = alice.pull(laptop)["epoch"]
        assert alice.get("/status") == (200, {"change_count": 0, "cursor": 0, "epoch": epoch, "log": "history"})
        assert alice.pull(laptop, epoch=epoch)["epoch"] == epoch

    def test_when_stale_is_a_conflict(self, alice: Caller, backend: Backend) -> None:
        laptop = alice.register()
        stale = alice.pull(laptop)["epoch"]
        fresh = backend.store.write(changelog.renew_epoch)
        status, answer = alice.post("/pull", {"device_id": laptop, "cursor": 0, "epoch": stale})
        assert (status, "pull again from cursor 0" in answer["error"]) == (409, True)
        assert alice.pull(laptop)["epoch"] == fresh != stale

    def test_a_cursor_beyond_the_head_is_a_conflict_too(self, alice: Caller) -> None:
        laptop = alice.register()
        alice.push(laptop)
        assert alice.post("/pull", {"device_id": laptop, "cursor": 2})[0] == 409


def test_the_sweep_finds_channels_that_changed_at_or_after_a_time(
    backend: Backend, alice: Caller, as_user: Callable[..., Caller]
) -> None:
    alice.push(alice.register())
    bob = as_user("bob")
    bob.push(bob.register())

    def changed(since: datetime) -> list[tuple[str, str, datetime]]:
        return backend.store.read(lambda connection: changelog.changed_channels(connection, since))

    first, second = sorted(changed(datetime(2000, 1, 1, tzinfo=UTC)), key=lambda channel: channel[2])
    assert (first[:2], second[:2]) == (("notes", "alice"), ("notes", "bob"))
    assert changed(second[2]) == [second]
    assert changed(second[2] + timedelta(microseconds=1)) == []


def test_a_touch_is_found_by_the_sweep_and_adds_no_change(backend: Backend, alice: Caller) -> None:
    laptop = alice.register()
    alice.push(laptop)
    move = backend.store.write(lambda connection: changelog.touch(connection, "notes", "alice"))
    assert move.cursor == 1
    moment = move.changed_at
    assert moment is not None
    channels = backend.store.read(lambda connection: changelog.changed_channels(connection, moment))
    assert channels == [("notes", "alice", moment)]
    assert seqs(alice.pull(laptop)) == [1]
    assert alice.push(laptop) == 2


def test_a_push_returns_the_time_of_the_previous_change(backend: Backend, alice: Caller) -> None:
    laptop = alice.register()

    def push(push_id: str | None = None) -> changelog.Move:
        pushed = [changelog.Change("t", "INSERT", "1", "2026-01-31T12:00:00Z", "")]
        return backend.store.write(lambda c: changelog.push(c, "notes", "alice", laptop, pushed, push_id))

    first, second = push(), push("p")
    assert (first.previous_at, second.previous_at) == (None, first.changed_at)
    assert push("p") == changelog.Move(second.cursor, second.received_at, device=second.device)


def test_live_and_ready_answer(app: Flask, send: Send) -> None:
    assert send("GET", "/live", None, {})[0] == 200
    status, answer = send("GET", "/ready", None, {})
    assert (status, answer["ready"]) == (200, True)
