"""`AsyncSyncKitClient`: SyncKitClient for asyncio, with the same names.

    await client.push(...) ──▶ a daemon thread: SyncKitClient.push(...) ──▶ the event loop: its result or its error

All rules are those of the sync client; this file only passes calls on. Each call runs in a thread of its own, never in
the executor of the loop, with the caller's context variables. When its task is cancelled, the waits inside the call end
(cancellable.py), what does not wait is finished, and CancelledError is raised when the thread is done. So nothing of a
cancelled call runs on. To add a method of SyncKitClient, add one line to the table in the class.
"""

import asyncio
import concurrent.futures
import functools
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from .cancellable import Call, finished_first, start
from .client import SyncKitClient
from .models import Account, Device, PulledChange, PulledChanges, PullResult, UnreadableChange
from .stream import StreamState, SyncNotification, SyncNotifyStream

__all__ = ["AsyncPullResult", "AsyncSyncKitClient", "AsyncSyncNotifyStream"]

CLOSING_SECONDS = 1.0
"""Upper bound of the wait of `close` for calls of other tasks; one that is in a callback may take longer."""

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """The calls of one client that run in threads; only the event loop uses it."""

    def __init__(self) -> None:
        self._running: set[Call[Any]] = set()

    def start(self, function: Callable[[], T]) -> Call[T]:
        """Run the function in a thread; pass its call to `ended`, then to `result`."""
        call = start(function)
        self._running = {other for other in self._running if not other.done()} | {call}
        return call

    def result(self, call: Call[T]) -> T:
        """Return the result of a call that has ended, or raise its error."""
        self._running.discard(call)
        try:
            return call.result()
        except concurrent.futures.CancelledError:  # an async callback was cancelled, at the end of the loop for example
            raise asyncio.CancelledError from None
        finally:
            del call  # its error references this frame

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Run the function in a thread and return its result, or raise its error; callbacks may be async."""
        loop = asyncio.get_running_loop()
        arguments = tuple(on_loop(value, loop) for value in arguments)
        named = {name: on_loop(value, loop) for name, value in named.items()}
        call = self.start(functools.partial(function, *arguments, **named))
        try:
            await ended(call)
        except asyncio.CancelledError:
            start(call.end_waits)  # in a thread: it may wait for a lock
            while not call.done():
                with suppress(asyncio.CancelledError):
                    await ended(call)
            self._running.discard(call)
            raise
        return self.result(call)

    async def join(self, seconds: float) -> None:
        """Wait until all calls have ended, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for call in list(self._running):
                    await ended(call)


async def ended(call: Call[Any]) -> None:
    """Wait until the call has ended; if this wait is cancelled, the call goes on."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(told.set)

    call.add_done_callback(tell)
    await told.wait()


def on_loop(value: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """Return a callback whose result, if it is awaitable, is awaited on the loop; return any other value as it is."""
    if not callable(value):
        return value

    def call(*arguments: Any, **named: Any) -> Any:
        with finished_first():
            result = value(*arguments, **named)
            if not inspect.isawaitable(result):
                return result
            return asyncio.run_coroutine_threadsafe(_awaited(result), loop).result()

    return call


async def _awaited(result: Awaitable[T]) -> T:
    return await result


class AsyncPullResult(PulledChanges):
    """What `pull` returns; the next `pull` returns the changes again unless `confirm()` was awaited."""

    def __init__(self, result: PullResult, calls: Calls) -> None:
        vars(self).update(vars(result))
        self._result, self._calls = result, calls

    async def confirm(self) -> None:
        """Mark these changes as applied, so that no later `pull` returns them; may be called more than once."""
        await self._calls.run(self._result.confirm)


class AsyncSyncNotifyStream:
    """An asynchronous iterator over the notifications of one account; see SyncNotifyStream.

    Cancelling the wait for a notification leaves the stream open, so that a wait with a time limit loses none. The
    stream ends, with its threads and its connection, at `close`, at the end of `async with`, when the client is closed,
    or when nothing references it.
    """

    def __init__(self, stream: SyncNotifyStream, calls: Calls) -> None:
        self._stream, self._calls = stream, calls
        self._next: Call[SyncNotification | None] | None = None

    @classmethod
    def open(
        cls,
        url: str,
        app_id: str,
        token: Callable[..., str | Awaitable[str]],
        device_id: str | None = None,
        *,
        on_state: Callable[[StreamState, str], object] | None = None,
        http: httpx2.Client | None = None,
    ) -> Self:
        """Return a stream that needs no client; see SyncNotifyStream.open. `token` may be an async function."""
        loop = asyncio.get_running_loop()
        stream = SyncNotifyStream.open(
            url, app_id, on_loop(token, loop), device_id, on_state=on_loop(on_state, loop), http=http
        )
        return cls(stream, Calls())

    @property
    def state(self) -> StreamState:
        """What the stream is doing now."""
        return self._stream.state

    @property
    def reason(self) -> str:
        """Why it is in this state, as text for a person; may be empty."""
        return self._stream.reason

    def retry_now(self) -> None:
        """Connect now instead of at the next scheduled attempt; see SyncNotifyStream."""
        self._stream.retry_now()

    async def close(self) -> None:
        """End the iteration; may be called twice."""
        await self._calls.run(self._stream.close)
        if self._next is not None:
            await ended(self._next)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SyncNotification:
        if self._next is None:
            self._next = self._calls.start(functools.partial(next, self._stream, None))
        call = self._next
        await ended(call)
        self._next = None
        notification = self._calls.result(call)
        if notification is None:
            raise StopAsyncIteration
        return notification

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._stream.state is not StreamState.CLOSED:
            start(self._stream.close)  # in a thread: on_state may wait for the loop


def _in_thread(
    method: Callable[Concatenate[SyncKitClient, P], T],
) -> Callable[Concatenate["AsyncSyncKitClient", P], Coroutine[Any, Any, T]]:
    """Return a coroutine function with the name, arguments and docstring of a method of SyncKitClient."""

    @functools.wraps(method, assigned=("__name__", "__doc__"))
    async def call(self: "AsyncSyncKitClient", /, *arguments: P.args, **named: P.kwargs) -> T:
        return await self._calls.run(functools.partial(method, self._client), *arguments, **named)

    return call


class AsyncSyncKitClient:
    """SyncKitClient for asyncio: the same arguments, names, results and errors; methods that may wait are awaited.

    A callback (`apply`, `on_unreadable`, `on_state`, `open_browser`) may be a function or an async function. A function
    runs in the thread of the call, so it may block, and must not use objects of the loop. An async function runs on the
    loop, in a task of its own.

    Cancelling a call ends its waits for the network and for time within 0.1 s. A callback, a key derivation or a
    transaction that is running is finished first. What a cancelled `push` had not sent stays pending.

    All methods must be called in a running event loop; it may be another one later. Close the client, or use it with
    `async with`: then no thread is left, except one that waits for a name lookup or a connection to open, which its
    time limit ends.
    """

    def __init__(
        self,
        server_url: str,
        *,
        api_key: str,
        state: str | os.PathLike[str] | None = None,
        moved_from: str | None = None,
        encrypt: bool = True,
        strict: bool = False,
        http: httpx2.Client | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._client = SyncKitClient(
            server_url,
            api_key=api_key,
            state=state,
            moved_from=moved_from,
            encrypt=encrypt,
            strict=strict,
            http=http,
            clock=clock,
            wait=wait,
        )
        self._calls = Calls()

    authenticate = _in_thread(SyncKitClient.authenticate)
    login = _in_thread(SyncKitClient.login)
    register_device = _in_thread(SyncKitClient.register_device)
    devices = _in_thread(SyncKitClient.devices)
    delete_device = _in_thread(SyncKitClient.delete_device)
    change_password = _in_thread(SyncKitClient.change_password)
    logout = _in_thread(SyncKitClient.logout)
    run = _in_thread(SyncKitClient.run)
    follow = _in_thread(SyncKitClient.follow)
    push = _in_thread(SyncKitClient.push)
    discard_pending = _in_thread(SyncKitClient.discard_pending)
    pull_filtered = _in_thread(SyncKitClient.pull_filtered)
    retry_unreadable = _in_thread(SyncKitClient.retry_unreadable)
    status = _in_thread(SyncKitClient.status)
    setup_encryption = _in_thread(SyncKitClient.setup_encryption)
    change_passphrase = _in_thread(SyncKitClient.change_passphrase)
    rotate_master_key = _in_thread(SyncKitClient.rotate_master_key)

    async def pull(
        self,
        apply: Callable[[list[PulledChange]], object] | None = None,
        *,
        on_unreadable: Callable[[UnreadableChange], object] | None = None,
    ) -> AsyncPullResult:
        """Return the changes of other devices after the last confirmed one; see SyncKitClient.pull.

        The page of an async `apply` is confirmed when it has finished, also if `pull` was cancelled meanwhile.
        """
        result = await self._calls.run(self._client.pull, apply, on_unreadable=on_unreadable)
        return AsyncPullResult(result, self._calls)

    def subscribe_notifications(
        self, on_state: Callable[[StreamState, str], object] | None = None
    ) -> AsyncSyncNotifyStream:
        """Return an asynchronous iterator that tells when to pull; it connects when the iteration starts.

        `on_state` is called with each new state of the stream and the reason for it.
        """
        stream = self._client.subscribe_notifications(on_loop(on_state, asyncio.get_running_loop()))
        return AsyncSyncNotifyStream(stream, self._calls)

    @property
    def account(self) -> Account | None:
        """The account that this state belongs to, also after a log-out; None before the first log-in."""
        return self._client.account

    @property
    def device(self) -> Device | None:
        """The device that this state is registered as; None before `register_device`. Sends no request."""
        return self._client.device

    @property
    def pending_changes(self) -> int:
        """The number of pushed changes that the server has not answered yet; read from the state, without a wait."""
        return self._client.pending_changes

    @property
    def last_sync_time(self) -> datetime | None:
        """The server's time up to which all changes are confirmed; None before the first complete pull."""
        return self._client.last_sync_time

    async def close(self) -> None:
        """End the streams and the calls of other tasks; close connections and state file. May be called twice."""
        await self._calls.run(self._client.close)
        await self._calls.join(CLOSING_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()
