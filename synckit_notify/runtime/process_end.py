"""Call a function before this process ends, whatever ends it; standard library only.

    atexit                          a program, a shell, a server's worker
    multiprocessing, its pools,     end their children with os._exit, after functions registered with them; so does
    concurrent.futures              billiard, Celery's fork of multiprocessing, for a single process
    Celery's pool                   ends its children with os._exit, after the signal worker_process_shutdown

Nothing can be called before a bare os._exit or a SIGKILL. Other packages are used only if they are loaded.
"""

import atexit
import os
import sys
from collections.abc import Callable

AFTER_POOLS = 0
"""multiprocessing calls higher numbers first; it joins children, queues and their threads after this one."""


def before_end(call: Callable[[], object]) -> Callable[[], None]:
    """Register a call for the end of this process; it may be made more than once. Return a function that cancels it."""
    maker = os.getpid()

    def leave(*_: object, **__: object) -> None:
        if os.getpid() == maker:  # a forked child inherits the registration, but no thread and no connection
            call()

    atexit.register(leave)
    undo: list[Callable[[], object]] = [lambda: atexit.unregister(leave)]
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            undo.append(util.Finalize(None, leave, exitpriority=AFTER_POOLS).cancel)
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(leave, weak=False)
        undo.append(lambda: signals.worker_process_shutdown.disconnect(leave))

    def take_back() -> None:
        for each in undo:
            each()

    return take_back
