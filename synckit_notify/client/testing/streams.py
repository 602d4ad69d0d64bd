"""Connections and event streams of a FakeServer: bytes as docs/protocol.md has them, delivered between threads."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from ...sse import CHANGED, CONNECTED, KEEPALIVE, comment

KEEPALIVE_SECONDS = 30.0

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "SyncKit-Keepalive": f"{KEEPALIVE_SECONDS:g}",
}


class Connection:
    """The connection of one request, as far as the client uses it: it can be shut down while a thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down = threading.Event()
        self._ended: Callable[[], object] = lambda: None

    def get_extra_info(self, name: str) -> Any:
        """Return what httpx2's network streams return, and for "shut_down" a function that ends the connection."""
        return self.shut_down if name == "shut_down" else None

    def shut_down(self) -> None:
        """End the connection."""
        with self._lock:
            self._down.set()
            ended = self._ended
        ended()

    def when_down(self, ended: Callable[[], object]) -> None:
        """Call this function when the connection ends, or now if it has ended."""
        with self._lock:
            self._ended = ended
            is_down = self._down.is_set()
        if is_down:
            ended()

    def wait(self, seconds: float) -> None:
        """Wait so long; raises ReadError if the connection ends."""
        if self._down.wait(seconds):
            raise httpx2.ReadError("the connection was shut down")


class EventStream(httpx2.SyncByteStream):
    """The body of one subscription; any thread may call its methods. Notices that were not read yet become one."""

    def __init__(self, user: tuple[str, str], session: str, device: str | None) -> None:
        self.user, self.session, self.device = user, session, device
        self._changed = threading.Condition()
        self._frames = [CONNECTED]
        self._is_over = self._is_broken = False

    def changed(self) -> None:
        """Tell the device that there is something to pull."""
        self._send(CHANGED)

    def keepalive(self) -> None:
        """Tell the device that the connection works."""
        self._send(KEEPALIVE)

    def end(self, reason: str) -> None:
        """End the stream with a `bye`."""
        self._send(comment(f"bye {reason}"), is_over=True)

    def break_off(self) -> None:
        """Break the connection."""
        with self._changed:
            self._is_over = self._is_broken = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._frames or self._is_over, KEEPALIVE_SECONDS):
                    self._frames.append(KEEPALIVE)
                frames, self._frames = b"".join(self._frames), []
                if self._is_broken:
                    raise httpx2.ReadError("the connection broke")
            if frames:
                yield frames
            elif self._is_over:
                return

    def close(self) -> None:
        """Release the connection."""
        self.break_off()

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended."""
        return self._is_over

    def _send(self, frame: bytes, *, is_over: bool = False) -> None:
        with self._changed:
            if not self._is_over and frame not in self._frames:
                self._frames.append(frame)
            self._is_over = self._is_over or is_over
            self._changed.notify_all()
