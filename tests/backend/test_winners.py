"""The one order, and pulls with `latest`: each row's winner alone, whoever pushes meanwhile and however."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from synckit_notify.backend import Backend, accounts, changelog, log_pages, winners
from synckit_notify.backend.database import schema
from synckit_notify.backend.database.store import upsert
from synckit_notify.backend.request_fields import rfc3339

from ..support.backend import AT, Caller, Run, change

Row = dict[str, Any]
DIGEST_OF_OLDER_RELEASES = "045d14df8ae7b703232c9d40c2ae366d5e343ccb858a824e9f0dc590d4813b75"
"""What release 0.4 stored for the push of the test below."""

LONG_AGO, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def use_mode(backend: Backend, log: str) -> None:
    """Set the log mode of the app `notes`, which is stored at first."""

    def set_log(connection: Connection) -> None:
        if accounts.find_app(connection, "notes") == "notes":
            row = {"id": "notes", "name": "Notes", "api_key_hash": "", "created_at": 0}
            connection.execute(upsert(connection, schema.apps).values(row).on_conflict_do_nothing())
        accounts.set_log(connection, "notes", log)

    backend.store.write(set_log)


@pytest.fixture
def laptop(alice: Caller, backend: Backend) -> str:
    """A device of Alice in an app with the log mode `rows`."""
    use_mode(backend, "rows")
    return alice.register()


def names(page: Row) -> list[str]:
    return [row["data"] for row in page["changes"]]


def everything(alice: Caller, device: str, cursor: int = 0, **fields: object) -> list[Row]:
    """Return all changes behind a cursor, page by page."""
    found: list[Row] = []
    while True:
        page = alice.pull(device, cursor, **fields)
        found, cursor = found + page["changes"], page["cursor"]
        if not page["has_more"]:
            return found


def order(row: Row) -> tuple[str, str, int]:
    return row["order_at"], row["device_id"], row["seq"]


def apply(rows: dict[tuple[str, str], Row], changes: list[Row]) -> None:
    """Apply changes as a client does: the later one in the one order wins."""
    for row in changes:
        key = row["table"], row["row_id"]
        rows[key] = max(rows.get(key, row), row, key=order)


class TestOrderAt:
    @pytest.mark.parametrize(
        ("timestamp", "expected"),
        [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000Z"),
            ("2026-01-31T12:00:00.1234561Z", "2026-01-31T12:00:00.123457Z"),
            ("2026-01-31T11:59:59.999999001Z", "2026-01-31T12:00:00.000000Z"),
            ("2026-01-31T14:00:00.5+02:00", "2026-01-31T12:00:00.500000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ],
    )
    def test_is_the_instant_of_the_timestamp_rounded_up(
        self, alice: Caller, backend: Backend, timestamp: str, expected: str
    ) -> None:
        laptop = alice.register()
        alice.push(laptop, change(timestamp=timestamp))
        assert alice.pull(laptop)["changes"][0]["order_at"] == expected
        self.forget_stored(backend)
        assert alice.pull(laptop)["changes"][0]["order_at"] == expected

    @pytest.mark.parametrize("timestamp", [FUTURE, "9999-12-31T23:59:59.999999999Z"])
    def test_is_not_after_the_push_was_received(self, alice: Caller, backend: Backend, timestamp: str) -> None:
        laptop = alice.register()
        alice.push(laptop, change(timestamp=timestamp))
        (row,) = alice.pull(laptop)["changes"]
        assert row["order_at"] == row["received_at"]
        self.forget_stored(backend)
        assert alice.pull(laptop)["changes"] == [row]

    @pytest.mark.parametrize("accepted_once", ["2016-12-31T23:59:60Z", "9999-12-31T23:59:60Z", "yesterday"])
    def test_of_a_timestamp_that_only_an_older_release_accepted_is_when_it_was_received(
        self, alice: Caller, backend: Backend, accepted_once: str
    ) -> None:
        laptop = alice.register()
        alice.push(laptop)
        self.forget_stored(backend, timestamp=accepted_once)
        (row,) = alice.pull(laptop)["changes"]
        assert row["order_at"] == row["received_at"]

    @staticmethod
    def forget_stored(backend: Backend, **values: str) -> None:
        """Make the changes look as those that a server of an older release has stored."""
        older = schema.changes.update().values(order_at=None, **values)
        backend.store.write(lambda connection: connection.execute(older) and None)


class TestReceivedAt:
    def test_of_a_push_is_that_of_its_changes(self, alice: Caller) -> None:
        laptop = alice.register()
        _, answer = alice.post("/push", {"device_id": laptop, "changes": [change("1"), change("2")]})
        assert {row["received_at"] for row in alice.pull(laptop)["changes"]} == {answer["received_at"]}
        assert (answer["cursor"], set(answer)) == (2, {"cursor", "received_at", "server_time"})

    def test_of_a_repeat_is_that_of_the_first(self, alice: Caller) -> None:
        laptop = alice.register()
        body = {"device_id": laptop, "changes": [change()], "push_id": "p"}
        first, _, again = alice.post("/push", body)[1], alice.push(laptop), alice.post("/push", body)[1]
        assert (again["cursor"], again["received_at"]) == (first["cursor"], first["received_at"])

    def test_of_a_push_that_an_older_release_stored_is_known_too(self, alice: Caller, backend: Backend) -> None:
        laptop = alice.register()
        body = {"device_id": laptop, "changes": [change("1", data="ü", unknown=1)], "push_id": "p"}
        alice.post("/push", body)
        stored = schema.pushes.update().values(digest=DIGEST_OF_OLDER_RELEASES, received_at=1)
        backend.store.write(lambda connection: connection.execute(stored) and None)
        status, answer = alice.post("/push", body)
        assert (status, answer["cursor"], answer["received_at"]) == (200, 1, "1970-01-01T00:00:00.000001Z")


class TestLatest:
    def test_answers_only_the_winner_of_each_row(self, alice: Caller, laptop: str) -> None:
        alice.push(laptop, change("1", data="a"), change("1", data="b"), change("2", data="c"))
        alice.push(laptop, change("1", data="late", timestamp=LONG_AGO), change("1", table="other", data="d"))
        page = alice.pull(laptop, latest=True)
        assert (names(page), page["cursor"], page["has_more"]) == (["b", "c", "d"], 5, False)
        assert names(alice.pull(laptop, latest=False)) == ["a", "b", "c", "late", "d"]
        assert names(alice.pull(laptop, 3, latest=True)) == ["d"]  # the reader has had what beats the late one

    def test_answers_a_deletion_that_wins(self, alice: Caller, laptop: str) -> None:
        alice.push(laptop, change("1", data="a"), change("1", op="DELETE", data=None))
        assert [row["op"] for row in alice.pull(laptop, latest=True)["changes"]] == ["DELETE"]

    @pytest.mark.parametrize("later", [0, 1])
    def test_at_the_same_instant_takes_the_higher_device_id(
        self, alice: Caller, laptop: str, backend: Backend, later: int
    ) -> None:
        """By code points, whatever the locale of the database: the hyphen is before the digits."""
        ids = ["a-b", "a0b"]
        rename = schema.devices.update().where(schema.devices.c.id == laptop).values(id=ids[1 - later])
        backend.store.write(lambda connection: connection.execute(rename) and None)
        alice.push(ids[1 - later], change(data=ids[1 - later]))
        backend.store.write(lambda c: c.execute(schema.devices.update().values(id=ids[later])) and None)
        alice.push(ids[later], change(data=ids[later]))
        assert names(alice.pull(ids[later], latest=True)) == ["a0b"]

    def test_pages_by_limit_and_by_size(self, alice: Caller, laptop: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for version in "ab":
            alice.push(laptop, *[change(str(number), data=f"{version}{number}") for number in range(7)])
        pages, cursor, has_more = [], 0, True
        while has_more:
            page = alice.pull(laptop, cursor, latest=True, limit=3)
            cursor, has_more = page["cursor"], page["has_more"]
            pages.append((names(page), cursor))
        assert pages == [(["b0", "b1", "b2"], 10), (["b3", "b4", "b5"], 13), (["b6"], 14)]
        monkeypatch.setattr(log_pages, "PAGE_BYTES", 3)
        assert names(alice.pull(laptop, latest=True)) == ["b0"]

    def test_of_some_tables_examines_a_bounded_number_of_winners(
        self, alice: Caller, laptop: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_pages, "MAX_EXAMINED", 2)
        alice.push(laptop, *[change("1", table="a")] * 5)
        alice.push(laptop, *[change(str(n), table=table) for n, table in enumerate("xabxx")])
        pages, cursor, has_more = [], 0, True
        while has_more:
            page = alice.pull(laptop, cursor, latest=True, tables=["a", "b"])
            cursor, has_more = page["cursor"], page["has_more"]
            pages.append([row["seq"] for row in page["changes"]])
        assert pages == [[7], [8], []]
        assert cursor == 10

    def test_of_a_blanked_change_answers_the_version_before(self, run: Run, alice: Caller, laptop: str) -> None:
        alice.push(laptop, change("1", data="a"), change("1", data="b"), change("2", data="c"))
        for seq in ("2", "3"):
            run("changes", "delete", "notes", "alice", seq, "--yes")
        rows = alice.pull(laptop, latest=True)["changes"]
        assert [(row["seq"], row["data"]) for row in rows] == [(1, "a"), (3, None)]
        assert rows[1]["order_at"] == "0001-01-01T00:00:00.000000Z"
        alice.push(laptop, change("2", data="d", timestamp=LONG_AGO))
        assert names(alice.pull(laptop, latest=True)) == ["a", "d"]

    @pytest.mark.parametrize("value", [1, "true", [], {}])
    def test_must_be_a_boolean(self, alice: Caller, laptop: str, value: object) -> None:
        body = {"device_id": laptop, "cursor": 0, "latest": value}
        assert alice.post("/pull", body) == (422, {"error": "latest: must be true or false"})

    @pytest.mark.parametrize("name", ["since", "until"])
    def test_is_not_combined_with_times(self, alice: Caller, laptop: str, name: str) -> None:
        body = {"device_id": laptop, "cursor": 0, "latest": True, name: AT}
        assert alice.post("/pull", body) == (422, {"error": "latest: must not be combined with since or until"})

    def test_is_for_apps_that_keep_rows(self, alice: Caller, laptop: str, backend: Backend) -> None:
        use_mode(backend, "history")
        sentence = (
            "latest: the log of this app keeps the history: an administrator can change that with: flask synckit app "
            "set notes --log rows"
        )
        body = {"device_id": laptop, "cursor": 0, "latest": True}
        assert alice.post("/pull", body) == (422, {"error": sentence})
        assert alice.get("/status")[1]["log"] == "history"
        use_mode(backend, "rows")
        assert alice.get("/status")[1]["log"] == "rows"

    def test_does_not_read_the_versions_that_have_lost(self, backend: Backend) -> None:
        def explain(connection: Connection) -> str:
            owner = {"app_id": "notes", "user_id": "alice", "device_id": "d", "table_name": "t"}
            rest = {"op": "INSERT", "timestamp": AT, "data": "x", "received_at": 1, "order_at": 1}
            log = [owner | rest | {"seq": seq, "row_id": str(seq % 100)} for seq in range(10_000)]
            connection.execute(schema.changes.insert(), log)
            won = [owner | {"row_id": str(n), "order_at": 1, "seq": 100 * n} for n in range(100)]
            connection.execute(schema.winners.insert(), won)
            connection.execute(text("ANALYZE"))
            words = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
            plans = []

            def note(_: object, __: object, query: str, values: Any, *rest: object) -> None:
                if query.startswith("SELECT"):
                    plans.extend(connection.connection.cursor().execute(f"{words} {query}", values).fetchall())

            event.listen(connection, "before_cursor_execute", note)
            query = log_pages.Query(cursor=0, latest=True)
            found, *_ = log_pages.read_page(connection, "notes", "alice", 10_000, 10_000, query)
            assert [row.seq for row in found] == [100 * n for n in range(1, 100)]
            return str(plans)

        plan = backend.store.write(explain)
        assert plan.count("changes_pkey") + plan.count("sqlite_autoindex_changes_1") == 2
        assert "Seq Scan on changes" not in plan
        assert "SCAN" not in plan


class TestWinnersThatWereNotFoundYet:
    """While servers of an older release push, or the app kept the history; then every change is answered."""

    @pytest.fixture
    def behind(self, alice: Caller, laptop: str, backend: Backend) -> str:
        """Six changes of two rows, of which the winners of the first two are known."""
        alice.push(laptop, change("1", data="a"), change("1", data="b"))
        use_mode(backend, "history")
        alice.push(laptop, *[change(row, data=data) for row, data in ("1c", "2d", "1e", "2f")])
        use_mode(backend, "rows")
        return laptop

    def test_are_answered_as_changes(self, alice: Caller, behind: str) -> None:
        page = alice.pull(behind, latest=True)
        assert (names(page), page["cursor"], page["has_more"]) == (["b"], 2, True)
        page = alice.pull(behind, 2, latest=True)
        assert (names(page), page["cursor"], page["has_more"]) == (["c", "d", "e", "f"], 6, False)

    def test_are_found_by_the_next_push(self, alice: Caller, behind: str) -> None:
        alice.push(behind, change("3", data="g"))
        assert names(alice.pull(behind, latest=True)) == ["e", "f", "g"]

    def test_are_found_by_the_next_pushes_of_which_each_examines_some(
        self, alice: Caller, behind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(winners, "MAX_AT_ONCE", 2)
        answered = []
        for data in "ghi":
            alice.push(behind, change("3", data=data))
            answered.append("".join(row["data"] for row in everything(alice, behind, latest=True)))
        assert answered == ["cdefg", "efgh", "efhi"]

    def test_are_found_by_the_command(
        self, run: Run, alice: Caller, behind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(winners, "MAX_AT_ONCE", 3)
        assert "User alice: 1 change left" in run("app", "set", "notes", "--log", "rows")
        assert names(alice.pull(behind, latest=True)) == ["e", "f"]

    def test_of_changes_that_an_older_release_stored_are_found(
        self, run: Run, alice: Caller, behind: str, backend: Backend
    ) -> None:
        TestOrderAt.forget_stored(backend)
        run("app", "set", "notes", "--log", "rows")
        assert names(alice.pull(behind, latest=True)) == ["e", "f"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Move the server's clock by a second for each push, so that timestamps of the test are before and after it."""
    seconds = 0

    def now() -> int:
        nonlocal seconds
        seconds += 1
        return 1_700_000_000_000_000 + seconds * 1_000_000

    monkeypatch.setattr(changelog, "now", now)
    yield lambda: rfc3339(1_700_000_000_000_000 + seconds * 1_000_000)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(4, 12))]
)
def test_a_reader_ends_with_every_winner_whatever_is_pushed_meanwhile(
    alice: Caller,
    backend: Backend,
    laptop: str,
    clock: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """Pages with `latest` and without, of any size, while devices with wrong clocks push to servers old and new."""
    chance = random.Random(seed)
    monkeypatch.setattr(winners, "MAX_AT_ONCE", 7)
    monkeypatch.setattr(log_pages, "MAX_EXAMINED", 5)
    devices = [laptop, alice.register("phone"), alice.register("tablet")]
    tables = [None, None, ["a"], ["a", "b"]][seed % 4]
    number = 0

    def push() -> None:
        nonlocal number
        use_mode(backend, chance.choice(["rows", "rows", "history"]))
        pushed = []
        for _ in range(chance.randint(1, 6)):
            number += 1
            shift = timedelta(seconds=chance.choice([-9, -3, 0, 0, 5, 3600]))
            timestamp = (datetime.fromisoformat(clock()) + shift).astimezone(UTC).isoformat()
            row, table = str(chance.randint(1, 4)), chance.choice("abc")
            pushed.append(change(row, table=table, data=str(number), timestamp=timestamp))
        alice.push(chance.choice(devices), *pushed)
        use_mode(backend, "rows")

    for _ in range(10):
        push()
    rows: dict[tuple[str, str], Row] = {}
    cursor, has_more, answered = 0, True, 0
    while has_more:
        fields: dict[str, object] = {} if tables is None else {"tables": tables}
        page = alice.pull(laptop, cursor, latest=chance.random() < 0.8, limit=chance.randint(1, 4), **fields)
        cursor, has_more = page["cursor"], page["has_more"]
        apply(rows, page["changes"])
        answered += len(page["changes"])
        if number < 90 and chance.random() < 0.4:
            push()
            has_more = True
    expected: dict[tuple[str, str], Row] = {}
    full = everything(alice, laptop)
    apply(expected, [row for row in full if tables is None or row["table"] in tables])
    assert rows == expected
    assert answered < len(full)
