"""Cancelling a call of the asyncio client: its waits end at once, what does not wait is finished, nothing runs on."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from synckit_notify.client import PulledChange, SyncNotification, encryption
from synckit_notify.client.aio import AsyncSyncKitClient
from synckit_notify.client.models import Account
from synckit_notify.client.serialization import read_device
from synckit_notify.client.state import Tokens

from ..support.byte_server import END, STREAM, Script, Scripted, chunk, head, page
from ..support.fake_transport import CONNECTED
from ..support.scripted_clients import LAPTOP, action
from ..support.service import EMAIL, PASSWORD, Service
from ..support.silent_servers import full_server, silent_server
from ..support.threads import package_threads
from ..support.wait import wait_until

AT_ONCE = 2.0
"""Far below the time limits of the SDK, which are 10 s and more, and far above what a busy machine needs."""

Use = Callable[[AsyncSyncKitClient], Coroutine[Any, Any, Any]]


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[AsyncSyncKitClient]:
    """Give a client that is logged in and registered, whose server never had to answer."""
    async with AsyncSyncKitClient(url, api_key="key", encrypt=False) as client:
        kept = client._client._state
        kept.log_in(Account("alice", "notes"), Tokens("access", "refresh", 3600.0, time.time()))
        kept.keep_device(read_device(LAPTOP, "linux"))
        yield client


async def listen(client: AsyncSyncKitClient) -> None:
    async for _ in client.subscribe_notifications():
        pass


async def status(client: AsyncSyncKitClient) -> None:
    await client.status()


async def push(client: AsyncSyncKitClient) -> None:
    await client.push([action()])


async def log_in_with_browser(client: AsyncSyncKitClient) -> None:
    await client.login(open_browser=lambda url: None)


SLOW = [head("200 OK", "Content-Length: 100000"), *[b"{", 1.0] * 40]
BUSY = page("503 Service Unavailable", "{}", "Retry-After: 40")
REFUSING: dict[str, Script] = {"*": BUSY}
IDLE: dict[str, Script] = {"*": [STREAM, chunk(CONNECTED), 40.0, END]}


@pytest.fixture
def servers() -> Iterator[Callable[[dict[str, Script]], str]]:
    """Start servers that answer with scripts."""
    started: list[Scripted] = []

    def serve(scripts: dict[str, Script]) -> str:
        server = Scripted(scripts)
        started.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server.url

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


async def cancelled(use: Coroutine[Any, Any, Any], after: float = 0.4) -> float:
    """Cancel a task; return in how many seconds it ended."""
    task = asyncio.ensure_future(use)
    await asyncio.sleep(after)
    assert not task.done(), task
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


async def cancelled_inside(task: asyncio.Task[Any], entered: threading.Event, go_on: threading.Event) -> None:
    """Cancel a task, twice, while its call is in what must be finished first."""
    while not entered.is_set():
        await asyncio.sleep(0.01)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_with(url: str, use: Use) -> float:
    async with client_of(url) as client:
        return await cancelled(use(client))


PHASES = [
    *[(silent_server, use) for use in (status, push, listen, log_in_with_browser)],
    *[(full_server, use) for use in (status, listen)],
]


@pytest.mark.parametrize(("server", "use"), PHASES, ids=[f"{server.__name__} {use.__name__}" for server, use in PHASES])
def test_a_wait_for_a_server_that_does_not_answer_ends_at_once(server: Any, use: Use) -> None:
    before = package_threads()
    with server() as url:
        assert asyncio.run(cancelled_with(url, use)) < AT_ONCE
        if server is silent_server:  # the other one is not connected yet: only a time limit ends that thread
            wait_until(lambda: package_threads() <= before, 5)


@pytest.mark.parametrize(
    ("scripts", "use"),
    [
        pytest.param({"*": SLOW}, status, id="an answer that arrives slowly"),
        pytest.param(REFUSING, status, id="the pause before a retry"),
        pytest.param(REFUSING, listen, id="the pause before a stream connects again"),
        pytest.param(IDLE, listen, id="a stream that is silent"),
    ],
)
def test_a_wait_for_a_server_that_answers_ends_at_once(
    servers: Callable[[dict[str, Script]], str], scripts: dict[str, Script], use: Use
) -> None:
    assert asyncio.run(cancelled_with(servers(scripts), use)) < AT_ONCE


def test_a_wait_for_another_call_ends_at_once_and_leaves_that_call_alone() -> None:
    async def main(url: str) -> None:
        async with client_of(url) as client:
            first = asyncio.ensure_future(push(client))
            await asyncio.sleep(0.3)
            assert await cancelled(push(client)) < AT_ONCE
            assert not first.done()
            assert client.pending_changes == 1
            first.cancel()
            await asyncio.wait([first])

    with silent_server() as url:
        asyncio.run(main(url))


def test_a_time_limit_is_a_timeout_error_and_the_client_can_be_used_again(service: Service) -> None:
    async def main(url: str) -> None:
        async with client_of(url) as hanging:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await hanging.status()
        async with await opened(service, "laptop") as client:
            await cancelled(client.login(open_browser=lambda url: None))
            assert (await client.status()).epoch

    with silent_server() as url:
        asyncio.run(main(url))


def test_an_error_in_a_task_group_ends_the_other_calls() -> None:
    class Failed(Exception):
        pass

    async def fail() -> None:
        await asyncio.sleep(0.3)
        raise Failed

    async def main(url: str) -> float:
        async with client_of(url) as client:
            with pytest.RaisesGroup(Failed):
                async with asyncio.TaskGroup() as group:
                    for use in (status, push, listen):
                        group.create_task(use(client))
                    group.create_task(fail())
        return time.monotonic()

    with silent_server() as url:
        began = time.monotonic()
        assert asyncio.run(main(url)) - began < 0.3 + AT_ONCE


@pytest.mark.parametrize("in_loop", [False, True], ids=["a function", "an async function"])
def test_a_running_apply_is_finished_and_its_page_confirmed(service: Service, in_loop: bool) -> None:
    async def main() -> list[Any]:
        applied, go_on, order = threading.Event(), threading.Event(), []

        def apply(changes: list[PulledChange]) -> None:
            applied.set()
            assert go_on.wait(30)
            order.append("applied")

        async def apply_on_loop(changes: list[PulledChange]) -> None:
            applied.set()
            while not go_on.is_set():
                await asyncio.sleep(0.01)
            await client.status()
            order.append("applied")

        async with await opened(service, "laptop") as laptop, await opened(service, "phone") as client:
            await client.pull(lambda changes: None)
            await laptop.push([action(1)])
            task = asyncio.ensure_future(client.pull(apply_on_loop if in_loop else apply))
            await cancelled_inside(task, applied, go_on)
            order.append("cancelled")
            return [*order, len(await client.pull())]

    assert asyncio.run(main()) == ["applied", "cancelled", 0]


def test_a_running_key_derivation_is_finished_and_then_nothing_is_sent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deriving, go_on, order = threading.Event(), threading.Event(), []

    def derive(**_: object) -> bytes:
        deriving.set()
        assert go_on.wait(30)
        order.append("derived")
        return bytes(32)

    monkeypatch.setattr(encryption, "hash_secret_raw", derive)

    async def main() -> None:
        async with AsyncSyncKitClient(service.server.url, api_key=service.api_key) as client:
            await client.authenticate(EMAIL, PASSWORD)
            task = asyncio.ensure_future(client.setup_encryption("passphrase"))
            await cancelled_inside(task, deriving, go_on)
            order.append("cancelled")

    asyncio.run(main())
    assert order == ["derived", "cancelled"]
    assert service.client(encrypt=True).setup_encryption("passphrase").created


def test_what_a_cancelled_push_did_not_send_is_sent_later_and_once(service: Service) -> None:
    entries = [action(number) for number in range(2_000)]

    async def main() -> int:
        async with await opened(service, "desk") as client:
            while True:
                start = (await client.status()).cursor
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await client.push(entries)
                if client.pending_changes:
                    break
            await client.push(entries)
            return (await client.status()).cursor - start

    assert asyncio.run(main()) == len(entries)


def test_a_task_that_is_cancelled_inside_async_for_ends_with_cancelled_error(service: Service) -> None:
    async def main() -> list[str]:
        order: list[str] = []

        async def use() -> None:
            try:
                async for notification in client.subscribe_notifications():
                    assert notification is SyncNotification.CHANGED
                    order.append("in the body")
                    await asyncio.sleep(60)
            except asyncio.CancelledError:
                order.append("cancelled")
                raise

        async with await opened(service, "laptop") as client:
            task = asyncio.ensure_future(use())
            while not order:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            return [*order, str(task.cancelled())]

    assert asyncio.run(main()) == ["in the body", "cancelled", "True"]


async def opened(service: Service, name: str) -> AsyncSyncKitClient:
    client = AsyncSyncKitClient(service.server.url, api_key=service.api_key, encrypt=False)
    await client.authenticate(EMAIL, PASSWORD)
    await client.register_device(name, "linux")
    return client
