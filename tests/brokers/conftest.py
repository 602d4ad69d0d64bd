"""Brokers on a real server, and what they heard."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.brokers import Broker, Gap, Message
from synckit_notify.brokers.listener import Timing
from synckit_notify.brokers.redis import RedisBroker

from ..support import wait
from ..support.valkey import Valkey

QUICK = Timing(ping=0.1, probe=0.2, answer=1.0, longest_pause=0.1)
"""For outages. Where none is wanted, the tests use the real periods, so that a busy machine makes none."""


class Heard:
    """Receives messages and remembers them, and apart from the rest when a gap came."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.gap_times: list[float] = []
        self.threads: set[str] = set()

    def __call__(self, message: Message) -> None:
        self.threads.add(threading.current_thread().name)
        if isinstance(message, Gap):
            self.gap_times.append(time.monotonic())
        else:
            self.messages.append(message)

    @property
    def gaps(self) -> int:
        return len(self.gap_times)


class Process:
    """What a worker process has: a broker that listens, and what it heard."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard = Heard()
        broker.start(self.heard)

    def ready(self) -> bool:
        link = self.broker.status()
        return link.connected and link.echo


MakeBroker = Callable[..., RedisBroker]
MakeProcess = Callable[..., Process]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def broker() -> Iterator[MakeBroker]:
    """Make brokers that are closed after the test."""
    made: list[RedisBroker] = []

    def make(url: str, namespace: str = "synckit", **options: Any) -> RedisBroker:
        made.append(RedisBroker(url, namespace, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def process(broker: MakeBroker) -> MakeProcess:
    """Make brokers that listen, as if in processes of their own, ready to hear each other."""

    def make(url: str, namespace: str = "synckit", **options: Any) -> Process:
        process = Process(broker(url, namespace, **options))
        assert until(process.ready)
        return process

    return make


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    return wait.until(condition, seconds)
