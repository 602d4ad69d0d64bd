"""Between processes: the messages, and the protocol of a broker.

A broker only makes notices fast. A publisher has delivered in its own process already; a message that the broker loses
is found by the next sweep, and no change is lost.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Notice(NamedTuple):
    """A push was committed; times are Unix seconds, None if the host does not give them."""

    app: str
    user: str
    origin_device: str | None = None
    changed_at: float | None = None
    previous_at: float | None = None


class Disconnect(NamedTuple):
    """The streams of a user, or of one of their devices, must end."""

    app: str
    user: str
    device: str | None = None


class Gap(NamedTuple):
    """Messages may have been lost: wake every stream."""


class Question(NamedTuple):
    """A command asks every process that listens for a Report; `id` is random."""

    id: str


class Report(NamedTuple):
    """The answer to a Question: the open streams of one application in one process."""

    question: str
    """The id of the question."""
    host: str
    """The name of the machine."""
    pid: int
    node: str
    """Tells the applications of one process apart."""
    server: str
    """The name of the WSGI server; empty if it is not known."""
    streams: int
    parked: int
    """How many of the streams are parked."""
    apps: dict[str, int]
    """Streams by app id; apps with few streams are left out if the message would become too long."""


Message = Notice | Disconnect | Gap | Question | Report


class BrokerStatus(NamedTuple):
    """The state of the connection to the other processes, for `/ready` and the metrics."""

    connected: bool
    """Whether this process is subscribed now."""
    echo: bool
    """Whether a message of this process came back to it recently."""
    gaps: int
    """How often messages may have been missed; the first subscription counts too."""
    invalid: int
    """How many messages were dropped because they were malformed."""
    pending: int
    """How many messages wait to be sent."""
    queue_usage: float = 0.0
    """How full the broker's own queue was at the last look, from 0 to 1; only PostgreSQL has one."""


class Broker(Protocol):
    """Carries messages to the other processes. Made in the worker process; every method is thread-safe."""

    name: str

    def start(self, receive: Callable[[Message], None]) -> None:
        """Start to pass the messages of other processes to `receive`, in a thread of the broker's own.

        Called once, at the first stream. Each confirmed subscription begins with a Gap. Only the
        first one of local:// does not: it is confirmed when this returns.
        """

    def publish(self, message: Message) -> None:
        """Send to the other processes, also before `start` or without it; returns at once and never raises."""

    def status(self) -> BrokerStatus:
        """Return the state of the connection to the other processes."""

    def describe(self) -> str:
        """Return which broker this is, where it is, and its namespace; without a password."""

    def flush(self, seconds: float) -> bool:
        """Wait until nothing is pending, for `seconds` at most; return whether nothing is."""

    def close(self) -> None:
        """Close every thread and connection; wait two seconds at most for pending messages."""
