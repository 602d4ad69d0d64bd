"""The workers of a gunicorn on local://: a stream or a push in each of them, and any of them stopped."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .raw_client import CHANGED, CONNECTED, Listener
from .server import Server, children
from .tokens import make_token
from .wait import wait_until

HOST = "tests.support.minimal_host:create_app()"
PATIENT = ("--timeout", "300")
"""gunicorn must not replace a worker that a test has stopped."""


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still for a block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Workers:
    """The workers of one port, from one master or from two; each can be made to answer."""

    def __init__(self, server: Server, stack: ExitStack, *pids: int) -> None:
        self.pids = list(pids)
        self._server, self._stack = server, stack

    def listen(self, worker: int, user: str = "alice") -> Listener:
        """Open a stream in this worker; the others stand still meanwhile."""
        with self.all_but(worker):
            path = "/api/sync/subscribe?app_id=notes"
            listener = self._stack.enter_context(Listener(self._server.port, path, make_token(user)))
            assert listener.next_frame() == CONNECTED
        return listener

    def push(self, worker: int, user: str = "alice") -> None:
        """Push through this worker; the others stand still meanwhile."""
        with self.all_but(worker), Listener(self._server.port, f"/push/notes/{user}", None, method="POST") as answer:
            assert answer.status == 200

    def all_but(self, worker: int) -> ExitStack:
        """Let the other workers stand still for a block."""
        block = ExitStack()
        block.enter_context(stopped(*(pid for pid in self.pids if pid != worker)))
        return block


def hear_each_other(workers: Workers, listeners: list[Listener]) -> None:
    for worker in workers.pids:
        workers.push(worker)
        assert [listener.next_news() for listener in listeners] == [CHANGED] * len(listeners)


def booted(server: Server, count: int) -> list[int]:
    """Return the workers of a master and of a master that it started, once there are so many."""

    def found() -> list[int]:
        here = server.workers()
        return [pid for pid in (*here, *(pid for child in here for pid in children(child))) if not children(pid)]

    wait_until(lambda: server.log.count("Booting worker") >= count and len(found()) == count)
    return found()


def changes(listener: Listener, seconds: float) -> int:
    """Return how many `changed` come within this time."""
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        try:
            count += listener.next_frame(left) == CHANGED
        except TimeoutError:
            break
    return count
