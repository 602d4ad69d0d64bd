"""Calls in a thread of their own that can be abandoned, and waits that end as soon as their call is cancelled.

In: a function that may block for long (a request, a name lookup, a lock). Out: a Call, which is a future.

- `cancel` ends every wait for it at once; the call itself continues until its time limits end it, without a result.
- `end_waits` ends the waits inside it: each wait for the network or for time raises Cancelled, all else is finished.

Which call a wait belongs to is in its context, so calls that are started inside a call belong to that one too. The
threads are daemons, so they never keep a process alive.
"""

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

LOCK_POLL_SECONDS = 0.03
"""How often a wait for a lock checks whether its call was cancelled; only while another thread holds the lock."""

T = TypeVar("T")


class Cancelled(BaseException):
    """The call was cancelled during a wait; not an Exception, so that no handler of errors continues the call."""


class Signal:
    """Like a threading.Event, but its waits end with Cancelled if their call is cancelled, and it can run actions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._actions: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._set

    def set(self) -> None:
        """End the waits and run the actions, in this thread."""
        with self._lock:
            self._set = True
            actions = list(self._actions)
        for action in actions:
            action()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most so many seconds; return whether it is set."""
        woken = threading.Event()
        with self.calling(woken.set), on_cancel(woken.set):
            woken.wait(seconds)
        raise_if_cancelled()
        return self._set

    @contextmanager
    def calling(self, action: Callable[[], object]) -> Iterator[None]:
        """Run the action if this is set during the block, or was set before it."""
        with self._lock:
            self._actions.append(action)
            is_set = self._set
        try:
            if is_set:
                action()
            yield
        finally:
            with self._lock:
                self._actions.remove(action)


class Call(Future[T]):
    """The future of a call that runs in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled_inside = Signal()

    def end_waits(self) -> None:
        """Let the waits inside the call raise Cancelled; a call that waits for nothing is finished."""
        self.cancelled_inside.set()

    def cancel(self) -> bool:
        """Abandon the call; its waits end, and its result is discarded. Return False if it has a result already."""
        cancelled = super().cancel()
        if cancelled:
            self.end_waits()
        return cancelled


_calls: contextvars.ContextVar[tuple[Signal, ...]] = contextvars.ContextVar("synckit_calls", default=())
"""The signals of the call that this code belongs to, and of the calls around it."""


def start(call: Callable[[], T], *, discard: Callable[[T], object] = lambda result: None) -> "Call[T]":
    """Run the call in a daemon thread and return its future; `discard` receives the result of a cancelled call."""
    # A future that is never marked as running can be cancelled at any moment.
    future: Call[T] = Call()

    def run() -> None:
        _calls.set((*_calls.get(), future.cancelled_inside))
        try:
            result = call()
        except BaseException as error:
            with suppress(InvalidStateError):
                future.set_exception(error)
        else:
            try:
                future.set_result(result)
            except InvalidStateError:
                discard(result)

    context = contextvars.copy_context()  # for tracers, which attach a request to the caller's span
    try:
        threading.Thread(target=context.run, args=(run,), name="synckit-call", daemon=True).start()
    except RuntimeError:
        # No thread can be started, as in an atexit handler since Python 3.12: then it cannot be cancelled.
        context.run(run)
    return future


def raise_if_cancelled() -> None:
    """Raise Cancelled if the call that this code belongs to was cancelled."""
    if any(call.is_set() for call in _calls.get()):
        raise Cancelled


@contextmanager
def on_cancel(action: Callable[[], object]) -> Iterator[None]:
    """Run the action, in another thread, if this call is cancelled during the block; at once if it was before."""
    with ExitStack() as stack:
        for call in _calls.get():
            stack.enter_context(call.calling(action))
        yield


@contextmanager
def finished_first() -> Iterator[None]:
    """Run the block to its end, with all its waits, even if the call that it belongs to is cancelled."""
    token = _calls.set(())
    try:
        yield
    finally:
        _calls.reset(token)


@contextmanager
def holding(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock during the block; the wait for it ends if the call is cancelled."""
    if _calls.get():
        while not lock.acquire(timeout=LOCK_POLL_SECONDS):
            raise_if_cancelled()
    else:
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
