"""The only module that knows gevent, and only if the process already runs on it.

`run_in_native_thread` calls a function that blocks without yielding (SQLite, a password hash). In a monkey-patched
process it would block every stream of the worker, so it runs in a native thread of gevent's pool, and only the calling
greenlet waits. Everywhere else it is called directly. `GreenletEvent` wakes greenlets before all that are ready to run.
The rest of the file restores what gevent's patches replace: the kernel's own epoll, native threads, and a socket object
without a hub.

gevent is never imported from here: while it is not loaded, nothing can be patched.
"""

import _socket
import _thread
import select
import sys
import threading
import time
from _socket import SHUT_RDWR
from _socket import socket as KernelSocket  # the one that both socket.socket and gevent's are made of
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def is_patched() -> bool:
    """Return whether `threading` is gevent's in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def epoll() -> Any | None:
    """Return a new epoll object of the kernel, or None on systems without it. Poll it with a timeout of 0 only."""
    if is_patched():
        make = sys.modules["gevent.monkey"].get_original("select", "epoll")
    else:
        make = getattr(select, "epoll", None)
    return make() if make is not None else None


def kernel_socketpair() -> tuple[KernelSocket, KernelSocket]:
    """Return two connected sockets; the second does not block and may be used in a native thread."""
    one, other = _socket.socketpair()
    other.setblocking(False)
    return one, other


def start_native_thread(function: Callable[[], None]) -> None:
    """Start a thread of the operating system, also where `threading` is gevent's; it ends with the process.

    `function` must not use what gevent patches, nor a lock of `threading`. Raises RuntimeError if it cannot start.
    """
    if is_patched():
        start = sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")
    else:
        start = _thread.start_new_thread
    start(function, ())


def native_sleep(seconds: float) -> None:
    """Sleep in a native thread."""
    sleep = sys.modules["gevent.monkey"].get_original("time", "sleep") if is_patched() else time.sleep
    sleep(seconds)


def run_other_greenlets() -> None:
    """Let every greenlet run that is ready now, and return; do nothing where `threading` is not gevent's."""
    if is_patched():
        sys.modules["gevent"].sleep(0)


class GreenletEvent:
    """A `threading.Event` for greenlets that wait without a timeout, whose waits can end before all other work.

    gevent appends the wake-ups of its own Event to a queue. While clients keep a worker busy, that queue takes a second
    and more, and I/O comes in between. Those of `set_first` come before the queue. An event can be set once.
    """

    __slots__ = ("_hub", "_waiters")

    def __init__(self) -> None:
        self._hub = sys.modules["gevent"].get_hub()
        self._waiters: list[Any] = []

    def wait(self, timeout: None = None) -> bool:
        """Sleep until the event is set, and return True. It must not be set already, nor made in another thread."""
        waiter = sys.modules["gevent.hub"].Waiter(self._hub)
        self._waiters.append(waiter)
        waiter.get()
        return True

    def set(self) -> None:
        """Wake all that wait now; any thread may call this."""
        is_here = sys.modules["gevent"].get_hub() is self._hub
        loop = self._hub.loop
        (loop.run_callback if is_here else loop.run_callback_threadsafe)(self._wake)

    def set_first(self) -> None:
        """Do what `set` does, before everything else that is ready; only in the thread that made the event."""
        loop = self._hub.loop
        with suppress(TypeError):  # libuv has no such watcher
            watcher = loop.prepare(priority=loop.MAXPRI)
            watcher.start(self._wake_first, watcher)  # at the beginning of the loop's next turn
        loop.run_callback(self._wake)  # if this turn has just begun, the next one may begin much later

    def _wake_first(self, watcher: Any) -> None:
        watcher.close()
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.switch(None)


Event: TypeAlias = threading.Event | GreenletEvent


def new_event() -> Event:
    """Return an event for waits without a timeout."""
    return GreenletEvent() if is_patched() else threading.Event()


def set_first(event: Event) -> None:
    """Set the event; where its waits are greenlets, they end before all other work."""
    if isinstance(event, GreenletEvent):
        event.set_first()
    else:
        event.set()


def failures() -> tuple[type[BaseException], ...]:
    """Return the classes to catch for a failed call: gevent's Timeout is not an Exception."""
    gevent = sys.modules.get("gevent")
    return (Exception,) if gevent is None else (Exception, gevent.Timeout)


def own_socket(number: int) -> KernelSocket:
    """Return a non-blocking socket object that owns this descriptor: 48 bytes, where gevent's takes 600."""
    sock = KernelSocket(fileno=number)
    sock.setblocking(False)  # socket.setdefaulttimeout may have told it to wait
    return sock


def shut_down(sock: Any) -> None:
    """Shut a connection down in both directions, so that a blocked writer gets EPIPE; a closed one is left alone.

    The object's own `shutdown` will not do: gevent's fails the writer with another error, which servers log, and that
    of a TLS socket removes the encryption under the writer.
    """
    with suppress(OSError):
        if isinstance(sock, KernelSocket):
            KernelSocket.shutdown(sock, SHUT_RDWR)
        elif (number := sock.fileno()) >= 0:  # gevent's: nobody closes it meanwhile, since no greenlet switches here
            borrowed = KernelSocket(fileno=number)
            try:
                borrowed.shutdown(SHUT_RDWR)
            finally:
                borrowed.detach()


def run_in_native_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` off the hub and return its result, or raise what it raised.

    Must not be nested: a native thread that calls here again would make a hub of its own.
    """
    if not is_patched():
        return function(*args, **kwargs)
    result, error = sys.modules["gevent"].get_hub().threadpool.apply(_attempt, (function, args, kwargs))
    if error is not None:
        raise error
    return cast(R, result)


def _attempt(
    function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[R | None, BaseException | None]:
    """Return a result or an error: gevent prints whatever is raised in its native threads."""
    try:
        return function(*args, **kwargs), None
    except BaseException as error:
        return None, error
