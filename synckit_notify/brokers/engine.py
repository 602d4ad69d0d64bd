"""What an engine brings to the broker that is built on it: one connection at a time.

An engine (Redis, PostgreSQL, the sockets of this machine) only connects, subscribes, publishes, waits and pings. The
listener and the sender decide when, notice a connection that is lost or deaf, and connect again.
"""

import random
from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol


class ConnectionLost(Exception):
    """The connection failed and is closed; the message holds no password.

    `pause_seconds` is how long to wait before the next attempt; None for the usual pause.
    """

    is_reported = False
    """Whether the engine has written a log line already."""

    def __init__(self, message: str, *, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class Signal(Enum):
    """What a connection receives beside messages."""

    SUBSCRIBED = auto()
    """The broker accepted the subscription."""
    PONG = auto()
    """The answer to a ping."""
    GAP = auto()
    """Messages were lost, though the subscription is alive."""


class Connection(Protocol):
    """One connection, used by one thread. Another thread may close it, which ends a waiting read.

    Every method but `close` raises ConnectionLost.
    """

    def subscribe(self) -> None:
        """Ask for the messages of other processes; SUBSCRIBED is received when the broker has accepted that."""

    def wait(self, seconds: float) -> bytes | Signal | None:
        """Return what is received next: a message or a signal; None after `seconds`."""

    def ping(self) -> None:
        """Ask for a PONG."""

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send messages to every process that is subscribed; return when they are accepted."""

    def close(self) -> None:
        """Close; never raises."""


class Engine(Protocol):
    """The address and options of a broker; nothing is opened before `connect`."""

    name: str
    is_instant: bool
    """Whether `connect` returns at once with a connection that is subscribed already."""
    deaf_warning: str | None
    """Logged once if two subscriptions in a row were accepted and no message came: a pooler may be in between.

    None if every accepted subscription works. Otherwise one counts only when a message of this process has come back.
    """
    queue_usage: float
    """How full the broker's own queue was at the last ping, from 0 to 1; 0 if it has none."""

    def connect(self) -> Connection:
        """Return an open connection; raises ConnectionLost."""

    def describe(self) -> str:
        """Return the address and the namespace for a person to read; without a password."""


def pause(failures: int, longest: float) -> float:
    """Return the seconds to wait after this many failures in a row, randomized."""
    return random.uniform(0.5, 1.0) * min(longest, 0.25 * 2.0 ** min(failures, 16))
