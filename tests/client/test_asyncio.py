"""The SDK in asyncio as docs/sdk.md shows it: the stream runs in a thread, and is closed at the end."""

import asyncio
import socket
import time

import pytest

from synckit_notify.client import SyncKitClient
from synckit_notify.client.models import Account
from synckit_notify.client.state import Tokens
from synckit_notify.client.stream import SyncNotifyStream

from ..support.blocking_session import BlockingConnection, RealSession


async def listen(stream: SyncNotifyStream, heard: list[object]) -> None:
    try:
        while (notification := await asyncio.to_thread(next, stream, None)) is not None:
            heard.append(notification)
    finally:
        stream.close()


async def cancelled_after(seconds: float, stream: SyncNotifyStream, heard: list[object]) -> None:
    action = asyncio.create_task(listen(stream, heard))
    await asyncio.sleep(seconds)
    action.cancel()
    with pytest.raises(asyncio.CancelledError):
        await action


def test_a_cancelled_task_lets_the_loop_end_at_once_while_it_reads() -> None:
    heard: list[object] = []
    stream = SyncNotifyStream(RealSession(BlockingConnection()), random=lambda: 0.0)
    began = time.monotonic()
    asyncio.run(cancelled_after(0.3, stream, heard))
    assert time.monotonic() - began < 2.0
    assert len(heard) == 1


def test_a_cancelled_task_lets_the_loop_end_at_once_while_it_connects() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        SyncKitClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", api_key="key", encrypt=False) as client,
    ):
        client._state.log_in(Account("alice", "notes"), Tokens("access", "refresh", 3600.0, time.time()))
        began = time.monotonic()
        asyncio.run(cancelled_after(0.3, client.subscribe_notifications(), []))
        assert time.monotonic() - began < 2.0
