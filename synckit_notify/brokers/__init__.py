"""Brokers carry notices to the other processes; the scheme of the URL chooses one.

memory://                              one process
redis://  rediss://  unix://           Redis or Valkey, as redis-py reads the URL; its package is loaded only then
"""

from ..errors import ConfigurationError
from .base import Broker, BrokerStatus, Disconnect, Gap, Message, Notice, Question, Report
from .listener import DEFAULT_TIMING, Timing
from .memory import MemoryBroker
from .pubsub import PubSubBroker
from .sender import LIMIT

__all__ = [
    "Broker",
    "BrokerStatus",
    "Disconnect",
    "Gap",
    "Message",
    "Notice",
    "Question",
    "Report",
    "check_url",
    "connect",
]

_REDIS = ("redis", "rediss", "unix")


def check_url(url: str) -> str:
    """Return the URL; raises ConfigurationError if no broker can be made for it. Does not connect."""
    connect(url)
    return url


def connect(url: str, namespace: str = "synckit", *, timing: Timing = DEFAULT_TIMING, limit: int = LIMIT) -> Broker:
    """Return a new broker for a URL; only processes with the same namespace exchange messages."""
    scheme = url.partition("://")[0] if "://" in url else None
    if scheme == "memory":
        return MemoryBroker()
    if scheme in _REDIS:
        from .redis import RedisEngine

        return PubSubBroker(RedisEngine(url, namespace, timeout=timing.answer), timing=timing, limit=limit)
    raise ConfigurationError(f"SYNCKIT_BROKER_URL must begin with memory://, {'://, '.join(_REDIS)}://, not {scheme!r}")
