"""Real-time change notification for SyncKit backends.

Names are loaded at their first use, so importing the client does not import Flask.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ConfigurationError, Forbidden, InvalidToken
    from .extension import Notifier
    from .tokens import Principal

__version__: str
"""The installed release."""

__all__ = ["ConfigurationError", "Forbidden", "InvalidToken", "Notifier", "Principal"]

_HOMES = {
    "ConfigurationError": "errors",
    "Forbidden": "errors",
    "InvalidToken": "errors",
    "Notifier": "extension",
    "Principal": "tokens",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("synckit-notify")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
