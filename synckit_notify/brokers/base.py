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


class BrokerStatus(NamedTuple):
    """How the way to the other processes is, for `/ready`, the metrics and the log."""

    connected: bool
    """Subscribed now."""
    echo: bool
    """What this process sends came back to it lately."""
    gaps: int
    """How often messages may have been missed so far; the first subscription counts."""
    invalid: int
    """Messages dropped because they were malformed or foreign."""
    pending: int
    """Messages that wait to be sent."""


class Broker(Protocol):
    """Carries messages to the other processes; made in the worker process, every method thread-safe."""

    name: str

    def start(self, receive: Callable[[Message], None]) -> None:
        """Begin to hand the messages of other processes to `receive`, from a thread of the broker's own.

        Called once, at the first stream. Every confirmed subscription, the first one included, begins with a Gap.
        """

    def publish(self, message: Message) -> None:
        """Send to the other processes, also before `start` or without it; returns at once and never raises."""

    def status(self) -> BrokerStatus:
        """Return how the way to the other processes is now."""

    def flush(self, seconds: float) -> bool:
        """Wait until nothing is pending, for so many seconds at most; return whether nothing is."""

    def close(self) -> None:
        """Let go of every thread and connection; waits at most two seconds for what is pending."""
