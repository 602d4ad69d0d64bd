"""No change can stop a device: an unreadable change is left out and reported, a locked one waits for its key."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.client import DecryptionFailed, NoMasterKey, Position, ProtocolError, UnreadableChange
from synckit_notify.client.client import SyncKitClient
from synckit_notify.client.encryption import Cipher, EntryContext, new_cipher
from synckit_notify.client.models import PulledChanges, PullFilter
from synckit_notify.client.state import LeftOut

from ..support.scripted_clients import AT_TEXT, ScriptedClients, action, page, pulled
from ..support.scripted_server import KEYS, PULL, Answer, Refuse

TIMESTAMPS = json.loads((Path(__file__).parents[1] / "timestamps.json").read_text())
ZERO = datetime(1970, 1, 1, tzinfo=UTC)

OWN = Cipher(b"o" * 32)
FOREIGN = Cipher(b"f" * 32, [b"o" * 32])
"""A key that another device made in a rotation."""


pytestmark = pytest.mark.usefixtures("quick_passphrases")


def sealed(seq: int, cipher: Cipher = OWN, **fields: Any) -> dict[str, object]:
    """Return a change of another device as the server sends it; `fields` are altered after it was encrypted."""
    context = EntryContext("notes", "alice", "tasks", str(seq), "INSERT", AT_TEXT)
    return pulled(seq, **{"data": cipher.seal(context, seq)} | fields)


def envelope(cipher: Cipher = OWN, version: int = 1) -> Answer:
    return Answer({"envelope": cipher.wrap("notes", "alice", "passphrase"), "version": version})


def unlocked(clients: ScriptedClients, cipher: Cipher = OWN, version: int = 1, **steps: list[Any]) -> SyncKitClient:
    """Return the client of a process in which encryption is set up."""
    keys = [envelope(cipher, version), *steps.pop("keys", [])]
    client = clients.open(encrypt=True, keys=keys, **steps)
    client.setup_encryption("passphrase")
    return client


def seqs(changes: PulledChanges) -> list[int]:
    return [change.seq for change in changes]


def cursor(client: SyncKitClient) -> int:
    return client._state.position()[0].cursor


UNREADABLE_IN_THE_CLEAR: dict[str, dict[str, object]] = {
    "its op is unknown": {"op": "UPSERT"},
    "its op is missing": {"op": None},
    "its table is missing": {"table": None},
    "its row_id is missing": {"row_id": "\ud800"},
    "its timestamp is not": {"timestamp": "9999-12-31T23:59:60Z"},
    "its timestamp is missing": {"timestamp": 7},
    "its data is not a string": {"data": {"a": 1}},
    "its data is not JSON": {"data": "ciphertext"},
    "its data must not be nested deeper than 100": {"data": "[" * 940 + "]" * 940},
}

UNREADABLE_WITH_A_KEY: dict[str, dict[str, object]] = {
    "altered or moved": {"row_id": "moved"},
    "altered": {"timestamp": "2026-01-31T12:00:01Z"},
    "not encrypted": {"data": "ciphertext"},
    "not in a format of this SDK": {"data": '{"text": "in the clear"}'},
    "has no ciphertext": {"op": "DELETE", "data": None},
    "its op is unknown": {"op": "UPSERT"},
}

ALL_WAYS: dict[str, Callable[..., PulledChanges]] = {
    "pull": lambda client, **options: client.pull(**options),
    "apply": lambda client, **options: client.pull(apply=lambda changes: None, **options),
    "filtered": lambda client, **options: client.pull_filtered(PullFilter(), **options),
}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged, but for what nobody must act on."""
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


class TestUnreadable:
    @pytest.mark.parametrize("way", ALL_WAYS)
    @pytest.mark.parametrize("reason", UNREADABLE_IN_THE_CLEAR)
    def test_an_unreadable_change_is_left_out_and_its_neighbours_are_returned(
        self, clients: ScriptedClients, reason: str, way: str
    ) -> None:
        wrong = pulled(2) | UNREADABLE_IN_THE_CLEAR[reason]
        client = clients.open(pull=[page(pulled(1), wrong, pulled(3), cursor=3)])
        told: list[UnreadableChange] = []
        result = ALL_WAYS[way](client, on_unreadable=told.append)
        assert (result.unreadable, result.locked, [change.seq for change in told]) == (1, 0, [2])
        assert reason in told[0].reason
        assert told[0].device_id == "d2"
        if way == "apply":
            assert cursor(client) == 3
        else:
            assert seqs(result) == [1, 3]
            assert cursor(client) == 0

    @pytest.mark.parametrize("reason", UNREADABLE_WITH_A_KEY)
    def test_the_same_holds_for_a_client_that_encrypts(
        self, clients: ScriptedClients, reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        wrong = sealed(2) | UNREADABLE_WITH_A_KEY[reason]
        answer = page(sealed(1), wrong, sealed(3), cursor=3)
        client = unlocked(clients, pull=[answer] * 3)
        for _ in range(2):
            result = client.pull()
            assert ([change.data for change in result], result.unreadable, result.locked) == ([1, 3], 1, 0)
        client.pull_filtered(PullFilter())
        assert len(warnings(caplog)) == 1, "it is logged once"
        assert "changes that cannot be read were left out: 1. The first is 2 (table 'tasks', row" in caplog.text
        assert reason in caplog.text
        result.confirm()
        assert cursor(client) == 3

    def test_a_page_of_unreadable_changes_alone_is_confirmed_automatically(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1, op="UPSERT"), cursor=1)])
        assert len(client.pull()) == 0
        assert cursor(client) == 1

    def test_table_and_row_are_empty_if_the_change_has_none(self, clients: ScriptedClients) -> None:
        told: list[UnreadableChange] = []
        clients.open(pull=[page(pulled(1, table=None, row_id=5), cursor=1)]).pull(on_unreadable=told.append)
        assert told == [UnreadableChange(1, "", "", "d2", "its table is missing or not a string")]

    def test_if_on_unreadable_raises_the_page_comes_again(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1, op="UPSERT"), cursor=1)] * 2)

        def fail(change: UnreadableChange) -> None:
            raise OSError("the disk is full")

        for call in (lambda: client.pull(on_unreadable=fail), lambda: client.pull(print, on_unreadable=fail)):
            with pytest.raises(OSError, match="full"):
                call()
            assert cursor(client) == 0

    def test_a_change_that_an_operator_blanked_is_left_out_silently(
        self, clients: ScriptedClients, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = page(sealed(1, data=None), sealed(2, data=None, op="UPDATE"), sealed(3), cursor=3)
        result = unlocked(clients, pull=[answer]).pull()
        assert (seqs(result), result.unreadable, result.locked, warnings(caplog)) == ([3], 0, 0, [])
        in_the_clear = clients.open(pull=[page(pulled(1, data=None), pulled(2, data=None, op="DELETE"), cursor=2)])
        assert [(change.op, change.data) for change in in_the_clear.pull()] == [("DELETE", None)]

    @pytest.mark.parametrize("text", TIMESTAMPS["accepted"])
    def test_every_timestamp_that_the_server_accepts_can_be_read(self, clients: ScriptedClients, text: str) -> None:
        (change,) = clients.open(pull=[page(pulled(1, timestamp=text), cursor=1)]).pull()
        assert change.timestamp == ZERO + timedelta(microseconds=TIMESTAMPS["accepted"][text] // 1000)
        assert change.timestamp.astimezone(UTC).utcoffset() == timedelta(0)

    def test_no_other_timestamp_stops_a_pull(self, clients: ScriptedClients) -> None:
        changes = [pulled(seq, timestamp=text) for seq, text in enumerate(TIMESTAMPS["refused"], 1)]
        client = clients.open(pull=[page(*changes, cursor=len(changes))])
        assert (len(client.pull()), cursor(client)) == (0, len(changes))

    def test_a_change_that_other_devices_could_not_read_is_not_sent(self, clients: ScriptedClients) -> None:
        nested: list[Any] = []
        for _ in range(101):
            nested = [nested]
        with pytest.raises(ValueError, match=r"changes\[1\].data must not be nested deeper than 100 levels"):
            clients.open().push([action(1), action(2, data=nested)])
        for moment in (datetime.max.replace(tzinfo=UTC) - timedelta(0), datetime.min.replace(tzinfo=UTC)):
            action(timestamp=moment)
        for text in ("9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01"):
            with pytest.raises(ValueError, match="timestamp must be within the years 1 to 9999 in UTC"):
                action(timestamp=datetime.fromisoformat(text))
            with pytest.raises(ValueError, match="since must be within"):
                PullFilter().since(datetime.fromisoformat(text))


class TestStrict:
    def test_a_strict_client_raises_with_the_fields_and_the_cursor_stays(self, clients: ScriptedClients) -> None:
        answer = page(pulled(1), pulled(2, op="UPSERT"), cursor=2)
        client = clients.open(strict=True, pull=[answer] * 3)
        for way in ALL_WAYS.values():
            with pytest.raises(
                DecryptionFailed, match=r"change 2 .*'tasks', row '2', device 'd2'.*op is unknown"
            ) as raised:
                way(client)
            error = raised.value
            found = UnreadableChange(error.seq, error.table, error.row_id, error.device_id, error.reason)
            assert found == UnreadableChange(2, "tasks", "2", "d2", "its op is unknown")
        assert cursor(client) == 0

    def test_a_locked_or_blanked_change_raises_nothing(self, clients: ScriptedClients) -> None:
        answer = page(sealed(1, FOREIGN), sealed(2, data=None), cursor=2)
        client = unlocked(clients, strict=True, pull=[answer], keys=[envelope()])
        assert client.pull().locked == 1


class TestRetrying:
    def test_retry_unreadable_goes_back_to_the_lowest_change_also_in_another_process(
        self, clients: ScriptedClients
    ) -> None:
        client = clients.open(
            pull=[
                page(pulled(3), pulled(4, op="A"), pulled(6), cursor=6, more=True),
                page(pulled(8, op="B"), cursor=8),
            ]
        )
        assert not client.retry_unreadable()
        assert client.pull(lambda changes: None).unreadable == 2
        updated = clients.open(pull=[page(pulled(4), pulled(6), pulled(8), cursor=8)])
        assert updated.retry_unreadable()
        assert cursor(updated) == 3
        assert seqs(updated.pull()) == [4, 6, 8]
        assert not updated.retry_unreadable(), "until a change cannot be read again"

    def test_a_filtered_pull_remembers_no_unreadable_change(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1, op="A"), cursor=1)])
        assert client.pull_filtered(PullFilter()).unreadable == 1
        assert not client.retry_unreadable()

    def test_an_unconfirmed_result_remembers_no_unreadable_change(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(pulled(1, op="A"), pulled(2), cursor=2)])
        result = client.pull()
        assert not client.retry_unreadable()
        result.confirm()
        assert client.retry_unreadable()

    def test_unreadable_changes_of_a_replaced_log_are_forgotten(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[page(pulled(5, op="A"), cursor=5), Refuse(409), page(pulled(1), cursor=1, epoch="e2")]
        )
        client.pull()
        client.pull().confirm()
        assert not client.retry_unreadable()
        assert client._state.position()[0] == Position("e2", 1)


class TestLocked:
    LOG = page(sealed(1), sealed(2, FOREIGN), sealed(3), sealed(4, FOREIGN), cursor=4)

    AFTER_THE_FIRST = page(sealed(2, FOREIGN), sealed(3), sealed(4, FOREIGN), cursor=4)

    @pytest.mark.parametrize("way", ALL_WAYS)
    def test_a_locked_change_is_left_out_and_counted(
        self, clients: ScriptedClients, way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = unlocked(clients, pull=[self.LOG], keys=[envelope()])
        told: list[UnreadableChange] = []
        result = ALL_WAYS[way](client, on_unreadable=told.append)
        assert (result.locked, result.unreadable, told, warnings(caplog)) == (2, 0, [], [])
        assert seqs(result) == ([] if way == "apply" else [1, 3])

    def test_the_cursor_goes_back_only_with_another_key(self, clients: ScriptedClients) -> None:
        client = unlocked(clients, pull=[self.LOG], keys=[envelope()])
        client.pull().confirm()
        for _ in range(2):  # the same key in another process is no news, however often
            client = unlocked(clients, pull=[page(cursor=4)])
            client.pull()
            assert clients.server.bodies(PULL)[0]["cursor"] == 4
        client = unlocked(clients, FOREIGN, version=2, pull=[page(sealed(2, FOREIGN), sealed(4, FOREIGN), cursor=4)])
        result = client.pull()
        assert clients.server.bodies(PULL)[0]["cursor"] == 1
        assert (seqs(result), result.locked) == ([2, 4], 0)

    def test_another_wrong_key_reads_a_locked_change_again_only_once(self, clients: ScriptedClients) -> None:
        """A server may name any key in a forged change, and must not make clients read the log repeatedly."""
        forged = page(sealed(1, new_cipher()), cursor=1)
        unlocked(clients, pull=[forged], keys=[envelope()]).pull()
        client = unlocked(clients, FOREIGN, version=2, pull=[forged, page(cursor=1)], keys=[envelope(FOREIGN, 2)])
        for asked_from in 0, 1:
            client.pull()
            assert clients.server.bodies(PULL)[-1]["cursor"] == asked_from

    def test_a_key_that_is_added_while_a_result_is_unconfirmed_loses_nothing(self, clients: ScriptedClients) -> None:
        newer = [envelope(), envelope(FOREIGN, 2), envelope(FOREIGN, 2)]
        client = unlocked(clients, pull=[self.LOG, self.AFTER_THE_FIRST], keys=newer)
        result = client.pull()
        client.setup_encryption("passphrase")
        result.confirm()
        assert seqs(client.pull()) == [2, 3, 4]
        assert clients.server.bodies(PULL)[-1]["cursor"] == 1

    def test_the_server_is_asked_once_in_a_pull_whether_its_envelope_is_newer(self, clients: ScriptedClients) -> None:
        pages = [page(sealed(seq, FOREIGN), cursor=seq, more=seq < 3) for seq in (1, 2, 3)]
        client = unlocked(clients, pull=pages, keys=[envelope()])
        assert client.pull().locked == 3
        assert clients.server.over()

    def test_with_a_newer_envelope_a_locked_change_raises_no_master_key(self, clients: ScriptedClients) -> None:
        client = unlocked(clients, pull=[self.LOG] * 4, keys=[envelope(FOREIGN, 2)] * 3)
        for way in ALL_WAYS.values():
            with pytest.raises(NoMasterKey, match="the passphrase was changed"):
                way(client)
        assert cursor(client) == 0
        clients.server.steps[KEYS] = [envelope(FOREIGN, 2), envelope(FOREIGN, 2)]
        client.setup_encryption("passphrase")
        assert seqs(client.pull()) == [1, 2, 3, 4]

    def test_a_missing_envelope_is_not_a_newer_one(self, clients: ScriptedClients) -> None:
        client = unlocked(clients, pull=[self.LOG], keys=[Refuse(404)])
        assert client.pull().locked == 2

    def test_without_a_key_a_pull_raises_and_the_cursor_stays(self, clients: ScriptedClients) -> None:
        client = clients.open(encrypt=True, pull=[self.LOG] * 3)
        for way in ALL_WAYS.values():
            with pytest.raises(NoMasterKey, match="set up encryption in this process first"):
                way(client)
        assert cursor(client) == 0

    def test_an_app_that_starts_to_encrypt_reads_the_locked_changes(self, clients: ScriptedClients) -> None:
        in_the_clear = clients.open(pull=[page(pulled(1), sealed(2), cursor=2), page(cursor=2)])
        result = in_the_clear.pull()
        result.confirm()
        assert (seqs(result), result.locked) == ([1], 1)
        in_the_clear.pull()
        assert clients.server.bodies(PULL)[-1]["cursor"] == 2
        assert seqs(unlocked(clients, pull=[page(sealed(2), cursor=2)]).pull()) == [2]

    def test_two_processes_with_different_keys_lose_nothing(self, clients: ScriptedClients) -> None:
        """A process without the new passphrase moves the shared cursor; the other one still goes back."""
        old = unlocked(clients, pull=[self.LOG], keys=[envelope()])
        old.pull().confirm()
        new = unlocked(clients, FOREIGN, version=2, pull=[self.AFTER_THE_FIRST], keys=[envelope(FOREIGN, 2)])
        new._state.unlock(FOREIGN.key_ids)
        old._state.advance(1, Position("e1", 4), None, LeftOut(locked=2, key_ids=OWN.key_ids))
        assert seqs(new.pull()) == [2, 3, 4]


class TestStalls:
    def test_alternating_epochs_end_the_pull(self, clients: ScriptedClients) -> None:
        """Two servers at one address, one of them restored from a backup: each refuses the other's cursor."""
        flapping = [page(pulled(1), cursor=1, more=True), Refuse(409)] * 50
        client = clients.open(pull=flapping)
        for way in ALL_WAYS.values():
            asked = len(clients.server.asked)
            with pytest.raises(ProtocolError, match=r"replaced twice.*use the same database"):
                way(client)
            assert len(clients.server.asked) - asked <= 4

    def test_an_answer_from_another_log_than_requested_restarts_the_pull(self, clients: ScriptedClients) -> None:
        client = clients.open(
            pull=[
                page(pulled(7), cursor=7),
                page(cursor=2, epoch="e2"),
                page(pulled(1), cursor=2, epoch="e2"),
            ]
        )
        client.pull().confirm()
        result = client.pull()
        assert (seqs(result), result.restarted) == ([1], True)
        assert clients.server.bodies(PULL)[-1]["cursor"] == 0

    def test_has_more_without_changes_is_refused_except_for_a_filtered_pull(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(cursor=1, more=True), page(cursor=1, more=True), page(cursor=2)])
        with pytest.raises(ProtocolError, match="announces more changes but sends none"):
            client.pull()
        assert len(client.pull_filtered(PullFilter().table("tasks"))) == 0

    @pytest.mark.parametrize("way", ALL_WAYS)
    def test_a_cursor_that_does_not_advance_is_refused(self, clients: ScriptedClients, way: str) -> None:
        client = clients.open(pull=[page(pulled(1), cursor=1, more=True), page(pulled(2), cursor=1, more=True)])
        with pytest.raises(ProtocolError):
            ALL_WAYS[way](client)

    def test_a_log_of_many_pages_is_pulled_completely(self, clients: ScriptedClients) -> None:
        client = clients.open(pull=[page(cursor=seq, more=seq < 1000) for seq in range(1, 1001)])
        assert client.pull_filtered(PullFilter().table("tasks")).position.cursor == 1000
