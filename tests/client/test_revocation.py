"""A device is deleted or its user disabled, on a real gunicorn: its stream ends at once, and the user must log in."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from synckit_notify.client import NotAuthenticated, StreamState, SyncKitClient

from ..support.server import ROOT, clean_environment
from ..support.service import EMAIL, PASSWORD, Service, StreamRecorder
from ..support.valkey import Valkey
from ..support.wait import until

pytestmark = pytest.mark.thorough

AT_ONCE = 5.0
"""Seconds; the promise is one, measured are some hundredths."""


def delete_the_phone(laptop: SyncKitClient, phone: SyncKitClient) -> None:
    laptop._session.call("DELETE", f"/api/sync/devices/{phone._state.device_id()}", idempotent=True)


def change_the_password(laptop: SyncKitClient, phone: SyncKitClient) -> None:
    tokens = laptop._state.tokens()
    assert tokens is not None
    body = {"old_password": PASSWORD, "new_password": "another password"}
    headers = {"Authorization": f"Bearer {tokens.access}"}
    answer = httpx2.post(f"{laptop._session._http.url}/api/sync/password", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("revoke", "laptop_stays", "password"),
    [(delete_the_phone, True, PASSWORD), (change_the_password, False, "another password")],
)
def test_the_stream_ends_at_once_and_the_user_must_log_in_again(
    own_service: Callable[..., Service], revoke: Callable[..., None], laptop_stays: bool, password: str
) -> None:
    service = own_service()
    laptop, phone = service.client(name="laptop"), service.client(name="phone")
    with StreamRecorder(phone) as recorder, StreamRecorder(laptop) as other:
        revoke(laptop, phone)
        began = time.monotonic()  # not before: a password is hashed twice first
        assert until(lambda: recorder.stream.state is StreamState.NEEDS_AUTH)
        assert time.monotonic() - began < AT_ONCE
        assert until(lambda: isinstance(recorder.error, NotAuthenticated))
        assert "log in again" in str(recorder.error)
        assert "bye revoked" in {reason for _, reason in recorder.states}
        if laptop_stays:
            assert other.stream.state is StreamState.CONNECTED
        else:
            assert until(lambda: other.stream.state is StreamState.NEEDS_AUTH)
    for call in (phone.status, phone._session.refresh, lambda: phone.register_device("phone", "linux")):
        with pytest.raises(NotAuthenticated):
            call()
    phone.authenticate(EMAIL, password)
    phone.register_device("phone", "linux")
    with StreamRecorder(phone):
        pass


def test_a_disabled_user_must_log_in_and_cannot_until_enabled(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        service = Service(tmp_path, SYNCKIT_BROKER_URL=valkey.url)
        try:
            phone = service.client(name="phone")
            with StreamRecorder(phone) as recorder:
                command(service, "disable")
                ended = time.monotonic()
                assert until(lambda: recorder.stream.state is StreamState.NEEDS_AUTH)
                assert time.monotonic() - ended < AT_ONCE
            with pytest.raises(NotAuthenticated, match="the password is wrong"):
                phone.authenticate(EMAIL, PASSWORD)
            command(service, "enable")
            phone.authenticate(EMAIL, PASSWORD)
            assert phone.status().cursor == 0
        finally:
            service.close()


def command(service: Service, what: str) -> None:
    """Run a command in a process of its own, which shares only the broker with the server."""
    words = ["-m", "flask", "--app", "tests.support.short_lived_tokens:create", "synckit", "user", what, EMAIL]
    env = clean_environment() | service.env | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], cwd=service.folder, env=env, check=True, timeout=60, capture_output=True)
