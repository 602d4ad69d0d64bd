"""What lies between processes: the messages that travel, and the protocol of a broker.

A broker only makes things fast. Whoever publishes has already delivered in its own process; a message that a
broker loses costs one sweep, never a change.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Notice(NamedTuple):
    """A push was committed; times are Unix seconds, None where the host does not tell them."""

    app: str
    user: str
    origin_device: str | None = None
    changed_at: float | None = None
    previous_at: float | None = None


class Disconnect(NamedTuple):
    """The streams of a user, or of one device of theirs, shall end."""

    app: str
    user: str
    device: str | None = None


class Gap(NamedTuple):
    """Messages may have been lost somewhere: everybody looks."""


Message = Notice | Disconnect | Gap


class Link(NamedTuple):
    """How the way to the other processes is, for `/ready`, the metrics and the log."""

    connected: bool = True
    echo: bool = True
    """Whether this process hears its own probe."""
    gaps: int = 0
    """How often messages may have been missed so far."""
    invalid: int = 0
    """Messages that were dropped: malformed, foreign or too new."""
    pending: int = 0
    """Messages that wait to be sent."""


class Broker(Protocol):
    """Carries messages to the other processes; made in the worker process, every method thread-safe."""

    name: str

    def start(self, receive: Callable[[Message], None]) -> None:
        """Begin to hand the messages of other processes to `receive`."""

    def publish(self, message: Message) -> None:
        """Send to the other processes; returns at once and never raises."""

    def link(self) -> Link:
        """Return how the way to the other processes is now."""

    def close(self) -> None:
        """Let go of every thread and connection."""
