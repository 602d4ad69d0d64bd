"""FakeServer, as an app's own tests use it: two devices, faults on demand, and its clock. No socket, no waits."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client import (
    NetworkError,
    NotAuthenticated,
    ServerError,
    StreamState,
    SyncKitClient,
    SyncNotification,
)
from synckit_notify.client.aio import AsyncSyncKitClient
from synckit_notify.client.testing import (
    API_KEY,
    EMAIL,
    PASSWORD,
    URL,
    Delay,
    DropConnection,
    FakeClock,
    FakeServer,
    Fault,
    LoseAnswer,
    Refuse,
)

from ..support import compaction_walk
from ..support.scripted_clients import action
from ..support.threads import package_threads
from ..support.wait import wait_until

PUSH, PULL = "/api/sync/push", "/api/sync/pull"
CHANGED, KEEPALIVE = SyncNotification.CHANGED, SyncNotification.KEEPALIVE


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(clock=FakeClock(datetime(2026, 1, 31, 12, tzinfo=UTC)))


@pytest.fixture
def laptop(server: FakeServer) -> Iterator[SyncKitClient]:
    with server.client("Laptop", encrypt=False) as client:
        yield client


@pytest.fixture
def phone(server: FakeServer) -> Iterator[SyncKitClient]:
    with server.client("Phone", encrypt=False) as client:
        yield client


def rows(client: SyncKitClient) -> list[str]:
    result = client.pull()
    result.confirm()
    return [change.row_id for change in result]


def test_a_push_is_heard_and_pulled_by_the_other_device(laptop: SyncKitClient, phone: SyncKitClient) -> None:
    with phone.subscribe_notifications() as stream:
        assert next(stream) is CHANGED
        laptop.push([action(1), action(2)])
        assert next(stream) is CHANGED
        assert rows(phone) == ["1", "2"]
        assert rows(laptop) == []


def test_encryption_is_that_of_the_sdk(server: FakeServer, quick_passphrases: None) -> None:
    with server.client("Laptop") as laptop, server.client("Phone") as phone:
        laptop.setup_encryption("a passphrase")
        phone.setup_encryption("a passphrase")
        laptop.push([action(1, data={"title": "Buy milk"})])
        assert [change.data for change in phone.pull()] == [{"title": "Buy milk"}]


@pytest.mark.parametrize("fault", [LoseAnswer(), DropConnection(), Refuse(503), Refuse(429, retry_after=30)], ids=repr)
def test_the_sdk_repeats_a_push_after_a_fault_and_it_is_stored_once(
    server: FakeServer, laptop: SyncKitClient, phone: SyncKitClient, fault: Fault
) -> None:
    server.next(fault, path=PUSH)
    assert laptop.push([action(1)]) == 1
    assert rows(phone) == ["1"]


@pytest.mark.parametrize("status", [409, 422])
def test_a_refusal_for_good_is_raised_with_its_message(server: FakeServer, laptop: SyncKitClient, status: int) -> None:
    server.next(Refuse(status, "changes[0].data: must have at most 9 bytes"), path=PUSH)
    with pytest.raises(ServerError, match=r"changes\[0\]") as caught:
        laptop.push([action(1)])
    assert caught.value.status == status
    assert laptop.pending_changes == 1


def test_a_fault_happens_as_often_as_it_is_planned_and_on_its_path_only(
    server: FakeServer, laptop: SyncKitClient
) -> None:
    server.next(Refuse(503), path=PUSH, times=4)
    assert laptop.status().cursor == 0
    with pytest.raises(ServerError):
        laptop.push([action(1)])
    assert laptop.push([]) == 1


def test_a_client_without_network_keeps_its_changes_until_it_is_back(
    server: FakeServer, laptop: SyncKitClient, phone: SyncKitClient
) -> None:
    states: list[StreamState] = []
    with phone.subscribe_notifications(on_state=lambda state, _: states.append(state)) as stream:
        assert next(stream) is CHANGED
        server.go_offline()
        with pytest.raises(NetworkError, match="offline"):
            laptop.push([action(1)])
        assert laptop.pending_changes == 1
        server.go_online()
        assert laptop.push([]) == 1
        stream.retry_now()
        assert next(stream) is CHANGED
        assert StreamState.WAITING in states
        assert rows(phone) == ["1"]


def test_a_restore_from_a_backup_starts_the_log_again(
    server: FakeServer, laptop: SyncKitClient, phone: SyncKitClient
) -> None:
    laptop.push([action(1)])
    backup = server.back_up()
    laptop.push([action(2)])
    assert rows(phone) == ["1", "2"]
    server.restore(backup)
    result = phone.pull()
    assert ([change.row_id for change in result], result.restarted) == (["1"], True)


def test_tokens_expire_and_are_renewed_and_a_session_ends(server: FakeServer, laptop: SyncKitClient) -> None:
    with laptop.subscribe_notifications() as stream:
        assert next(stream) is CHANGED
        server.expire_tokens()
        assert next(stream) is CHANGED
        assert laptop.status().cursor == 0
        server.clock.advance(3600)
        assert laptop.status().cursor == 0
        laptop._session.call("POST", "/api/sync/logout", idempotent=False)
        with pytest.raises(NotAuthenticated, match="log in again"):
            laptop.status()


def test_a_keepalive_and_the_end_of_a_stream(server: FakeServer, laptop: SyncKitClient) -> None:
    with laptop.subscribe_notifications() as stream:
        assert next(stream) is CHANGED
        server.keepalive()
        assert next(stream) is KEEPALIVE
        server.end_streams("max_age")
        assert next(stream) is CHANGED


@pytest.mark.parametrize("fault", [LoseAnswer(), DropConnection(), Refuse(503)], ids=repr)
def test_a_stream_connects_again_after_a_fault(server: FakeServer, laptop: SyncKitClient, fault: Fault) -> None:
    server.next(fault, path="/api/sync/subscribe")
    states: list[StreamState] = []
    with laptop.subscribe_notifications(on_state=lambda state, _: states.append(state)) as stream:
        assert next(stream) is CHANGED
    assert states[:2] == [StreamState.CONNECTING, StreamState.WAITING]


def test_the_clock_of_the_server_is_that_of_its_answers(
    server: FakeServer, laptop: SyncKitClient, phone: SyncKitClient
) -> None:
    laptop.push([action(1)])
    server.clock.advance(24 * 3600)
    laptop.push([action(2)])
    assert [change.received_at for change in phone.pull()] == [
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        datetime(2026, 2, 1, 12, tzinfo=UTC),
    ]


def test_a_log_in_in_the_browser(server: FakeServer) -> None:
    with SyncKitClient(**server.arguments) as client:
        account = client.login(open_browser=server.browser)
        assert account == client.authenticate(EMAIL, PASSWORD)


def test_accounts_are_apart(server: FakeServer, laptop: SyncKitClient) -> None:
    server.add_user("bob@example.org", "another password")
    laptop.push([action(1)])
    with server.client(email="bob@example.org", password="another password", encrypt=False) as bob:
        assert rows(bob) == []
    with SyncKitClient(**server.arguments) as stranger, pytest.raises(NotAuthenticated, match="is wrong"):
        stranger.authenticate("bob@example.org", PASSWORD)


def test_a_state_file_lets_the_app_start_again(server: FakeServer, tmp_path: Path) -> None:
    with server.client("Laptop", state=tmp_path / "a.state", encrypt=False) as first:
        server.go_offline()
        with pytest.raises(NetworkError):
            first.push([action(1)])
        server.go_online()
    with SyncKitClient(**server.arguments, state=tmp_path / "a.state", encrypt=False) as second:
        assert second.push([]) == 1


def test_closing_ends_a_silent_stream_and_a_delayed_answer_and_leaves_no_thread(
    server: FakeServer, laptop: SyncKitClient
) -> None:
    before, ended = package_threads(), list[str]()

    def listen() -> None:
        list(laptop.subscribe_notifications())
        ended.append("stream")

    def ask() -> None:
        try:
            laptop.status()
        except NetworkError:
            ended.append("status")

    server.next(Delay(60), path="/api/sync/status")
    threads = [threading.Thread(target=work, daemon=True) for work in (listen, ask)]
    for thread in threads:
        thread.start()
    wait_until(lambda: any(thread.name == "synckit-stream" for thread in package_threads() - before))
    laptop.close()
    for thread in threads:
        thread.join(5)
    assert sorted(ended) == ["status", "stream"]
    wait_until(lambda: package_threads() <= before, 5)


async def cancel_on(server: FakeServer) -> list[Any]:
    async with AsyncSyncKitClient(**server.arguments, encrypt=False) as client:
        await client.authenticate(EMAIL, PASSWORD)
        await client.register_device("Laptop", "linux")
        server.next(Delay(60), path=PULL)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.pull()
        async with client.subscribe_notifications() as stream:
            heard = [await anext(stream)]
            await client.push([action(1)])
            return [*heard, (await client.status()).cursor]


def test_the_asyncio_client_uses_it_and_cancels_a_delayed_answer(server: FakeServer) -> None:
    assert asyncio.run(cancel_on(server)) == [CHANGED, 1]


@pytest.mark.parametrize("seed", [12, 14, 31, 35])
def test_every_device_ends_right_whenever_the_log_is_compacted(seed: int) -> None:
    clock = FakeClock(compaction_walk.START)
    server = FakeServer(clock=clock)
    login = {"api_key": API_KEY, "email": EMAIL, "password": PASSWORD}
    with httpx2.Client(transport=server, base_url=URL) as http:

        def post(path: str, body: Any) -> tuple[int, Any]:
            token = http.post("/api/sync/auth", json=login).json()["token"]  # days pass, and tokens expire
            response = http.post(f"/api/sync{path}", json=body, headers={"Authorization": f"Bearer {token}"})
            return response.status_code, response.json()

        compaction_walk.Walk(seed, post, clock.advance, server.compact).run(moves=300)
