"""A device that is no longer welcome, on a real gunicorn: its stream ends at once, and its user must log in again."""

import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from synckit_notify.client import NotAuthenticated, StreamState, SyncKitClient

from .test_assembled import EMAIL, PASSWORD, Ear, Service

AT_ONCE = 5.0
"""Seconds; the promise is one, measured are some hundredths."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"))
    yield started
    started.close()


def delete_the_phone(laptop: SyncKitClient, phone: SyncKitClient) -> None:
    laptop._session.call("DELETE", f"/api/sync/devices/{phone._state.device_id()}", safe=True)


def change_the_password(laptop: SyncKitClient, phone: SyncKitClient) -> None:
    tokens = laptop._state.tokens()
    assert tokens is not None
    body = {"old_password": PASSWORD, "new_password": "another password"}
    headers = {"Authorization": f"Bearer {tokens.access}"}
    answer = httpx2.post(f"{laptop._session._line.url}/api/sync/password", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("revoke", "laptop_stays", "password"),
    [(delete_the_phone, True, PASSWORD), (change_the_password, False, "another password")],
)
def test_the_stream_ends_at_once_and_the_user_must_log_in_again(
    service: Service, revoke: Callable[..., None], laptop_stays: bool, password: str
) -> None:
    laptop, phone = service.client(name="laptop"), service.client(name="phone")
    with Ear(phone) as ear, Ear(laptop) as other:
        revoke(laptop, phone)
        began = time.monotonic()  # not before: a password is hashed twice first
        assert ear.until(lambda: ear.stream.state is StreamState.NEEDS_AUTH)
        assert time.monotonic() - began < AT_ONCE
        assert ear.until(lambda: isinstance(ear.error, NotAuthenticated))
        assert "log in again" in str(ear.error)
        assert "bye revoked" in {reason for _, reason in ear.states}
        if laptop_stays:
            assert other.stream.state is StreamState.CONNECTED
        else:
            assert other.until(lambda: other.stream.state is StreamState.NEEDS_AUTH)
    for call in (phone.status, phone._session.refresh, lambda: phone.register_device("phone", "linux")):
        with pytest.raises(NotAuthenticated):
            call()
    phone.authenticate(EMAIL, password)
    phone.register_device("phone", "linux")
    with Ear(phone):
        pass
