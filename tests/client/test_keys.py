"""The master key: made once, opened with or without the network, rotated, and never lost or replaced by a new one."""

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from synckit_notify.client import master_key
from synckit_notify.client.encryption import unwrap
from synckit_notify.client.errors import (
    InvalidEnvelope,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ProtocolError,
    ServerError,
    StateError,
)
from synckit_notify.client.models import PullFilter

from ..support.own_devices import Device, Devices
from ..support.scripted_clients import action
from ..support.scripted_server import KEYS

GET, PUT = ("GET", KEYS), ("PUT", KEYS)


@pytest.fixture
def devices(tmp_path: Path, quick_passphrases: None) -> Iterator[Devices]:
    devices = Devices(tmp_path)
    yield devices
    devices.close()


def log(devices: Devices, passphrase: str) -> list[object]:
    """Return the data of the whole log, as a new device reads it."""
    device = devices.open("a new device")
    device.setup_encryption(passphrase)
    found = device.pull_filtered(PullFilter())
    assert (found.unreadable, found.locked) == (0, 0)
    return [change.data for change in found]


def ids(device: Device) -> frozenset[str]:
    return device._keys.key_ids


class TestSettingUp:
    def test_the_first_device_makes_the_key_and_all_others_open_it(self, devices: Devices) -> None:
        laptop, phone = devices.open("laptop"), devices.open("phone")
        assert laptop.setup_encryption("first").created
        for device in laptop, phone, devices.open("laptop"):
            assert not device.setup_encryption("first").created
        assert ids(laptop) == ids(phone)
        assert laptop.network.asked.count(PUT) == 1

    def test_a_404_that_is_not_the_servers_makes_no_key(self, devices: Devices) -> None:
        laptop = devices.open("laptop")
        for content in (b"<h1>Not found</h1>", b'{"message": "no Route matched"}', b"[]", b""):
            laptop.network.answers[GET] = httpx2.Response(404, content=content)
            with pytest.raises(ServerError, match="404"):
                laptop.setup_encryption("first")
        assert PUT not in laptop.network.asked
        with pytest.raises(NoMasterKey):
            laptop.push([action()])

    def test_two_devices_that_set_up_at_once_make_one_key(self, devices: Devices) -> None:
        laptop, phone = devices.open("laptop"), devices.open("phone")
        phone.network.before[PUT] = lambda: laptop.setup_encryption("first")
        assert not phone.setup_encryption("first").created
        assert ids(phone) == ids(laptop)

    def test_of_two_with_different_passphrases_the_later_one_is_told(self, devices: Devices) -> None:
        laptop, phone = devices.open("laptop"), devices.open("phone")
        phone.network.before[PUT] = lambda: laptop.setup_encryption("first")
        with pytest.raises(InvalidEnvelope):
            phone.setup_encryption("second")
        with pytest.raises(NoMasterKey):
            phone.push([action()])

    def test_if_the_answer_is_lost_the_key_is_still_made_once(self, devices: Devices) -> None:
        laptop = devices.open("laptop")
        laptop.network.lost_answers = [PUT]
        assert laptop.setup_encryption("first").created
        assert not devices.open("phone").setup_encryption("first").created

    def test_a_wrong_or_empty_passphrase_changes_nothing(self, devices: Devices) -> None:
        laptop = devices.open("laptop")
        with pytest.raises(InvalidEnvelope, match="must not be empty"):
            laptop.setup_encryption("")
        laptop.setup_encryption("first")
        before = ids(laptop)
        for passphrase in "second", "":
            with pytest.raises(InvalidEnvelope):
                laptop.setup_encryption(passphrase)
        assert ids(laptop) == before
        assert laptop.network.asked.count(PUT) == 1

    def test_the_file_contains_neither_the_key_nor_the_passphrase(self, devices: Devices) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("a passphrase to find")
        laptop.rotate_master_key("a passphrase to find", "another to find")
        laptop.push([action()])
        laptop.close()
        content = (devices.folder / "laptop").read_bytes()
        keys = laptop._keys.codec()._keys.values()  # type: ignore[union-attr]
        assert len(keys) == 2
        for key in keys:
            assert not any(form in content for form in (key, key.hex().encode(), base64.b64encode(key)))
        assert b"to find" not in content


class TestAServerThatLostTheEnvelope:
    @pytest.fixture
    def laptop(self, devices: Devices) -> Device:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first")
        laptop.push([action()])
        self.before = ids(laptop)
        devices.execute("DELETE FROM envelopes")
        return laptop

    def test_the_envelope_of_the_state_file_is_put_back(self, devices: Devices, laptop: Device) -> None:
        again = devices.open("laptop")
        assert not again.setup_encryption("first").created
        assert ids(again) == self.before
        assert log(devices, "first") == [1]

    def test_also_with_a_wrong_passphrase(self, devices: Devices, laptop: Device) -> None:
        with pytest.raises(InvalidEnvelope):
            laptop.setup_encryption("wrong")
        assert not devices.open("phone").setup_encryption("first").created

    def test_also_before_a_rotation(self, devices: Devices, laptop: Device) -> None:
        laptop.rotate_master_key("first", "second")
        assert self.before < ids(laptop)

    def test_the_key_of_a_process_is_kept_if_its_state_lost_the_envelope(
        self, devices: Devices, laptop: Device
    ) -> None:
        laptop._state._connection.execute("DELETE FROM envelope")
        assert not laptop.setup_encryption("first").created
        assert ids(laptop) == self.before

    def test_a_new_device_may_make_another_key_and_nothing_is_lost(self, devices: Devices, laptop: Device) -> None:
        """It cannot tell a new account from one whose server lost its envelope."""
        phone = devices.open("phone")
        laptop.network.before[PUT] = lambda: phone.setup_encryption("phone's")
        with pytest.raises(NoMasterKey, match="the passphrase was changed"):
            laptop.setup_encryption("first")
        assert ids(laptop) == self.before
        phone.push([action("of the phone")])
        laptop.setup_encryption("phone's")
        assert ids(laptop) == self.before | ids(phone)
        laptop.push([action("new")])
        assert log(devices, "phone's") == [1, "of the phone", "new"]
        found = phone.pull()
        assert ([change.data for change in found], found.locked) == ([1, "new"], 0)

    def test_an_older_envelope_is_not_taken_with_its_former_passphrase(self, devices: Devices, laptop: Device) -> None:
        laptop.setup_encryption("first")
        ((backup,),) = devices.execute("SELECT envelope FROM envelopes")
        laptop.rotate_master_key("first", "second")
        devices.execute("UPDATE envelopes SET envelope = ?", backup)
        with pytest.raises(InvalidEnvelope):
            laptop.setup_encryption("first")
        assert not devices.open("phone").setup_encryption("second").created

    def test_a_network_that_fails_while_it_is_put_back_counts_as_no_network(
        self, devices: Devices, laptop: Device
    ) -> None:
        again = devices.open("laptop")
        again.network.before[PUT] = lambda: setattr(again.network, "is_offline", True)
        again.setup_encryption("first")
        assert ids(again) == self.before

    def test_an_envelope_from_before_a_rotation_is_replaced_by_the_newer_one(self, devices: Devices) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first")
        ((backup, version),) = devices.execute("SELECT envelope, version FROM envelopes")
        laptop.rotate_master_key("first", "second")
        laptop.push([action()])
        for call in (
            lambda: laptop.setup_encryption("second"),
            lambda: devices.open("laptop").setup_encryption("second"),
            lambda: laptop.change_passphrase("second", "second"),
        ):
            devices.execute("UPDATE envelopes SET envelope = ?, version = ?", backup, version)
            call()
            assert log(devices, "second") == [1]


class TestWithoutANetwork:
    @pytest.fixture(autouse=True)
    def set_up(self, devices: Devices) -> None:
        with devices.open("laptop") as laptop:
            laptop.setup_encryption("first")

    def test_a_process_unlocks_and_queues_and_sends_later(self, devices: Devices) -> None:
        laptop = devices.offline("laptop")
        assert not laptop.setup_encryption("first").created
        assert laptop.network.asked == [GET], "one attempt"
        with pytest.raises(NetworkError):
            laptop.push([action()])
        assert laptop.pending_changes == 1
        laptop.network.is_offline = False
        laptop.push([])
        assert log(devices, "first") == [1]

    def test_a_wrong_passphrase_is_told(self, devices: Devices) -> None:
        with pytest.raises(InvalidEnvelope):
            devices.offline("laptop").setup_encryption("wrong")

    def test_a_state_that_was_never_set_up_needs_the_network(self, devices: Devices) -> None:
        devices.open("phone")
        with pytest.raises(NetworkError):
            devices.offline("phone").setup_encryption("first")

    @pytest.mark.parametrize(
        "answer",
        [
            httpx2.Response(503, json={"error": "the database is down"}),
            httpx2.Response(404, html="<h1>Not found</h1>"),
            httpx2.Response(200, html="<h1>Please log in to the hotel's network</h1>"),
        ],
    )
    def test_a_server_that_is_down_counts_as_no_network(self, devices: Devices, answer: httpx2.Response) -> None:
        laptop = devices.open("laptop", log_in=False)
        laptop.network.answers[GET] = answer
        laptop.setup_encryption("first")
        laptop.push([action()])
        other = devices.open("phone")
        other.network.answers[GET] = answer
        with pytest.raises((ServerError, ProtocolError)):
            other.setup_encryption("first")

    def test_a_session_that_ended_does_not_keep_the_key_locked(self, devices: Devices) -> None:
        laptop = devices.open("laptop", log_in=False)
        laptop.logout()
        laptop.setup_encryption("first")
        with pytest.raises(NotAuthenticated):
            laptop.push([action()])
        assert laptop.pending_changes == 1

    def test_a_server_that_does_not_answer_is_waited_for_only_briefly(
        self, devices: Devices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(master_key, "CHECK_SECONDS", 0.05)
        laptop, answer = devices.open("laptop", log_in=False), threading.Event()

        def hang() -> None:
            answer.wait(30)
            raise httpx2.ReadTimeout("the connection was cut")  # the server is closed by now

        laptop.network.before[GET] = hang
        try:
            laptop.setup_encryption("first")
        finally:
            answer.set()

    def test_a_damaged_state_is_told(self, devices: Devices) -> None:
        laptop = devices.open("laptop", log_in=False)
        laptop._state._connection.execute("UPDATE envelope SET envelope = x'ff00'")
        with pytest.raises(StateError, match="damaged"):
            laptop.setup_encryption("first")


class TestRotating:
    @pytest.fixture
    def laptop(self, devices: Devices) -> Device:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first")
        laptop.push([action("old")])
        return laptop

    @pytest.fixture
    def phone(self, devices: Devices, laptop: Device) -> Device:
        phone = devices.open("phone")
        phone.setup_encryption("first")
        phone.pull().confirm()
        return phone

    def test_new_changes_are_encrypted_with_a_new_key_and_old_ones_still_open(
        self, devices: Devices, laptop: Device
    ) -> None:
        thief = laptop._keys.codec()
        laptop.rotate_master_key("first", "second")
        laptop.push([action("new")])
        with pytest.raises(InvalidEnvelope):
            devices.open("tablet").setup_encryption("first")
        assert log(devices, "second") == ["old", "new"]
        ((stored,),) = devices.execute("SELECT envelope FROM envelopes")
        (_, newest) = devices.execute("SELECT data FROM changes ORDER BY seq")
        account = laptop.account
        assert account is not None
        with pytest.raises(InvalidEnvelope):
            unwrap(stored, account.app_id, account.user_id, "first")
        assert base64.b64decode(newest[0])[1:9].hex() not in thief.key_ids

    def test_other_devices_are_told_and_keep_queueing_with_the_key_they_have(
        self, devices: Devices, laptop: Device, phone: Device
    ) -> None:
        laptop.rotate_master_key("first", "second")
        phone.push([action("of the phone")])
        laptop.push([action("new")])
        position = phone._state.position()
        for pull in (phone.pull, lambda: phone.pull(apply=print), lambda: phone.pull_filtered(PullFilter())):
            with pytest.raises(NoMasterKey, match="the passphrase was changed"):
                pull()
        assert phone._state.position() == position
        for device in phone, devices.open("phone"):
            with pytest.raises(NoMasterKey, match="the passphrase was changed"):
                device.setup_encryption("first")
            device.push([action("queued")])
            for call in device.change_passphrase, device.rotate_master_key:
                with pytest.raises(NoMasterKey, match="the passphrase was changed"):
                    call("first", "third")
            with pytest.raises(InvalidEnvelope):
                device.setup_encryption("neither")
        phone.setup_encryption("second")
        assert [change.data for change in phone.pull()] == ["new"]
        assert log(devices, "second") == ["old", "of the phone", "new", "queued", "queued"]
        assert [change.data for change in laptop.pull()] == ["of the phone", "queued", "queued"]

    def test_a_device_that_was_offline_meanwhile_loses_nothing(
        self, devices: Devices, laptop: Device, phone: Device
    ) -> None:
        phone.close()
        laptop.rotate_master_key("first", "second")
        laptop.push([action("new")])
        again = devices.offline("phone")
        again.setup_encryption("first")
        with pytest.raises(NetworkError):
            again.push([action("offline")])
        again.network.is_offline = False
        again.push([action("online")])
        with pytest.raises(NoMasterKey, match="the passphrase was changed"):
            again.pull()
        again.setup_encryption("second")
        assert [change.data for change in again.pull()] == ["new"]
        assert log(devices, "second") == ["old", "new", "offline", "online"]

    def test_two_that_rotate_at_once_make_one_key(self, devices: Devices, laptop: Device, phone: Device) -> None:
        phone.network.before[PUT] = lambda: laptop.rotate_master_key("first", "laptop's")
        with pytest.raises(NoMasterKey, match="the passphrase was changed on another device at the same time"):
            phone.rotate_master_key("first", "phone's")
        phone.push([action("queued")])
        phone.setup_encryption("laptop's")
        assert ids(phone) == ids(laptop)
        assert len(ids(phone)) == 2
        assert log(devices, "laptop's") == ["old", "queued"]

    def test_if_both_chose_the_same_passphrase_the_later_one_takes_the_key_of_the_other(
        self, laptop: Device, phone: Device
    ) -> None:
        phone.network.before[PUT] = lambda: laptop.rotate_master_key("first", "second")
        phone.rotate_master_key("first", "second")
        assert ids(phone) == ids(laptop)
        assert len(ids(phone)) == 2

    @pytest.mark.parametrize("change", ["rotate_master_key", "change_passphrase"])
    def test_a_call_whose_answer_was_lost_can_be_repeated(self, laptop: Device, change: str, devices: Devices) -> None:
        call: Callable[[str, str], None] = getattr(laptop, change)

        def lose_the_answer_and_the_network() -> None:
            laptop.network.lost_answers = [PUT]
            laptop.network.before[PUT] = lambda: setattr(laptop.network, "is_offline", True)

        laptop.network.before[PUT] = lose_the_answer_and_the_network
        with pytest.raises(NetworkError):
            call("first", "second")
        laptop.network.is_offline = False
        call("first", "second")
        tablet = devices.open("tablet")
        tablet.setup_encryption("second")
        assert ids(tablet) == ids(laptop)
        assert len(ids(laptop)) == (2 if change == "rotate_master_key" else 1)

    def test_the_newest_32_older_keys_are_kept_and_the_envelope_stays_small(
        self, devices: Devices, laptop: Device
    ) -> None:
        for number in range(34):
            laptop.push([action(number)])
            laptop.rotate_master_key("first", "first")
        assert len(ids(laptop)) == 33
        ((envelope, version),) = devices.execute("SELECT envelope, version FROM envelopes")
        assert (len(envelope) < 2048, version) == (True, 35)
        tablet = devices.open("tablet")
        tablet.setup_encryption("first")
        found = tablet.pull()
        assert ([change.data for change in found], found.locked) == (list(range(2, 34)), 3)

    def test_an_account_without_a_key_has_none_to_rotate(self, devices: Devices) -> None:
        for call in (devices.open("laptop").rotate_master_key, devices.open("laptop").change_passphrase):
            with pytest.raises(NoMasterKey, match="no master key yet"):
                call("first", "second")

    def test_a_new_passphrase_alone_does_not_disturb_a_device_that_has_the_key(
        self, devices: Devices, laptop: Device, phone: Device
    ) -> None:
        laptop.change_passphrase("first", "second")
        other_account = devices.open("clear", encrypt=False)
        other_account.push([action("no ciphertext")])
        laptop.push([action("new")])
        result = phone.pull()
        assert ([change.data for change in result], result.locked) == (["new"], 0)
        with pytest.raises(NoMasterKey, match="the passphrase was changed"):
            phone.setup_encryption("first")
        phone.setup_encryption("second")
        assert ids(phone) == ids(laptop)
