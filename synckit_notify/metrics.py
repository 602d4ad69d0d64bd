"""What Prometheus is told, if prometheus-client is installed: the numbers of every Node, summed over the process.

In: the plain Counts of a registry, once a second, and the few things that are timed. Out: the default registry of
prometheus-client, so a host that exports its own metrics exports these too; `exposition` is our own route's answer.
With several workers set PROMETHEUS_MULTIPROC_DIR, as prometheus-client demands, and all workers answer for all.

Made in the worker process, at its first use: the client library makes locks when it is imported.
"""

import os
import threading
from collections import Counter
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

from .brokers import BrokerStatus
from .runtime.per_process import PerProcess
from .streams.counters import Counters

FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds in seconds: a publish takes some 50 µs, a pass of the event loop under load some milliseconds."""


class Metrics(Protocol):
    """What one Node tells; every method is cheap and may be called from any thread."""

    def report(self, counters: Counters, status: BrokerStatus) -> None:
        """Tell what has happened since the last report."""

    def published(self, seconds: float) -> None:
        """Tell how long a publish took, its delivery in this process included."""

    def hub_delay(self, seconds: float) -> None:
        """Tell how late a timer of this process was."""

    def refused(self, status: int) -> None:
        """Tell of a subscribe that was refused."""


class NoMetrics:
    """Nobody listens: prometheus-client is not installed."""

    def report(self, counters: Counters, status: BrokerStatus) -> None: ...
    def published(self, seconds: float) -> None: ...
    def hub_delay(self, seconds: float) -> None: ...
    def refused(self, status: int) -> None: ...


class PrometheusMetrics:
    """Adds what one Node did since its last report to the collectors that all Nodes of the process share."""

    def __init__(self) -> None:
        with _making.get():
            self._shared = _collectors()
        self._told = {"open": 0, "opened": 0, "frames": 0, "dropped": 0, "gaps": 0, "invalid": 0}
        self._ended: Counter[str] = Counter()

    def report(self, counters: Counters, status: BrokerStatus) -> None:
        shared = self._shared
        shared.open.inc(self._news("open", counters.open))
        shared.opened.inc(self._news("opened", counters.opened))
        shared.frames.inc(self._news("frames", counters.frames))
        shared.dropped.inc(self._news("dropped", counters.dropped))
        shared.gaps.inc(self._news("gaps", status.gaps))
        shared.invalid.inc(self._news("invalid", status.invalid))
        shared.echo.set(status.connected and status.echo)
        ended = counters.ended.copy()
        for reason, number in (ended - self._ended).items():
            shared.ended.labels(reason).inc(number)
        self._ended = ended

    def published(self, seconds: float) -> None:
        self._shared.publish.observe(seconds)

    def hub_delay(self, seconds: float) -> None:
        self._shared.hub.observe(seconds)

    def refused(self, status: int) -> None:
        self._shared.refused.labels(status).inc()

    def _news(self, name: str, now: int) -> int:
        before, self._told[name] = self._told[name], now
        return now - before


def connect() -> Metrics:
    """Return the way to Prometheus, or one that leads nowhere."""
    try:
        return PrometheusMetrics()
    except ImportError:
        return NoMetrics()


def exposition() -> tuple[bytes, str]:
    """Return all metrics of the process, or of all workers, and their content type.

    Raises ImportError without prometheus-client.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST


_making = PerProcess(threading.Lock)


@cache
def _collectors() -> Any:
    from prometheus_client import Counter, Gauge, Histogram

    return SimpleNamespace(
        open=Gauge("synckit_streams_open", "Open event streams", multiprocess_mode="livesum"),
        opened=Counter("synckit_streams_opened", "Event streams that were opened"),
        ended=Counter("synckit_streams_ended", "Event streams that ended, by reason", ["reason"]),
        refused=Counter("synckit_subscribes_refused", "Subscribes that were refused, by status", ["status"]),
        frames=Counter("synckit_frames", "Changed frames taken for writing"),
        dropped=Counter("synckit_frames_dropped", "Changed frames that a full buffer pushed out"),
        publish=Histogram("synckit_publish_seconds", "Time a publish took in its request", buckets=FAST),
        hub=Histogram("synckit_hub_delay_seconds", "How late a timer of the process was", buckets=FAST),
        gaps=Counter("synckit_broker_gaps", "Times when notices of other processes may have been lost"),
        invalid=Counter("synckit_broker_invalid_messages", "Messages of the broker that were dropped"),
        echo=Gauge("synckit_broker_heard", "Whether this process hears its own probe", multiprocess_mode="livemin"),
    )
