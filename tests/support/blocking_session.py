"""A session and a connection whose calls block in real time, until the test or another thread ends the wait."""

import threading

from synckit_notify.client.errors import NetworkError
from synckit_notify.client.stream import SyncNotifyStream

from .fake_transport import CONNECTED


class BlockingConnection:
    """A connection whose reads block in real time until another thread closes it."""

    status = 200
    headers = {"content-type": "text/event-stream"}  # noqa: RUF012

    def __init__(self) -> None:
        self._coming = [CONNECTED]
        self.shut = threading.Event()

    def read(self, timeout: float) -> bytes:
        if self._coming:
            return self._coming.pop()
        if self.shut.wait(timeout):
            raise NetworkError("shut down")
        raise TimeoutError

    def text(self) -> str:
        return ""

    def close(self) -> None:
        self.shut.set()


class RealSession:
    """A session whose calls block until `release`, and then return or raise the given outcome."""

    def __init__(self, outcome: BlockingConnection | Exception, *, blocks: bool = False) -> None:
        self._outcome = outcome
        self._released = threading.Event()
        if not blocks:
            self._released.set()

    def connect(self) -> BlockingConnection:
        self._released.wait(30)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def refresh(self) -> None:
        self._released.wait(30)

    def release(self) -> None:
        self._released.set()

    def watch(self, stream: SyncNotifyStream) -> None:
        pass

    position = None
