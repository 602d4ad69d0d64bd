"""The asyncio client on a real server: names, results and errors as in the sync client; how streams and calls end."""

import asyncio
import contextvars
import inspect
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.client import (
    ChangeEntry,
    NetworkError,
    NotAuthenticated,
    PulledChange,
    PullResult,
    StreamState,
    SyncKitClient,
    SyncNotification,
    SyncNotifyStream,
)
from synckit_notify.client.aio import AsyncPullResult, AsyncSyncKitClient, AsyncSyncNotifyStream

from ..support.server import ROOT
from ..support.service import EMAIL, PASSWORD, Service
from ..support.silent_servers import silent_server
from ..support.threads import package_threads
from ..support.wait import collect_garbage, wait_until

CALLER = contextvars.ContextVar("caller", default="nobody")
NOT_AWAITED = {"subscribe_notifications"}


def entry(row: str, data: object = None) -> ChangeEntry:
    return ChangeEntry("tasks", "INSERT", row, datetime.now(UTC), data)


async def opened(service: Service, name: str) -> AsyncSyncKitClient:
    client = AsyncSyncKitClient(service.server.url, api_key=service.api_key, encrypt=False)
    await client.authenticate(EMAIL, PASSWORD)
    await client.register_device(name, "linux")
    return client


def public(kind: type) -> set[str]:
    names = {*dir(kind), *getattr(kind, "__annotations__", {})}
    return {name for name in names if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of each parameter, without types: a callback may return an awaitable."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    ("sync", "other"),
    [
        (SyncKitClient, AsyncSyncKitClient),
        (SyncNotifyStream, AsyncSyncNotifyStream),
        (PullResult, AsyncPullResult),
    ],
)
def test_it_has_the_same_names(sync: type, other: type) -> None:
    internal = {"request_succeeded"}  # the session calls it
    assert public(sync) - internal == public(other)


@pytest.mark.parametrize("name", sorted(public(SyncKitClient)))
def test_a_name_has_the_same_arguments_and_is_awaited_if_it_may_wait(name: str) -> None:
    sync, other = getattr(SyncKitClient, name), getattr(AsyncSyncKitClient, name)
    assert other.__doc__
    if isinstance(sync, property):
        assert isinstance(other, property)
        return
    assert parameters(other) == parameters(sync)
    assert inspect.iscoroutinefunction(other) == (name not in NOT_AWAITED)


def test_it_is_made_with_the_same_arguments() -> None:
    assert parameters(AsyncSyncKitClient) == parameters(SyncKitClient)


async def exchange(service: Service) -> list[Any]:
    """Let one device push what another one hears of, pulls, and confirms."""
    async with await opened(service, "laptop") as laptop, await opened(service, "phone") as phone:
        start = (await phone.status()).cursor
        async with phone.subscribe_notifications() as stream:
            assert await anext(stream) is SyncNotification.CHANGED
            assert stream.state is StreamState.CONNECTED
            await (await phone.pull()).confirm()
            assert await laptop.push([entry("one", 1)]) == start + 1
            async for notification in stream:
                if notification is SyncNotification.CHANGED:
                    break
        result = await phone.pull()
        found = [change.data for change in result][-1:]
        await result.confirm()
        assert len(await phone.pull()) == 0
        return [found, laptop.pending_changes, phone.last_sync_time is not None]


def test_two_devices_exchange_a_change(service: Service) -> None:
    assert asyncio.run(exchange(service)) == [[1], 0, True]


def test_two_devices_exchange_a_change_on_uvloop(service: Service) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(exchange(service)) == [[1], 0, True]


async def pages(service: Service) -> list[Any]:
    CALLER.set("the task")
    seen: list[Any] = []
    loop_thread = threading.current_thread()

    def note(changes: list[PulledChange]) -> None:
        seen.append((CALLER.get(), threading.current_thread() is loop_thread, changes[-1].data))

    async def note_on_loop(changes: list[PulledChange]) -> None:
        await asyncio.sleep(0)
        note(changes)

    async with await opened(service, "laptop") as laptop, await opened(service, "tablet") as tablet:
        for apply in (note, note_on_loop):
            await laptop.push([entry("row", apply.__name__)])
            await tablet.pull(apply)
        assert len(await tablet.pull()) == 0
    return seen


def test_apply_runs_in_a_thread_and_an_async_one_on_the_loop_with_the_callers_context(service: Service) -> None:
    assert asyncio.run(pages(service)) == [("the task", False, "note"), ("the task", True, "note_on_loop")]


async def errors(service: Service) -> tuple[BaseException, list[BaseException]]:
    expected, raised = KeyError("the app's own"), []

    def fail(changes: list[PulledChange]) -> None:
        raise expected

    async def fail_on_loop(changes: list[PulledChange]) -> None:
        raise expected

    async with await opened(service, "laptop") as laptop, await opened(service, "watch") as watch:
        await laptop.push([entry("row")])
        for apply in (fail, fail_on_loop):
            try:
                await watch.pull(apply)
            except KeyError as error:
                raised.append(error)
        with pytest.raises(NotAuthenticated, match="is wrong"):
            await watch.authenticate(EMAIL, "wrong")
        with pytest.raises(ValueError, match="at most"):
            await watch.push([entry("row", "x" * 300_000)])
        assert [change.row_id for change in await watch.pull()][-1:] == ["row"]
    return expected, raised


def test_errors_are_the_same_objects_and_a_page_that_failed_comes_again(service: Service) -> None:
    expected, raised = asyncio.run(errors(service))
    assert [error is expected for error in raised] == [True, True]


async def idle_stream(client: AsyncSyncKitClient) -> None:
    async for _ in client.subscribe_notifications():
        pass


async def close_while(client: AsyncSyncKitClient, *busy: Coroutine[Any, Any, Any]) -> list[Any]:
    """Close the client while other tasks use it, and return how they end."""
    before = package_threads()
    tasks = [asyncio.ensure_future(each) for each in busy]
    await asyncio.sleep(0.3)
    assert package_threads() > before
    await client.close()
    wait_until(lambda: package_threads() <= before, 5)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def close_a_busy_client(service: Service, url: str) -> tuple[list[Any], list[Any]]:
    busy = await opened(service, "laptop")
    hanging = AsyncSyncKitClient(url, api_key="key")
    return (
        await close_while(busy, idle_stream(busy), idle_stream(busy)),
        await close_while(hanging, hanging.authenticate(EMAIL, PASSWORD)),
    )


def test_closing_ends_streams_and_calls_of_other_tasks_and_leaves_no_thread(service: Service) -> None:
    with silent_server() as url:
        streams, calls = asyncio.run(close_a_busy_client(service, url))
    assert streams == [None, None]
    assert [(type(error), str(error)) for error in calls] == [(NetworkError, "the client is closed")]


def test_a_stream_that_nothing_references_ends_though_the_client_stays_open(service: Service) -> None:
    async def first_notification(client: AsyncSyncKitClient) -> SyncNotification:
        async for notification in client.subscribe_notifications():
            return notification
        raise AssertionError

    async def listen() -> None:
        async with await opened(service, "laptop") as client:
            before = package_threads()
            assert await first_notification(client) is SyncNotification.CHANGED
            wait_until(lambda: collect_garbage() and package_threads() <= before)
            assert (await client.status()).epoch

    asyncio.run(listen())


def test_a_wait_that_ends_by_its_time_limit_loses_no_notification(service: Service) -> None:
    async def listen() -> list[SyncNotification]:
        async with await opened(service, "laptop") as client, client.subscribe_notifications() as stream:
            assert await anext(stream) is SyncNotification.CHANGED
            heard: list[SyncNotification] = []
            while not heard:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        heard.append(await anext(stream))
            return heard

    assert asyncio.run(listen()) == [SyncNotification.KEEPALIVE]


PROGRAMS = {
    "a call was cancelled": "await asyncio.wait_for(client.authenticate('a', 'b'), 0.2)",
    "a task is left": "tasks.append(asyncio.ensure_future(client.authenticate('a', 'b'))); await asyncio.sleep(0.2)",
    "the loop was stopped": """tasks.append(asyncio.ensure_future(client.authenticate('a', 'b')))
    asyncio.get_running_loop().call_later(0.2, asyncio.get_running_loop().stop)
    await asyncio.sleep(9)""",
}
PROGRAM = """
import asyncio, sys
from synckit_notify.client.aio import AsyncSyncKitClient
tasks = []
async def main():
    global client
    client = AsyncSyncKitClient(sys.argv[1], api_key="key")
    {body}
try:
    asyncio.run(main())
except (TimeoutError, RuntimeError) as error:
    print(type(error).__name__)
print("the end")
"""


@pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_ends_though_a_call_hangs(body: str) -> None:
    with silent_server() as url:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=body), url],
            capture_output=True,
            text=True,
            timeout=20,
            cwd=Path(ROOT),
        )
    assert done.stdout.endswith("the end\n"), done.stderr
    assert done.returncode == 0
