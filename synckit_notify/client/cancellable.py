"""Calls in a thread of their own that can be abandoned at any moment.

In: a function that may block for long (a request, a name lookup, a lock). Out: a future. Cancelling it ends every wait
for it at once; the call itself continues until its own time limits end it, and its result is discarded. The threads are
daemons, so they never keep a process alive.
"""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def start(call: Callable[[], T], *, discard: Callable[[T], object] = lambda result: None) -> "Future[T]":
    """Run the call in a daemon thread and return its future; `discard` receives the result of a cancelled call."""
    # A future that is never marked as running can be cancelled at any moment.
    future: Future[T] = Future()

    def run() -> None:
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
        run()
    return future
