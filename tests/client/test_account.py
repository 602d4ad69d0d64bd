"""The account: its devices, its password, the log-out, and a server that moves to another URL."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from synckit_notify.backend import payloads
from synckit_notify.client import StreamState, SyncKitClient
from synckit_notify.client.errors import NetworkError, NotAuthenticated, ProtocolError, ServerError, StateError

from ..support.own_devices import Device, Devices
from ..support.scripted_clients import action
from ..support.scripted_server import DEVICES
from ..support.service import EMAIL, PASSWORD, Service, StreamRecorder
from ..support.wait import until

LOGOUT, CHANGE_PASSWORD = ("POST", "/api/sync/logout"), ("POST", "/api/sync/password")


@pytest.fixture
def devices(tmp_path: Path, quick_passphrases: None) -> Iterator[Devices]:
    devices = Devices(tmp_path)
    yield devices
    devices.close()


@pytest.fixture
def laptop(devices: Devices) -> Device:
    return devices.open("laptop", encrypt=False)


def test_a_first_start_that_ended_before_its_device_was_registered_is_repeated(devices: Devices) -> None:
    first = devices.open("tablet", log_in=False)
    first.authenticate(devices.account["email"], devices.account["password"])
    first.close()
    second = devices.offline("tablet")
    assert (second.account is None, second.device) == (False, None)
    second.network.is_offline = False
    registered = second.register_device("tablet", "android")
    second.close()
    assert devices.offline("tablet").device == registered


def test_the_account_is_known_without_asking_anybody(devices: Devices, laptop: Device) -> None:
    fresh = devices.open("fresh", log_in=False)
    assert fresh.account is None
    account = laptop.account
    assert account is not None
    assert account == laptop.authenticate(devices.account["email"], devices.account["password"])
    again = devices.offline("laptop")
    assert again.account == account
    again.logout()
    assert again.account == account
    assert fresh.network.asked == []


class TestDevices:
    def test_all_pages_are_listed(self, devices: Devices, laptop: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(payloads.DevicesQuery.fields["limit"], "default", 2)
        for name in "phone", "tablet", "watch", "car":
            devices.open(name, encrypt=False)
        found = laptop.devices()
        assert sorted(device.name for device in found) == ["car", "laptop", "phone", "tablet", "watch"]
        assert {device.platform for device in found} == {"linux"}
        assert laptop._state.device_id() in [device.id for device in found]
        assert laptop.network.asked.count(("GET", DEVICES)) == 3

    def test_last_seen_is_read_if_the_server_tells_it(self, laptop: Device) -> None:
        listed = {"id": "d1", "device_name": "Phone", "created_at": "2026-01-31T12:00:00Z", "platform": "ios"}
        for seen in "2026-02-01T12:00:00Z", None:
            body = {"devices": [listed | {"last_seen_at": seen}]}
            laptop.network.answers["GET", DEVICES] = httpx2.Response(200, json=body)
            (device,) = laptop.devices()
            assert (device.last_seen_at and device.last_seen_at.day) == (seen and 1)

    def test_a_list_without_end_is_refused(self, laptop: Device) -> None:
        listed = {"id": "d1", "device_name": "Phone", "created_at": "2026-01-31T12:00:00Z", "platform": "ios"}
        laptop.network.answers["GET", DEVICES] = httpx2.Response(200, json={"devices": [listed], "has_more": True})
        with pytest.raises(ProtocolError, match="more than 100 pages"):
            laptop.devices()

    @pytest.mark.parametrize("wrong", [{"devices": 1}, {"devices": [1]}, {"devices": [{"id": "d1"}]}, {}])
    def test_an_invalid_list_is_refused(self, laptop: Device, wrong: dict[str, object]) -> None:
        laptop.network.answers["GET", DEVICES] = httpx2.Response(200, json=wrong)
        with pytest.raises(ProtocolError):
            laptop.devices()

    def test_a_deleted_device_must_log_in_again(self, devices: Devices, laptop: Device) -> None:
        phone = devices.open("phone", encrypt=False)
        (lost,) = [device for device in laptop.devices() if device.name == "phone"]
        laptop.delete_device(lost.id)
        with pytest.raises(NotAuthenticated):
            phone.push([action()])
        assert [device.name for device in laptop.devices()] == ["laptop"]

    @pytest.mark.parametrize("unknown", ["nobody", "a/b?c=#d", "..", "é"])
    def test_an_unknown_device_is_a_404(self, laptop: Device, unknown: str) -> None:
        with pytest.raises(ServerError) as raised:
            laptop.delete_device(unknown)
        assert raised.value.status == 404
        assert len(laptop.devices()) == 1


class TestChangingThePassword:
    def test_this_session_goes_on_and_all_others_end(self, devices: Devices, laptop: Device) -> None:
        phone = devices.open("phone", encrypt=False)
        laptop.change_password(devices.account["password"], "a better one")
        laptop.push([action()])
        laptop._session.refresh()
        with pytest.raises(NotAuthenticated):
            phone.push([action()])
        with pytest.raises(NotAuthenticated):
            phone.authenticate(devices.account["email"], devices.account["password"])
        phone.authenticate(devices.account["email"], "a better one")
        phone.push([])
        assert laptop.status().change_count == 2

    def test_a_wrong_old_password_changes_nothing_and_is_not_repeated_in_the_error(
        self, devices: Devices, laptop: Device
    ) -> None:
        with pytest.raises(ServerError, match="the old password is wrong") as raised:
            laptop.change_password("a wrong one 1", "a better one 2")
        assert raised.value.status == 403
        laptop.push([action()])
        devices.open("phone", encrypt=False)

    def test_after_a_lost_answer_the_new_password_works(self, devices: Devices, laptop: Device) -> None:
        laptop.network.lost_answers = [CHANGE_PASSWORD]
        with pytest.raises(NetworkError):
            laptop.change_password(devices.account["password"], "a better one")
        assert laptop.network.asked.count(CHANGE_PASSWORD) == 1
        laptop.authenticate(devices.account["email"], "a better one")
        laptop.push([action()])


class TestLoggingOut:
    def test_the_session_ends_on_the_server(self, devices: Devices, laptop: Device) -> None:
        phone = devices.open("phone", encrypt=False)
        ended = laptop._session._present()
        assert laptop.logout() is True
        for call in (laptop.status, lambda: laptop.push([action()])):
            with pytest.raises(NotAuthenticated, match="log in first"):
                call()
        laptop._state.log_in(laptop.account, ended)  # as somebody who copied the file before  # type: ignore[arg-type]
        with pytest.raises(NotAuthenticated):
            laptop.status()
        phone.push([action()])

    def test_nothing_else_is_lost(self, devices: Devices, laptop: Device) -> None:
        phone = devices.open("phone", encrypt=False)
        phone.push([action("of the phone")])
        laptop.pull().confirm()
        laptop.network.is_offline = True
        with pytest.raises(NetworkError):
            laptop.push([action()])
        assert laptop.logout() is False, "the server was not reached"
        assert laptop.logout() is True, "there is no session any more"
        again = devices.open("laptop", encrypt=False)
        assert (again.pending_changes, again._state.position()[0].cursor) == (1, 1)
        again.push([])
        assert again.status().change_count == 2

    @pytest.mark.parametrize("status", [404, 405, 500])
    def test_a_server_without_this_route_does_not_matter(
        self, laptop: Device, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        laptop.network.answers[LOGOUT] = httpx2.Response(status, json={"error": "no such route"})
        assert laptop.logout() is False
        assert "the session could not be ended on the server: no such route" in caplog.text
        with pytest.raises(NotAuthenticated):
            laptop.status()

    def test_the_file_still_belongs_to_the_account(self, devices: Devices, laptop: Device) -> None:
        laptop.logout()
        devices.app.test_cli_runner().invoke(
            args=["synckit", "user", "add", "bob@example.org", "--password", "something else"]
        )
        with pytest.raises(StateError, match="another account"):
            laptop.authenticate("bob@example.org", "something else")

    def test_a_stream_ends_with_not_authenticated_under_gunicorn(self, service: Service) -> None:
        client = service.client()
        with StreamRecorder(client) as stream:
            assert client.logout() is True
            assert until(lambda: stream.error is not None, 10.0), stream.states
            assert isinstance(stream.error, NotAuthenticated)
        assert [state for state, _ in stream.states][-2:] == [StreamState.NEEDS_AUTH, StreamState.CLOSED]

    def test_a_new_password_replaces_the_token_of_a_stream_under_gunicorn(self, service: Service) -> None:
        client, other = service.client(), service.client(name="phone")
        with StreamRecorder(client) as stream, StreamRecorder(other) as ended:
            heard = stream.changed
            client.change_password(PASSWORD, "for a moment")
            try:
                assert stream.hears(heard), stream.states
                assert until(lambda: isinstance(ended.error, NotAuthenticated), 10.0), ended.states
            finally:
                client.change_password("for a moment", PASSWORD)
        other.authenticate(EMAIL, PASSWORD)


class TestAServerThatMoved:
    @pytest.fixture
    def filled(self, devices: Devices) -> Device:
        laptop = devices.open("laptop", encrypt=False)
        devices.open("phone", encrypt=False).push([action("of the phone")])
        laptop.pull().confirm()
        laptop.network.is_offline = True
        with pytest.raises(NetworkError):
            laptop.push([action()])
        return laptop

    @staticmethod
    def moved(devices: Devices, **options: object) -> SyncKitClient:
        return devices.open("laptop", log_in=False, url="http://latter", encrypt=False, **options)

    def test_its_state_file_goes_with_it_if_that_is_told(self, devices: Devices, filled: Device) -> None:
        with pytest.raises(StateError, match="belongs to the server http://server, not to http://latter"):
            self.moved(devices)
        with pytest.raises(ValueError, match="moved_from must be an http or https URL"):
            self.moved(devices, moved_from="server")
        for _ in range(2):
            latter = self.moved(devices, moved_from="http://server/api/sync")
        latter.push([])
        assert (len(latter.pull()), latter.pending_changes) == (0, 0)
        with pytest.raises(StateError, match="belongs to the server http://latter, not to http://server"):
            devices.open("laptop", log_in=False, encrypt=False)

    def test_another_epoch_starts_again_from_zero(self, devices: Devices, filled: Device) -> None:
        assert devices.app.test_cli_runner().invoke(args=["synckit", "restored"]).exit_code == 0
        latter = self.moved(devices, moved_from="http://server")
        result = latter.pull()
        assert ([change.data for change in result], result.restarted) == (["of the phone"], True)
