"""The sender: messages wait in a bounded set (the outbox), and a thread sends them while there are any.

    put ── Outbox, one notice per channel ── batch ── publish, many in one round trip
              ▲                                │
              └───── put back, a pause ◀───────┘ if it failed

A notice leaves the set before it is sent, so that one published meanwhile is sent too. A failed batch may have arrived
and is sent again: twice is allowed, never is not. When the set is full, one Gap replaces all notices in it.
"""

import threading
import time
from collections.abc import Callable
from itertools import islice

from ..runtime.logs import log
from .base import Disconnect, Gap, Message, Notice, Report
from .engine import Connection, ConnectionLost, pause
from .messages import Content, Probe, encode

LIMIT = 10_000
"""Messages that may wait: a few MB at most."""

BATCH = 100
"""Messages per round trip: 2 ms of work, which block gevent's hub."""


class Outbox:
    """The waiting messages, oldest first; not thread-safe."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._waiting: dict[tuple[object, ...], Message] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: Message) -> None:
        """Add a message, merged with the one of its channel. A Gap replaces all notices, also later ones."""
        key = _key(message)
        if _GAP in self._waiting and not isinstance(message, Disconnect):
            return
        earlier = self._waiting.get(key)
        if isinstance(message, Notice) and isinstance(earlier, Notice):
            message = merge(earlier, message)
        self._waiting[key] = message
        if isinstance(message, Gap) or len(self._waiting) > self._limit:
            self._collapse()

    def take(self, most: int) -> list[Message]:
        """Remove the oldest messages and return them."""
        return [self._waiting.pop(key) for key in list(islice(self._waiting, most))]

    def _collapse(self) -> None:
        """Let a Gap stand for all notices. Only when too many disconnects wait, it stands for them too."""
        kept: dict[tuple[object, ...], Message] = {
            key: message for key, message in self._waiting.items() if isinstance(message, Disconnect)
        }
        self._waiting = {_GAP: Gap()}
        if len(kept) < self._limit:
            self._waiting |= kept


def merge(a: Notice, b: Notice) -> Notice:
    """Return one notice that wakes every device that two notices of one channel would wake.

    The device that made both changes is excluded only if no other device's change can lie between them: a receiver that
    missed that change would notice it from two notices, but not from one that spans it.
    """
    first, second = sorted((a, b), key=lambda notice: notice.changed_at or 0.0)
    if a.origin_device == b.origin_device and _follows(second, first):
        return second._replace(previous_at=first.previous_at)
    changed_at = max((n.changed_at for n in (a, b) if n.changed_at is not None), default=None)
    return Notice(a.app, a.user, None, changed_at)


def start_thread(run: Callable[[], None]) -> threading.Thread | None:
    """Start a thread that sends and return it; if none can be started, log that and return None."""
    thread = threading.Thread(target=run, name="synckit-send", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        log.warning("no thread can be started to send; notices wait until the next one is published: %s", error)
        return None
    return thread


class Sender:
    """Sends in a daemon thread that lives while messages wait; any thread may call any method."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        token: str,
        *,
        longest_pause: float,
        probe_sent: Callable[[float, float], None],
        limit: int = LIMIT,
    ) -> None:
        self._connect = connect
        self._token = token
        self._longest_pause = longest_pause
        self._probe_sent = probe_sent
        self._lock = threading.Lock()
        self._outbox = Outbox(limit)
        self._probe_waits = False
        self._sending: list[Content] = []
        self._look = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._stale = False
        self._closing = False

    @property
    def pending(self) -> int:
        """Return how many messages have not been sent."""
        with self._lock:
            return len(self._outbox) + sum(not isinstance(content, Probe) for content in self._sending)

    def put(self, content: Content) -> None:
        """Send soon; returns at once and never raises."""
        with self._lock:
            if not self._closing:
                self._idle.clear()
                self._keep(content)
                self._ensure()

    def flush(self, seconds: float) -> bool:
        """Wait until no message waits to be sent, for `seconds` at most; return whether none does."""
        with self._lock:
            if not self._closing and len(self._outbox):
                self._ensure()
        self._look.set()
        self._idle.wait(seconds)
        return self.pending == 0

    def retry(self) -> None:
        """End the pause after a failure: the broker was reached."""
        self._look.set()

    def renew(self) -> None:
        """Connect anew before the next batch: what was sent does not come back."""
        self._stale = True

    def close(self, seconds: float) -> None:
        """Try once to send the waiting messages, for `seconds` at most, then close the connection."""
        with self._lock:
            self._closing = True
            thread = self._thread
        self._look.set()
        if thread is not None:
            thread.join(seconds)
        self._hang_up()

    def _keep(self, content: Content) -> None:
        if isinstance(content, Probe):
            self._probe_waits = True
        else:
            self._outbox.add(content)

    def _ensure(self) -> None:
        if self._thread is None:
            self._thread = start_thread(self._run)

    def _run(self) -> None:
        failures = 0
        while batch := self._take():
            try:
                self._send(batch)
            except Exception as error:
                failures += 1
                if not self._put_back(batch):
                    break
                self._wait_out(failures, error)
            else:
                failures = 0
        if self._closing:
            self._hang_up()

    def _take(self) -> list[Content]:
        with self._lock:
            self._sending = [*self._outbox.take(BATCH)]
            if self._probe_waits:
                self._sending.append(Probe())
                self._probe_waits = False
            if not self._sending:
                self._thread = None
                self._idle.set()
            return self._sending

    def _put_back(self, batch: list[Content]) -> bool:
        """Keep a batch that failed; return whether to try again."""
        with self._lock:
            for content in batch:
                self._keep(content)
            self._sending = []
            if self._closing:
                self._idle.set()  # nothing more will be sent
            return not self._closing

    def _send(self, batch: list[Content]) -> None:
        if self._stale:
            self._stale = False
            self._hang_up()
        try:
            connection = self._connection = self._connection or self._connect()
            started = time.monotonic()
            connection.publish([encode(self._token, content) for content in batch])
        except ConnectionLost:
            self._connection = None
            raise
        if isinstance(batch[-1], Probe):
            self._probe_sent(started, time.monotonic())

    def _wait_out(self, failures: int, error: Exception) -> None:
        """Pause, but not after the first failure: a connection that was unused for long is often stale."""
        if failures == 2:
            log.warning("notices to other processes wait until the broker accepts them: %s", error)
        if failures > 1:
            self._look.wait(pause(failures - 1, self._longest_pause))
        self._look.clear()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _follows(second: Notice, first: Notice) -> bool:
    """Return whether nothing was changed between two notices, as far as the host gives times."""
    if first.changed_at is None or second.changed_at is None:
        return first.changed_at == second.changed_at
    return second.previous_at is not None and second.previous_at <= first.changed_at


def _key(message: Message) -> tuple[object, ...]:
    """Return the key under which a later message replaces an earlier one."""
    match message:
        case Notice(app, user):
            return (Notice, app, user)
        case Report(question):
            return (Report, question)
    return (type(message), *message)


_GAP = _key(Gap())
