"""A Node: everything that an application holds in one process, made at the first use inside the worker.

    Node ──┬─ registry   the open streams of this process
           ├─ broker     the connection to the other processes
           ├─ pulse      10 times a second: if gunicorn is stopping this worker (drain), end every stream cleanly
           ├─ peers      notices clients that disconnect or stop reading
           ├─ sweep      every few seconds: wakes channels that changed without a notice
           └─ recovery   after a gap of the broker

The background threads run only while streams are open. Nothing is made at import or in `init_app`, so preloading,
forking and late monkey-patching do no harm.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator

from .brokers import Broker, Disconnect, Gap, Message, Notice, Question, Report
from .brokers.messages import MAX_ID_LENGTH, apps_that_fit
from .errors import Refused, TooManyStreams
from .metrics import Metrics, NoMetrics
from .runtime import gevent_compat, wsgi_server
from .runtime.background import Periodic
from .runtime.logs import LINES_PER_SECOND, RateLimitedLog
from .streams import peers
from .streams.channel import ChannelKey, EndReason, Subscriber
from .streams.closing import Closer, call_back
from .streams.parking import ParkedStream, Parking
from .streams.peers import PeerWatch
from .streams.recovery import ChangedChannels, GapRecovery, Revoked, Sweep
from .streams.registry import NO_LIMITS, Limits, Registry
from .streams.stream import Deadline, Stream, frames

PULSE_SECONDS = 0.1
PEER_SECONDS = 1.0
"""How often the thread of the peer watch checks whether it is still needed; a peer that leaves wakes it at once."""

LAST_BYTES_SECONDS = 0.5
"""At a drain, a peer that does not read delays the end of the worker by this at most."""

REPORT_SECONDS = 1.0
"""How often the metrics are updated and stalled peers are looked for: 1 ms of work at 10,000 streams."""

REPORTS_PER_SECOND = 10
"""How many questions are answered in a second. Counting streams takes 1 ms at 10,000 channels and is done once."""


class Node:
    """The streams of one application in one process; any thread may call any method."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        *,
        changed_channels: ChangedChannels | None = None,
        sweep_seconds: float = 3.0,
        revoked: Revoked | None = None,
        metrics: Metrics | None = None,
        parks: bool = False,
    ) -> None:
        self.registry = registry
        self.broker = broker
        self.metrics = metrics or NoMetrics()
        self._gunicorn = wsgi_server.gunicorn_worker()
        self._listening = threading.Lock()
        self._listens = False
        self._pulse_due = 0.0
        self._report_due = 0.0
        self._count_due = 0.0
        self._counted: dict[str, int] = {}
        self._reports_left = 0
        self._log = RateLimitedLog(LINES_PER_SECOND, seconds=1.0)
        self._closer = Closer(self._close, self.busy)
        self._peers = PeerWatch(self._gone, lambda stream: registry.wakeups.wake([stream]))
        self.parking = Parking(registry, self._peers, self._closer.claim, self._ended) if parks else None
        self._uses_timer = gevent_compat.is_patched()
        self._recovery = GapRecovery(registry, revoked)
        self._peer_watch = Periodic("synckit-peers", PEER_SECONDS, self._peers.look, self.busy, pause=self._peers.wait)
        self._watches = [
            Periodic("synckit-pulse", PULSE_SECONDS, self._pulse, self.busy, begin=self._begin, finish=self.report)
        ]
        if changed_channels is not None:
            sweep = Sweep(registry, changed_channels, recovers=self._recovers)
            self._watches.append(Periodic("synckit-sweep", sweep_seconds, sweep.run, self.busy, begin=sweep.begin))

    @property
    def draining(self) -> bool:
        """Return whether gunicorn is stopping this process (TERM, HUP or max_requests)."""
        return self._gunicorn is not None and not self._gunicorn.alive

    def busy(self) -> bool:
        """Return whether streams are open here, or ended but not closed yet."""
        return len(self.registry) > 0 or self._closer.busy

    def open(self, key: ChannelKey, device: str | None, limits: Limits = NO_LIMITS) -> Subscriber:
        """Register a subscriber; raises TooManyStreams. While draining, its stream ends at once."""
        with _threads():
            self._listen()  # first: from here on a push in another process is heard
        subscriber = self.registry.subscribe(key, device, limits)
        if self.draining:
            subscriber.end = EndReason.DRAINING
        try:
            with _threads():
                for watch in self._watches:
                    watch.ensure()
            self._ensure_timer()
        except BaseException:  # no server will iterate this stream
            self.registry.release(subscriber)
            raise
        return subscriber

    def begin(
        self, subscriber: Subscriber, sock: socket.socket | None, *, keepalive: float, ends: Deadline, may_park: bool
    ) -> tuple[Stream, Iterator[bytes]]:
        """Return the stream of a subscriber and the frames that a server iterates; raises TooManyStreams.

        With the client's socket, if it is known, the stream ends when its client leaves. `may_park` says whether the
        server lets go of that socket.
        """
        stream: Stream
        if may_park and sock is not None and self.parking is not None:
            stream = parked = ParkedStream(subscriber, keepalive=keepalive, ends=ends)
            chunks = self.parking.frames_then_park(parked, sock)
        else:
            stream = Stream(subscriber, keepalive=keepalive, ends=ends)
            chunks = frames(stream)
        stream.socket = sock
        self._closer.add(stream)
        if sock is not None:
            peers.set_socket_limits(sock)
            self._peers.watch(stream)
            try:
                with _threads():
                    self._peer_watch.ensure()
            except BaseException:
                self.close(stream)
                raise
        return stream, chunks

    def refused(self, refusal: Refused) -> None:
        """Count a refused request and write one log line, without its token."""
        self._log.info("subscribe refused status=%d: %s", refusal.status, refusal)
        self.metrics.refused(refusal.status)

    def close(self, stream: Stream) -> None:
        """Close a stream, for its server; while draining, its connection accepts no further request."""
        if self._closer.claim(stream):
            if stream.socket is not None and self.draining:
                peers.shutdown_read(stream.socket)
            self._close(stream)

    def abandon(self, stream: Stream) -> None:
        """Close a stream a little later: for a finalizer, which may run while this thread holds a lock."""
        if self._closer.claim(stream):
            self.registry.abandon(stream.subscriber)
            self._closer.later(stream)

    def publish(self, message: Message) -> int:
        """Deliver a message in this process at once, then hand it to the broker for the other processes.

        Return how many streams got it here.
        """
        began = time.perf_counter()
        streams = self._deliver(message)
        self.broker.publish(message)
        self.metrics.published(time.perf_counter() - began)
        return streams

    def receive(self, message: Message) -> None:
        """Deliver in this process what was published in any process."""
        self._deliver(message)

    def report(self) -> None:
        """Update the metrics."""
        self.metrics.report(self.registry.counters, self.broker.status())

    def join_idle(self) -> None:
        """Make the background threads end now if no stream needs them, and wait for that."""
        for watch in (*self._watches, self._peer_watch, self._closer.thread):
            watch.join_idle()
        self.registry.timer.join_idle()
        self._recovery.join_idle()

    def _deliver(self, message: Message) -> int:
        match message:
            case Notice(app, user, origin, changed_at, previous_at):
                key = ChannelKey(app, user)
                return self.registry.deliver(key, origin, changed_at=changed_at, previous_at=previous_at)
            case Disconnect(app, user, device):
                return self.registry.end(ChannelKey(app, user), EndReason.REVOKED, device)
            case Gap():
                self._recovery.gap()
            case Question(question):
                self._answer(question)
        return 0

    def _answer(self, question: str) -> None:
        """Tell a command which streams are open here; anybody who reaches the broker may ask, so not too often."""
        now = time.monotonic()
        if now >= self._count_due:
            self._count_due, self._reports_left = now + 1.0, REPORTS_PER_SECOND
            self._counted = self.registry.count_by_app()
        if self._reports_left == 0:
            return
        self._reports_left -= 1
        server, streams = wsgi_server.of_process(), sum(self._counted.values())
        self.broker.publish(
            Report(
                question,
                host=socket.gethostname()[:MAX_ID_LENGTH] or "unnamed",
                pid=os.getpid(),
                node=f"{id(self):x}",
                server=server.name[:MAX_ID_LENGTH] if server else "",
                streams=streams,
                parked=min(streams, self.registry.counters.parked),
                apps=apps_that_fit(self._counted),
            )
        )

    def _recovers(self) -> bool:
        """Return whether missing notices are explained: the broker is away, or a gap is not recovered yet."""
        return self._recovery.is_open or not self.broker.status().connected

    def _listen(self) -> None:
        if self._listens:
            return
        with self._listening:
            if not self._listens:
                self.broker.start(self.receive)
                self._listens = True

    def _begin(self) -> None:
        self._pulse_due = time.monotonic() + PULSE_SECONDS

    def _pulse(self) -> None:
        now = time.monotonic()
        self.metrics.hub_delay(max(0.0, now - self._pulse_due))
        self._pulse_due = now + PULSE_SECONDS
        self._recovery.ensure()
        self.registry.timer.check()
        self._closer.check(now)
        if self.draining:
            self.registry.end_all(EndReason.DRAINING)
            self._peers.cut_stalled(now, LAST_BYTES_SECONDS)
        if now >= self._report_due:
            self._report_due = now + REPORT_SECONDS
            self._ensure_timer()
            self.report()
            self._peers.cut_stalled(now)

    def _ensure_timer(self) -> None:
        """Start the timer, or start it again, where a thread is a greenlet; elsewhere a timeout costs no more."""
        if self._uses_timer:
            self.registry.timer.ensure()

    def _gone(self, stream: Stream, how: EndReason) -> None:
        """End a stream whose client has left, and make sure that it is closed even if its server forgets it."""
        self.registry.end_one(stream.subscriber, how)
        self._closer.leaving(stream)

    def _ended(self, streams: list[Stream]) -> None:
        """Close parked streams; their places under the limits are free at once."""
        for stream in streams:
            self.registry.release(stream.subscriber)
            self._closer.later(stream)
        self._closer.go()

    def _close(self, stream: Stream) -> None:
        """Release a stream and write one log line: with the app, never the user, an address or a token."""
        self._peers.forget(stream)
        self.registry.release(stream.subscriber)
        now = time.monotonic()
        age = 0.0 if stream.opened_at is None else now - stream.opened_at
        reason, app = stream.subscriber.end or EndReason.CLOSED, stream.subscriber.channel.key.app
        self._log.info("stream ended reason=%s age=%.1f app=%s", reason, age, app)
        call_back(stream)
        if self.parking is not None and stream.subscriber.stream is not None:
            self.parking.left()


class _threads:
    """Turns a thread that cannot be started into TooManyStreams; the next stream tries again.

    A class, since each stream enters it three times, and a generator's context manager takes 10,000 instructions.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RuntimeError):
            raise TooManyStreams("this server cannot start another thread now", status=503) from error
