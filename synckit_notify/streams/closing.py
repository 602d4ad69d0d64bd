"""Close every stream exactly once, whatever ends it first.

    the server calls close() ──────────────────────▶ at once, in the server's thread
    the last reference to the body is dropped ──┐
    its client has left, or its deadline has ───┼──▶ soon, in the thread of this file
      passed, and nobody has closed it          │
    it was parked, and is over ─────────────────┘

Closing frees the stream's place under the limits, writes one log line, and calls what the host gave to
`response.call_on_close`. The host's code and its log handlers may block or fail, so they do not run in the threads that
serve other streams. `claim` decides who closes: it returns True once.
"""

import time
from collections import deque
from collections.abc import Callable

from ..runtime.background import Periodic
from ..runtime.logs import log
from .stream import Stream

GRACE_SECONDS = 0.5
"""How long to wait for the server to close a stream whose client has left; it usually takes milliseconds."""

IDLE_SECONDS = 1.0
"""How often the thread checks whether any stream is left; a stream to close wakes it at once."""

SCAN_SECONDS = 0.8
"""Each stream that a server iterates is checked once in this time; for 10,000 that is 3 to 10 ms of work."""

SCANNED_AT_ONCE = 1_250
"""The largest number that one call of `check` looks at, since no other stream is served meanwhile."""


class Closer:
    """Knows the streams that a server iterates, and calls `close(stream)` for those that the server does not close.

    Its thread starts with the first of these and stays while `needed()`: starting a thread costs more than closing.
    """

    def __init__(self, close: Callable[[Stream], None], needed: Callable[[], bool]) -> None:
        self._close = close
        self._open: set[Stream] = set()
        self._leaving: deque[tuple[float, Stream]] = deque()
        self._scan_at = 0.0
        self._unscanned: list[Stream] = []
        self._later: deque[Stream] = deque()
        self.thread = Periodic("synckit-close", IDLE_SECONDS, self._work, needed)

    @property
    def busy(self) -> bool:
        """Return whether there are streams that are not closed yet."""
        return bool(self._open or self._later)

    def add(self, stream: Stream) -> None:
        """Register a stream that a server is going to iterate."""
        self._open.add(stream)

    def claim(self, stream: Stream) -> bool:
        """Take over the duty to close a stream; return False if somebody else has it already."""
        try:
            self._open.remove(stream)
        except KeyError:
            return False
        return True

    def later(self, stream: Stream) -> None:
        """Close a claimed stream at the next `check` or `go`. Takes no lock, so a finalizer may call it."""
        self._later.append(stream)

    def go(self) -> None:
        """Close now, in the thread, the streams given to `later`."""
        self.thread.ensure()
        self.thread.wake()

    def leaving(self, stream: Stream) -> None:
        """Give the server of a stream that must end GRACE_SECONDS to close it."""
        if stream in self._open:
            self._leaving.append((time.monotonic() + GRACE_SECONDS, stream))

    def check(self, now: float) -> None:
        """Have the thread close what is due, from `later` and `leaving`. Called 10 times a second; never waits."""
        if now >= self._scan_at and not self._unscanned:
            self._scan_at, self._unscanned = now + SCAN_SECONDS, list(self._open)
        self._scan(now)
        while self._leaving and self._leaving[0][0] <= now:
            self._take(self._leaving.popleft()[1])
        if self._later:
            self.go()

    def _scan(self, now: float) -> None:
        streams, self._unscanned = self._unscanned[:SCANNED_AT_ONCE], self._unscanned[SCANNED_AT_ONCE:]
        for stream in streams:
            if stream not in self._open:
                continue
            if stream.socket is not None and stream.socket.fileno() < 0:
                self._take(stream)  # the server has closed the connection and lost the body
            elif stream.over:
                self.leaving(stream)
            elif stream.overdue(now):
                stream.subscriber.end = stream.subscriber.end or stream.reason
                self._take(stream)

    def _take(self, stream: Stream) -> None:
        if self.claim(stream):
            self._later.append(stream)

    def _work(self) -> None:
        while self._later:
            stream = self._later.popleft()
            try:
                self._close(stream)
            except Exception:
                log.exception("closing a stream failed")


def call_back(stream: Stream) -> None:
    """Call the host's callbacks for the end of the stream; one that fails is logged, and the others still run."""
    callbacks, stream.callbacks = stream.callbacks, ()
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("a function given to response.call_on_close failed")
