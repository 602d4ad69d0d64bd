"""Close every stream once, whoever lets go of it first.

    the server calls close() ────────────────▶ at once, in the server's thread
    the last reference to the body goes ──┐
    its client has left, or its time is ──┼──▶ soon, in the thread of this file
      over, and nobody has closed it      │
    it was parked, and is over ───────────┘

To close is to give the seat back, to write one line to the log, and to call what the host left with
`response.call_on_close`. A host's code and its log handlers may wait or fail, so neither runs in the threads that serve
the other streams. `claim` decides who closes: it is true once.
"""

import time
from collections import deque
from collections.abc import Callable

from ..runtime.background import Periodic
from ..runtime.logs import log
from .stream import Stream

GRACE_SECONDS = 0.5
"""How long a stream whose client has left is left to its server, which closes it within milliseconds."""

IDLE_SECONDS = 1.0
"""How often the thread asks whether any stream is left; what there is to close wakes it at once."""

SCAN_SECONDS = 0.8
"""How often all streams that a server iterates are looked at: 3 ms of work at 10,000."""


class Closer:
    """The streams that a server iterates; `close(stream)` is called for those that their server does not close.

    Its thread starts with the first of these and stays while it is `needed`: starting it costs more than they do.
    """

    def __init__(self, close: Callable[[Stream], None], needed: Callable[[], bool]) -> None:
        self._close = close
        self._open: set[Stream] = set()
        self._leaving: deque[tuple[float, Stream]] = deque()
        self._scan_at = 0.0
        self._later: deque[Stream] = deque()
        self.thread = Periodic("synckit-close", IDLE_SECONDS, self._work, needed)

    @property
    def busy(self) -> bool:
        """Return whether there are streams that are not closed yet."""
        return bool(self._open or self._later)

    def add(self, stream: Stream) -> None:
        """Begin for a stream that a server is going to iterate."""
        self._open.add(stream)

    def claim(self, stream: Stream) -> bool:
        """Take a stream out of the server's hands; return False if somebody else has."""
        try:
            self._open.remove(stream)
        except KeyError:
            return False
        return True

    def later(self, stream: Stream) -> None:
        """Have a claimed stream closed at the next `check` or `go`. Takes no lock, so a finalizer may call it."""
        self._later.append(stream)

    def go(self) -> None:
        """Close now, in the thread, what was left here."""
        self.thread.ensure()
        self.thread.wake()

    def leaving(self, stream: Stream) -> None:
        """Give the server of a stream that must end a moment to close it."""
        if stream in self._open:
            self._leaving.append((time.monotonic() + GRACE_SECONDS, stream))

    def check(self, now: float) -> None:
        """Close what was left here and what nobody has closed in time. Called ten times a second; never waits."""
        if now >= self._scan_at:
            self._scan_at = now + SCAN_SECONDS
            self._scan(now)
        while self._leaving and self._leaving[0][0] <= now:
            self._take(self._leaving.popleft()[1])
        if self._later:
            self.go()

    def _scan(self, now: float) -> None:
        for stream in list(self._open):
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
                log.exception("a stream could not be closed in order")


def call_back(stream: Stream) -> None:
    """Call what the host left for the end of the stream; one that fails is logged and keeps none from being called."""
    callbacks, stream.callbacks = stream.callbacks, ()
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("a function given to response.call_on_close failed")
