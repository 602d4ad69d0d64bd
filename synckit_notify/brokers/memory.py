"""The broker of a service with one process: there is no other process to notify."""

from collections.abc import Callable

from .base import BrokerStatus, Message


class MemoryBroker:
    """Carries nothing: every publisher delivers in its own process first."""

    name = "memory"

    def start(self, receive: Callable[[Message], None]) -> None:
        """Do nothing: no message comes from another process."""

    def publish(self, message: Message) -> None:
        """Do nothing: the message is delivered already."""

    def status(self) -> BrokerStatus:
        """Return a status without faults."""
        return BrokerStatus(connected=True, echo=True, gaps=0, invalid=0, pending=0)

    def describe(self) -> str:
        """Return the name; there is no address."""
        return "memory, this process only"

    def flush(self, seconds: float) -> bool:
        """Return True: nothing waits."""
        return True

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
