"""What the routes and the commands of one application share: `current_backend()`, within an application context."""

from dataclasses import dataclass

from flask import current_app

from .. import Notifier
from ..runtime.per_process import PerProcess
from .access_tokens import Signer
from .database.store import Store
from .last_seen import LastSeen
from .settings import BackendSettings

EXTENSION_NAME = "synckit_backend"


@dataclass(frozen=True, slots=True)
class Backend:
    """What one application has, in `app.extensions["synckit_backend"]`."""

    settings: BackendSettings
    store: Store
    notifier: Notifier
    last_seen: PerProcess[LastSeen]

    @property
    def signer(self) -> Signer:
        """What signs this application's tokens."""
        return self.settings.signer


def current_backend() -> Backend:
    """Return the backend of the application that handles this request or command."""
    backend: Backend = current_app.extensions[EXTENSION_NAME]
    return backend
