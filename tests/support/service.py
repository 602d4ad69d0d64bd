"""The reference backend under gunicorn with one account, SDK clients of it, and a recorder for their streams."""

import copy
import threading
from pathlib import Path

from synckit_notify.backend import create_app
from synckit_notify.client import StreamState, SyncKitClient, SyncNotification, SyncNotifyStream

from .command_runner import printed
from .server import Server, gunicorn
from .wait import until

EMAIL, PASSWORD = "alice@example.org", "correct horse battery"


class Service:
    """A server with one app and one account, on a port that stays the same when it is restarted."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.env = {"INSTANCE": str(folder / "instance"), "SYNCKIT_KEEPALIVE_SECONDS": "0.4"} | settings
        self._app = create_app(instance_path=folder / "instance")
        self.runner = self._app.test_cli_runner()
        self.api_key = self._add_app("notes")
        self.printed("user", "add", EMAIL, "--password", PASSWORD)
        self.server = self.start()
        self._clients: list[SyncKitClient] = []

    def with_new_app(self, name: str) -> "Service":
        """Return this server with another app, in which the account has no key, no device and no change."""
        other = copy.copy(self)
        other.api_key, other._clients = self._add_app(name), []
        return other

    def start(self, port: int = 0) -> Server:
        return gunicorn("tests.support.short_lived_tokens:create()", self.folder, port=port, env=self.env)

    def client(self, url: str | None = None, name: str = "laptop", **options: object) -> SyncKitClient:
        client = SyncKitClient(url or self.server.url, api_key=self.api_key, **({"encrypt": False} | options))
        self._clients.append(client)
        client.authenticate(EMAIL, PASSWORD)
        client.register_device(name, "linux")
        return client

    def _add_app(self, name: str) -> str:
        return self.printed("app", "add", name).split()[-1]

    def printed(self, *words: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        return printed(self._app, *words)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()

    def close(self) -> None:
        self.close_clients()
        self.server.__exit__()
        self._app.extensions["synckit_backend"].store.dispose()


class StreamRecorder:
    """Iterates a stream in a thread: counts notifications, and keeps its states and the error that ended it."""

    def __init__(self, client: SyncKitClient) -> None:
        self.states: list[tuple[StreamState, str]] = []
        self.stream: SyncNotifyStream = client.subscribe_notifications(
            on_state=lambda state, reason: self.states.append((state, reason))
        )
        self.changed = self.keepalives = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def hears(self, more_than: int, within: float = 10.0) -> bool:
        """Return whether more than so many `CHANGED` come in time."""
        return until(lambda: self.changed > more_than, within)

    def __enter__(self) -> "StreamRecorder":
        self._thread.start()
        assert self.hears(0), self.states
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _listen(self) -> None:
        try:
            for notification in self.stream:
                self.changed += notification is SyncNotification.CHANGED
                self.keepalives += notification is SyncNotification.KEEPALIVE
        except Exception as error:
            self.error = error
