"""The keychain of the operating system: no passphrase is needed, no key is lost, and every failure is told."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null

from synckit_notify.client.errors import KeychainError, NetworkError, NoMasterKey
from synckit_notify.client.models import PullFilter

from ..support.keychains import FOREIGN, LOCKED, UNSTARTED, FileKeychain, TalkativeKeychain
from ..support.own_devices import Devices
from ..support.scripted_clients import action
from ..support.server import ROOT

Use = Callable[[KeyringBackend], None]


@pytest.fixture
def devices(tmp_path: Path, quick_passphrases: None) -> Iterator[Devices]:
    devices = Devices(tmp_path)
    yield devices
    devices.close()


@pytest.fixture
def use() -> Iterator[Use]:
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.fixture
def keychain(tmp_path: Path, use: Use) -> FileKeychain:
    keychain = FileKeychain(tmp_path / "keychain")
    use(keychain)
    return keychain


def log(devices: Devices, passphrase: str) -> list[object]:
    """Return the data of the whole log, as a new device reads it."""
    device = devices.open("a new device")
    device.setup_encryption(passphrase)
    return [change.data for change in device.pull_filtered(PullFilter())]


class TestRemembering:
    def test_the_next_process_needs_no_passphrase(self, devices: Devices, keychain: FileKeychain) -> None:
        assert devices.open("laptop").setup_encryption("first", remember=True).created
        again = devices.open("laptop")
        assert not again.setup_encryption().created
        again.push([action()])
        assert log(devices, "first") == [1]

    def test_also_without_a_network(self, devices: Devices, keychain: FileKeychain) -> None:
        devices.open("laptop").setup_encryption("first", remember=True)
        laptop = devices.offline("laptop")
        laptop.setup_encryption()
        with pytest.raises(NetworkError):
            laptop.push([action()])
        assert laptop.pending_changes == 1

    def test_without_an_entry_a_passphrase_is_asked_for(self, devices: Devices, keychain: FileKeychain) -> None:
        laptop = devices.open("laptop")
        for _ in range(2):
            with pytest.raises(
                NoMasterKey, match="the keychain has no master key of this account: pass the passphrase"
            ):
                laptop.setup_encryption()
            laptop.setup_encryption("first")  # without remember=True
        assert keychain.entries == {}

    def test_an_entry_is_named_by_server_app_and_user(self, devices: Devices, keychain: FileKeychain) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        account = laptop.account
        assert account is not None
        name = ["synckit-notify http://server", json.dumps([account.app_id, account.user_id])]
        assert list(keychain.entries) == [json.dumps(name)]
        with pytest.raises(NoMasterKey):
            devices.open("elsewhere", url="http://elsewhere").setup_encryption()

    def test_a_server_that_moved_takes_its_entry_along(self, devices: Devices, keychain: FileKeychain) -> None:
        devices.open("laptop").setup_encryption("first", remember=True)
        moved = devices.open("laptop", log_in=False, url="http://latter/", moved_from="http://server/api/sync/")
        moved.setup_encryption()
        assert [json.loads(name)[0] for name in keychain.entries] == ["synckit-notify http://latter"]
        devices.open("laptop", log_in=False, url="http://latter").setup_encryption()

    def test_a_log_out_removes_it(self, devices: Devices, keychain: FileKeychain) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        laptop.logout()
        assert keychain.entries == {}
        with pytest.raises(NoMasterKey):
            laptop.push([action()])
        with pytest.raises(NoMasterKey):
            laptop.setup_encryption()

    def test_a_rotation_removes_it(self, devices: Devices, keychain: FileKeychain) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        laptop.rotate_master_key("first", "second")
        assert keychain.entries == {}

    def test_an_entry_from_before_a_rotation_elsewhere_can_only_queue(
        self, devices: Devices, keychain: FileKeychain
    ) -> None:
        devices.open("laptop").setup_encryption("first", remember=True)
        keyring.set_keyring(null.Keyring())  # the phone is another machine
        phone = devices.open("phone")
        phone.setup_encryption("first")
        phone.rotate_master_key("first", "second")
        keyring.set_keyring(keychain)
        laptop = devices.open("laptop")
        with pytest.raises(NoMasterKey, match="the passphrase was changed"):
            laptop.setup_encryption()
        laptop.push([action()])
        laptop.setup_encryption("second", remember=True)
        again = devices.open("laptop")
        again.setup_encryption()
        assert again._keys.key_ids == phone._keys.key_ids | again._keys.key_ids
        assert log(devices, "second") == [1]

    def test_a_new_passphrase_elsewhere_does_not_matter(self, devices: Devices, keychain: FileKeychain) -> None:
        devices.open("laptop").setup_encryption("first", remember=True)
        phone = devices.open("phone")
        phone.setup_encryption("first")
        phone.change_passphrase("first", "second")
        devices.open("laptop").setup_encryption()

    def test_with_a_key_in_the_keychain_no_new_one_is_made(self, devices: Devices, keychain: FileKeychain) -> None:
        """The state file and the server's envelope are lost, and the passphrase opens nothing any more."""
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        laptop.push([action()])
        devices.execute("DELETE FROM envelopes")
        reinstalled = devices.open("reinstalled")
        reinstalled.setup_encryption()
        assert [change.data for change in reinstalled.pull()] == [1]
        assert not devices.open("again").setup_encryption("second", remember=True).created
        assert log(devices, "second") == [1]

    def test_another_process_reads_it(self, devices: Devices, keychain: FileKeychain, tmp_path: Path) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        laptop.push([action()])
        code = f"""
from synckit_notify.client import SyncKitClient
client = SyncKitClient("http://server", api_key={devices.account["api_key"]!r}, state={str(tmp_path / "laptop")!r})
client.setup_encryption()
print(*client._keys.key_ids)
"""
        env = os.environ | {
            "PYTHON_KEYRING_BACKEND": "tests.support.keychains.FileKeychain",
            "KEYCHAIN": str(tmp_path / "keychain"),
            "HTTP_PROXY": "http://127.0.0.1:9",  # nothing listens there: the process has no network
        }
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == list(laptop._keys.key_ids), done.stderr


FAILURES = {
    "the keychain is locked: unlock it and try again": LOCKED,
    "the keychain is locked": UNSTARTED,
    r"the keychain cannot be used \(ConnectionError\): org.freedesktop": FOREIGN,
    "this machine has no keychain that the package keyring can use: .* without remember=True": fail.Keyring(),
}


class TestFailing:
    @pytest.mark.parametrize("message", FAILURES)
    def test_a_keychain_that_cannot_be_used_is_told(self, devices: Devices, use: Use, message: str) -> None:
        laptop = devices.open("laptop")
        use(FAILURES[message])
        for call in (laptop.setup_encryption, lambda: laptop.setup_encryption("first", remember=True)):
            with pytest.raises(KeychainError, match=message):
                call()
        laptop.setup_encryption("first")

    def test_the_key_is_there_even_if_it_cannot_be_remembered(self, devices: Devices, use: Use) -> None:
        devices.open("laptop").setup_encryption("first")
        phone = devices.open("phone")
        use(LOCKED)
        with pytest.raises(KeychainError, match="locked"):
            phone.setup_encryption("first", remember=True)
        phone.push([action()])

    def test_a_keychain_that_keeps_nothing_is_told(self, devices: Devices, use: Use) -> None:
        use(null.Keyring())
        with pytest.raises(KeychainError, match="the keychain did not keep the key"):
            devices.open("laptop").setup_encryption("first", remember=True)

    def test_a_missing_package_is_named(self, devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
        laptop = devices.open("laptop")
        monkeypatch.setitem(sys.modules, "keyring", None)
        with pytest.raises(KeychainError, match=r"pip install 'synckit-notify\[keychain\]'"):
            laptop.setup_encryption("first", remember=True)
        laptop.setup_encryption("first")
        laptop.rotate_master_key("first", "second")
        laptop.logout()

    def test_no_error_repeats_the_key(self, devices: Devices, use: Use, tmp_path: Path) -> None:
        use(TalkativeKeychain(tmp_path / "keychain"))
        with pytest.raises(KeychainError, match=r"cannot write \*\*\* to the disk"):
            devices.open("laptop").setup_encryption("first", remember=True)

    def test_an_entry_that_is_no_key_is_named(self, devices: Devices, keychain: FileKeychain) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first", remember=True)
        for wrong in "not base64", "c2hvcnQ=":
            keychain.file.write_text(json.dumps(dict.fromkeys(keychain.entries, wrong)))
            with pytest.raises(
                KeychainError, match="'synckit-notify http://server' of the keychain is not a key: delete it"
            ):
                laptop.setup_encryption()

    def test_a_rotation_succeeds_even_if_the_entry_cannot_be_removed(
        self, devices: Devices, use: Use, caplog: pytest.LogCaptureFixture
    ) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first")
        use(LOCKED)
        with caplog.at_level(logging.WARNING):
            laptop.rotate_master_key("first", "second")
        assert "the former master key is still in the keychain: the keychain is locked" in caplog.text

    def test_a_log_out_that_cannot_remove_the_key_says_so_and_is_complete_otherwise(
        self, devices: Devices, use: Use
    ) -> None:
        laptop = devices.open("laptop")
        laptop.setup_encryption("first")
        use(LOCKED)
        with pytest.raises(KeychainError, match="locked"):
            laptop.logout()
        assert laptop._state.tokens() is None
        with pytest.raises(NoMasterKey):
            laptop.push([action()])
