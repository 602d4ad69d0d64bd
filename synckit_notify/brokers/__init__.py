"""Brokers carry a notice to the other processes; the URL's scheme chooses one."""

from ..errors import ConfigurationError
from .base import Broker, Disconnect, Gap, Link, Message, Notice
from .memory import MemoryBroker

__all__ = ["Broker", "Disconnect", "Gap", "Link", "Message", "Notice", "check_url", "connect"]

_BROKERS = {"memory": MemoryBroker}


def check_url(url: str) -> str:
    """Return the URL if a broker exists for it, else raise ConfigurationError."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _BROKERS:
        raise ConfigurationError(
            f"SYNCKIT_BROKER_URL: {scheme!r} is no known broker; use {' or '.join(f'{name}://' for name in _BROKERS)}"
        )
    return url


def connect(url: str) -> Broker:
    """Make the broker for a URL that `check_url` let through."""
    return _BROKERS[url.partition("://")[0]]()
