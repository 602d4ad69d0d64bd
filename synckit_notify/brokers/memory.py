"""The broker of a service with one process: there is nobody else to tell."""

from collections.abc import Callable

from .base import BrokerStatus, Message


class MemoryBroker:
    """Carries nothing, since every publisher delivers in its own process first."""

    name = "memory"

    def start(self, receive: Callable[[Message], None]) -> None:
        """Do nothing: no message ever comes from elsewhere."""

    def publish(self, message: Message) -> None:
        """Do nothing: everybody has been told."""

    def status(self) -> BrokerStatus:
        """Return that all is well: the only process hears itself."""
        return BrokerStatus(connected=True, echo=True, gaps=0, invalid=0, pending=0)

    def flush(self, seconds: float) -> bool:
        """Return True: nothing ever waits."""
        return True

    def close(self) -> None:
        """Do nothing: nothing is held."""
