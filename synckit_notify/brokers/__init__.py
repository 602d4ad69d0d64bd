"""Brokers carry notices to the other processes; the scheme of the URL chooses one.

local://  local:///folder              all processes of one user on this machine
memory://                              one process
redis://  rediss://  unix://           Redis or Valkey, as redis-py reads the URL; its package is loaded only then
postgresql://                          PostgreSQL by LISTEN and NOTIFY, as libpq reads the URL; likewise

`urls.py` reads other spellings of these URLs.
"""

import hashlib
from pathlib import Path
from urllib.parse import quote

from ..errors import ConfigurationError
from .base import Broker, BrokerStatus, Disconnect, Gap, Message, Notice, Question, Report
from .listener import DEFAULT_TIMING, Timing
from .memory import MemoryBroker
from .pubsub import PubSubBroker
from .sender import LIMIT
from .urls import REDIS, normalize

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
    "default_namespace",
    "local_url",
]

NAMESPACE = "synckit"


def check_url(url: str) -> str:
    """Return the URL as its engine reads it; raises ConfigurationError if no broker can be made. Does not connect."""
    url = normalize(url)
    connect(url)
    return url


def default_namespace(url: str, service: str) -> str:
    """Return the namespace of a service for which none is configured; `service` is what tells it from others.

    All services of a user share the folder of local://; a server of Redis or PostgreSQL is usually one service's own.
    """
    digest = hashlib.sha256(service.encode()).hexdigest()[:12]
    return f"{NAMESPACE}-{digest}" if url.startswith("local://") else NAMESPACE


def local_url(folder: Path) -> str:
    """Return the URL of the broker of this machine in a folder; of the default folder if the name is too long."""
    from .local_folder import is_short_enough

    return f"local://{quote(str(folder))}" if is_short_enough(folder) else "local://"


def connect(url: str, namespace: str = NAMESPACE, *, timing: Timing | None = None, limit: int = LIMIT) -> Broker:
    """Return a new broker for a URL; only processes with the same namespace exchange messages."""
    url = normalize(url)
    scheme = url.partition("://")[0]
    if scheme == "memory":
        return MemoryBroker()
    if scheme == "local":
        from . import local

        return local.make_broker(url, namespace, timing=timing, limit=limit)
    timing = timing or DEFAULT_TIMING
    if scheme in REDIS:
        from .redis import RedisEngine

        return PubSubBroker(RedisEngine(url, namespace, timeout=timing.answer), timing=timing, limit=limit)
    if scheme == "postgresql":
        from .postgres import PostgresEngine

        return PubSubBroker(PostgresEngine(url, namespace, timeout=timing.answer), timing=timing, limit=limit)
    schemes = "://, ".join(("local", "memory", *REDIS, "postgresql"))
    raise ConfigurationError(f"SYNCKIT_BROKER_URL must begin with {schemes}://, not {scheme!r}")
