"""This process: everything an application holds per process, made at its first use inside the worker.

    Worker ── registry   who listens here
           ├─ broker     the way to the other processes
           ├─ drain      10 times a second: is gunicorn stopping this worker? then every stream ends cleanly
           └─ sweep      every few seconds: which channels changed without our hearing of it?

The two background threads run only while streams are open. Nothing is made at import or in `init_app`, so
preloading, forking and late monkey-patching cannot hurt. Threads are looked up as `threading.X` at the time of use,
so that they are greenlets where gevent has patched.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from .brokers import Broker, Disconnect, Message, Notice
from .registry import ChannelKey, End, Registry, Subscriber

log = logging.getLogger("synckit_notify")

DRAIN_POLL_SECONDS = 0.1
SWEEP_OVERLAP = timedelta(seconds=5)
"""How far each sweep looks back behind the last one: slow commits, and clocks that differ."""

ChangedChannels = Callable[[datetime], Iterable[tuple[ChannelKey, float | None]]]

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that every process makes for itself, at first use; `make` must have no side effect."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's value."""
        pid = os.getpid()
        made = self._made.get(pid)
        return made if made is not None else self._made.setdefault(pid, self._make())


class Worker:
    """The streams of one application in one process; any thread may call anything."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        *,
        changed_channels: ChangedChannels | None = None,
        sweep_seconds: float = 3.0,
    ) -> None:
        self.registry = registry
        self.broker = broker
        self._gunicorn = gunicorn_worker()
        self._start = threading.Lock()
        self._started = False
        self._watches: list[Periodic] = []
        if self._gunicorn is not None:
            self._watches.append(Periodic("synckit-drain", DRAIN_POLL_SECONDS, self._drain_if_stopping, self.busy))
        if changed_channels is not None:
            sweep = Sweep(registry, changed_channels)
            self._watches.append(Periodic("synckit-sweep", sweep_seconds, sweep.run, self.busy, sweep.begin))

    @property
    def draining(self) -> bool:
        """Whether gunicorn is stopping this process: TERM, HUP and max_requests alike."""
        return self._gunicorn is not None and not self._gunicorn.alive

    def busy(self) -> bool:
        """Whether streams are open here."""
        return len(self.registry) > 0

    def open(self, key: ChannelKey, device: str | None) -> Subscriber:
        """Register a subscriber; raises TooManyStreams. While draining it is one that ends at once."""
        self._begin()
        subscriber = self.registry.subscribe(key, device)
        if self.draining:
            subscriber.end = End.DRAINING
        try:
            for watch in self._watches:
                watch.ensure()
        except BaseException:  # no thread to be had: nobody will ever read this subscriber
            self.registry.release(subscriber)
            raise
        return subscriber

    def announce(self, message: Message) -> None:
        """Deliver here at once, then hand the message to the other processes."""
        self._begin()
        self.receive(message)
        self.broker.publish(message)

    def receive(self, message: Message) -> None:
        """Deliver here what was announced anywhere."""
        match message:
            case Notice(app, user, origin, changed_at, previous_at):
                key = ChannelKey(app, user)
                self.registry.deliver(key, origin, changed_at=changed_at, previous_at=previous_at)
            case Disconnect(app, user, device):
                self.registry.end(ChannelKey(app, user), End.REVOKED, device)

    def settle(self) -> None:
        """Let the background threads end now if no stream needs them, and wait until they have."""
        for watch in self._watches:
            watch.settle()

    def _begin(self) -> None:
        if self._started:
            return
        with self._start:
            if not self._started:
                self.broker.start(self.receive)
                self._started = True

    def _drain_if_stopping(self) -> None:
        if self.draining:
            self.registry.end_all(End.DRAINING)


class Periodic:
    """A daemon thread that calls `work` every `seconds` while it is `needed`, started again on demand."""

    def __init__(
        self,
        name: str,
        seconds: float,
        work: Callable[[], None],
        needed: Callable[[], bool],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._needed = needed
        self._begin = begin
        self._lock = threading.Lock()
        self._look = threading.Event()
        self._thread: threading.Thread | None = None

    def ensure(self) -> None:
        """Start the thread unless it runs. Call after the need has arisen, never before."""
        with self._lock:
            if self._thread is None:
                self._look.clear()
                self._begin()
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def settle(self) -> None:
        """Make the thread ask now whether it is needed, and wait for its end if it is not."""
        thread = self._thread
        self._look.set()
        if thread is not None and not self._needed():
            thread.join(self._seconds)

    def _run(self) -> None:
        while True:
            self._look.wait(self._seconds)
            self._look.clear()
            if self._over():
                return
            try:
                self._work()
            except Exception:
                log.exception("%s failed; it is tried again in %g s", self._name, self._seconds)

    def _over(self) -> bool:
        with self._lock:
            if self._needed():
                return False
            self._thread = None
            return True


class Sweep:
    """Repairs what a crash, a reload or a broker swallowed: asks the host which channels changed lately."""

    def __init__(self, registry: Registry, changed_channels: ChangedChannels) -> None:
        self._registry = registry
        self._changed_channels = changed_channels
        self._since = datetime.now(UTC)

    def begin(self) -> None:
        """Start over: what came before the first stream is pulled when that stream connects."""
        self._since = datetime.now(UTC)

    def run(self) -> None:
        """Wake every channel that changed since the last sweep unheard; a sweep that fails is made up for."""
        started = datetime.now(UTC)
        for key, changed_at in self._changed_channels(self._since - SWEEP_OVERLAP):
            self._registry.deliver_missed(key, changed_at)
        self._since = started


def gunicorn_worker() -> Any | None:
    """Return the gunicorn worker that this process is, if any.

    Its SIGTERM handler is the bound method `Worker.handle_exit`, so the worker can be found in any host's
    configuration, without a hook. `alive` turns false on TERM, HUP, QUIT and max_requests.
    """
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if hasattr(owner, "alive") and hasattr(owner, "cfg") else None


def stream_limit() -> int | None:
    """Return how many streams leave this process room for other requests: nine tenths of what it can hold.

    A full gunicorn worker accepts connections and then says nothing, not even an error, so the limit must lie below
    `worker_connections` (gevent), `threads` (gthread) and the descriptors of the process. None: not under gunicorn.
    """
    worker = gunicorn_worker()
    if worker is None:
        return None
    cfg = worker.cfg
    seats: int = cfg.threads if cfg.worker_class_str == "gthread" else cfg.worker_connections
    return min(seats, _descriptors()) * 9 // 10


def _descriptors() -> int:
    import resource  # not on Windows, where gunicorn does not run either

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
