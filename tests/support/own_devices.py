"""Devices of one account on the reference backend in this process, each with a network that can fail.

laptop = devices.open("laptop")            # the app is started: a client that is logged in and registered
laptop.network.is_offline = True
again = devices.open("laptop")             # the app is started again, with the same state file
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from synckit_notify.client import SyncKitClient

from . import empty_database
from .backend import add_account
from .tokens import KEY

Hook = Callable[[], object]


class Network(httpx2.BaseTransport):
    """Passes requests to the backend; `before` holds what happens first, once, by method and path."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx2.WSGITransport(app)
        self.is_offline = False
        self.before: dict[tuple[str, str], Hook] = {}
        self.answers: dict[tuple[str, str], httpx2.Response] = {}
        self.lost_answers: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        what = (request.method, request.url.path)
        self.asked.append(what)
        self.before.pop(what, lambda: None)()
        if self.is_offline:
            raise httpx2.ConnectError("[Errno 101] Network is unreachable")
        if what in self.answers:
            return self.answers[what]
        response = self._transport.handle_request(request)
        if what in self.lost_answers:
            self.lost_answers.remove(what)
            raise httpx2.ReadTimeout("timed out")
        return response


class Device(SyncKitClient):
    """A client with its network."""

    network: Network


class Devices:
    """Makes the devices, and reaches into the server's database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = empty_database.make_app({"SYNCKIT_JWT_KEY": KEY}, folder / "instance")
        self.backend = self.app.extensions["synckit_backend"]
        self.account = add_account(self.backend)
        self._made: list[Device] = []

    def open(
        self, name: str, *, log_in: bool = True, url: str = "http://server", app: Any = None, **options: Any
    ) -> Device:
        """Return a device with a state file of this name; without `log_in` as its state file has it."""
        network = Network(app or self.app)
        device = Device(
            url,
            api_key=self.account["api_key"],
            state=self.folder / name,
            http=httpx2.Client(transport=network),
            wait=lambda seconds: None,
            **options,
        )
        device.network = network
        self._made.append(device)
        if log_in:
            device.authenticate(self.account["email"], self.account["password"])
            device.register_device(name, "linux")
        return device

    def offline(self, name: str) -> Device:
        """Return the device of a state file, started without a network."""
        device = self.open(name, log_in=False)
        device.network.is_offline = True
        return device

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Run a statement in the server's database."""
        connection = sqlite3.connect(self.folder / "instance" / "synckit.db", isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def close(self) -> None:
        for device in self._made:
            device.close()
        self.backend.store.dispose()
