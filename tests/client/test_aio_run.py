"""`run`, `follow` and a stream without a client in asyncio: results, and how they end when they are cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client import PulledChange, RunState, SyncNotification
from synckit_notify.client.aio import AsyncSyncKitClient, AsyncSyncNotifyStream
from synckit_notify.client.testing import EMAIL, PASSWORD, FakeServer

from ..support.dict_store import DictStore
from ..support.scripted_clients import action
from ..support.server import gunicorn
from ..support.tokens import make_token

AT_ONCE = 2.0
"""Far below the time limits of the SDK, and far above what a busy machine needs."""


@asynccontextmanager
async def opened(server: FakeServer, name: str) -> AsyncIterator[AsyncSyncKitClient]:
    async with AsyncSyncKitClient(**server.arguments, encrypt=False) as client:
        await client.authenticate(EMAIL, PASSWORD)
        await client.register_device(name, "linux")
        yield client


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def cancelled(task: asyncio.Task[Any]) -> float:
    """Cancel a task; return in how many seconds it ended."""
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


def test_follow_passes_changes_to_an_async_function_until_it_is_cancelled() -> None:
    async def main() -> list[str]:
        server, rows, states = FakeServer(), [], []

        async def apply(changes: list[PulledChange]) -> None:
            rows.extend(change.row_id for change in changes)

        async with opened(server, "laptop") as laptop, opened(server, "phone") as phone:
            on_state: Callable[[RunState, str], object] = lambda state, _: states.append(state)  # noqa: E731
            task = asyncio.create_task(phone.follow(apply, on_state=on_state))
            await until(lambda: RunState.UP_TO_DATE in states)
            await laptop.push([action(1)])
            await until(lambda: rows)
            assert await cancelled(task) < AT_ONCE
            assert (await phone.status()).cursor == 1
        return rows

    assert asyncio.run(main()) == ["1"]


@pytest.mark.parametrize("online", [True, False], ids=["up to date", "without network"])
def test_run_ends_at_once_when_it_is_cancelled_and_can_be_called_again(online: bool) -> None:
    async def main() -> dict[Any, Any]:
        server, here, there = FakeServer(), DictStore(), DictStore()
        async with opened(server, "laptop") as laptop, opened(server, "phone") as phone:
            states: list[RunState] = []

            def run(client: AsyncSyncKitClient, store: DictStore) -> Coroutine[Any, Any, None]:
                return client.run(store, on_state=lambda state, _: states.append(state))

            if not online:
                server.go_offline()
            task = asyncio.create_task(run(laptop, here))
            await until(lambda: (RunState.UP_TO_DATE if online else RunState.WAITING) in states)
            here.edit("tasks", "1", "Buy milk")
            assert await cancelled(task) < AT_ONCE
            server.go_online()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(client, store)) for client, store in ((laptop, here), (phone, there))]
                await until(there.rows)
                for task in tasks:
                    task.cancel()
        return there.rows()

    assert asyncio.run(main()) == {("tasks", "1"): "Buy milk"}


def test_a_stream_without_a_client_with_tokens_from_an_async_function(tmp_path: Path) -> None:
    async def token(refused: bool = False) -> str:
        await asyncio.sleep(0)
        return make_token()

    async def main(url: str) -> list[SyncNotification]:
        async with AsyncSyncNotifyStream.open(url, "notes", token) as stream:
            heard = [await anext(stream)]
            await asyncio.to_thread(httpx2.post, f"{url}/push/notes/alice")
            async for notification in stream:
                if notification is SyncNotification.CHANGED:
                    return [*heard, notification]
        return heard

    with gunicorn("tests.support.minimal_host:create_app()", tmp_path) as server:
        assert asyncio.run(main(server.url)) == [SyncNotification.CHANGED, SyncNotification.CHANGED]
