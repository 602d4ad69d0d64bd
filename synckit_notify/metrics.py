"""Metrics for Prometheus, if prometheus-client is installed: the counts of every Node, summed over the process.

In: the Counters of a registry, once a second, and the few durations that are timed. Out: the default registry of
prometheus-client, so a host that exports its own metrics exports these too; `exposition` is the body of our own route.
With several workers, set PROMETHEUS_MULTIPROC_DIR as prometheus-client requires: then each worker answers for all.

Made in the worker process, at the first use: the client library makes locks when it is imported.
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
"""Upper bounds in seconds: a publish takes about 50 µs, a pass of a loaded event loop some milliseconds."""


class Metrics(Protocol):
    """What one Node reports; every method is cheap and may be called from any thread."""

    def report(self, counters: Counters, status: BrokerStatus) -> None:
        """Report the current counts."""

    def published(self, seconds: float) -> None:
        """Report how long a publish took, including its delivery in this process."""

    def hub_delay(self, seconds: float) -> None:
        """Report how late a timer of this process was, in seconds."""

    def refused(self, status: int) -> None:
        """Report a subscribe request that was refused."""


class NoMetrics:
    """Does nothing: prometheus-client is not installed."""

    def report(self, counters: Counters, status: BrokerStatus) -> None: ...
    def published(self, seconds: float) -> None: ...
    def hub_delay(self, seconds: float) -> None: ...
    def refused(self, status: int) -> None: ...


class PrometheusMetrics:
    """Adds the news of one Node since its last report to the collectors that all Nodes of the process share."""

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
        shared.queue.set(status.queue_usage)
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
    """Return PrometheusMetrics, or NoMetrics if prometheus-client is not installed."""
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
        dropped=Counter("synckit_frames_dropped", "Changed frames dropped from a full buffer"),
        publish=Histogram("synckit_publish_seconds", "Time a publish took in its request", buckets=FAST),
        hub=Histogram("synckit_hub_delay_seconds", "How late a timer of the process was", buckets=FAST),
        gaps=Counter("synckit_broker_gaps", "Times when notices of other processes may have been lost"),
        invalid=Counter("synckit_broker_invalid_messages", "Messages from the broker that were malformed and dropped"),
        echo=Gauge(
            "synckit_broker_heard",
            "Whether this process receives its own probe from the broker",
            multiprocess_mode="livemin",
        ),
        queue=Gauge(
            "synckit_broker_queue_usage",
            "How full the broker's own queue is, from 0 to 1; only PostgreSQL has one",
            multiprocess_mode="livemax",
        ),
    )
