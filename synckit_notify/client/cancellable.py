"""A call in a thread of its own that can be given up at any moment.

In: a function that may block for long (a request, a name look-up, a lock). Out: a future. Cancelling it ends every wait
for it at once, while the call itself goes on until its own time limits end it; a result that comes later is discarded.
Nothing here is made before it is needed, and the threads never keep a process alive.
"""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def start(call: Callable[[], T], *, discard: Callable[[T], object] = lambda result: None) -> "Future[T]":
    """Run the call in a daemon thread and return its future; `discard` gets the result of a call that was given up."""
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

    context = contextvars.copy_context()  # for tracers, which hang requests on what the caller is doing
    try:
        threading.Thread(target=context.run, args=(run,), name="synckit-call", daemon=True).start()
    except RuntimeError:
        # No thread can be started, as in an atexit handler from Python 3.12 on: then it cannot be given up.
        run()
    return future
