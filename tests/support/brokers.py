"""Brokers that listen, and a record of the messages that they received."""

import threading
import time
from collections.abc import Callable

from synckit_notify.brokers import Broker, Gap, Message
from synckit_notify.brokers.listener import Timing

QUICK = Timing(ping=0.1, probe=0.2, answer=1.0, longest_pause=0.1)
"""For outages. Where none is wanted, the tests use the real periods, so that a busy machine makes none."""


class Heard:
    """Receives messages and remembers them; `gap_times` holds when each gap came."""

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
    """The part of a worker process that the tests need: a broker that listens, and the messages it received."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.heard = Heard()
        broker.start(self.heard)

    def ready(self) -> bool:
        link = self.broker.status()
        return link.connected and link.echo


MakeBroker = Callable[..., Broker]
MakeProcess = Callable[..., Process]
