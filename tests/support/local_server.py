"""The reference backend in this process, with a stream that the test writes, and faults for each request.

server.faults["push"] = [LOSE_ANSWER, Refusal(503)]     the next two pushes; then all is well again
server.notify()                                         a CHANGED on every open stream
server.stream = Refusal(503)                            what a subscription is answered with
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from synckit_notify import sse
from synckit_notify.backend import Backend
from synckit_notify.backend.database.schema import devices
from synckit_notify.client import SyncKitClient
from synckit_notify.client.models import Account
from synckit_notify.client.state import Tokens

from . import empty_database
from .tokens import KEY, make_token

LOSE_REQUEST, LOSE_ANSWER = "lose the request", "lose the answer"


@dataclass
class Refusal:
    """The server refuses without looking at the request."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> httpx2.Response:
        return httpx2.Response(self.status, json={"error": self.message}, headers=self.headers)


Fault = str | Refusal | Callable[[httpx2.Request], httpx2.Response | None]


class HeldStream(httpx2.SyncByteStream):
    """The body of an event stream, which the test writes; on a socket, so that the client can shut it down."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.write(sse.comment("connected"))

    def write(self, piece: bytes) -> None:
        with contextlib.suppress(OSError):
            self._ours.sendall(piece)

    def get_extra_info(self, name: str) -> Any:
        return self._theirs if name == "socket" else None

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._theirs.recv(65536):
            yield piece

    def close(self) -> None:
        self._theirs.close()

    def end(self) -> None:
        self._ours.close()


class LocalServer(httpx2.BaseTransport):
    """A backend with the app `notes`, reached without sockets; one for all clients of a test."""

    def __init__(self, folder: Path) -> None:
        app = empty_database.make_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "development"}, folder)
        self.backend: Backend = app.extensions["synckit_backend"]
        self._transport = httpx2.WSGITransport(app)
        self.stream: Refusal | None = None
        self.streams: list[HeldStream] = []
        self.faults: dict[str, list[Fault]] = {}
        self.asked: list[str] = []
        self._clients: list[SyncKitClient] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.path.rpartition("/")[2]
        self.asked.append(name)
        if name == "subscribe":
            return self._subscribe()
        faults = self.faults.get(name)
        fault = faults.pop(0) if faults else None
        if fault == LOSE_REQUEST:
            raise httpx2.ConnectError("lost")
        if isinstance(fault, Refusal):
            return fault.response()
        if callable(fault) and (answer := fault(request)) is not None:
            return answer
        response = self.handle_directly(request)
        if fault == LOSE_ANSWER:
            raise httpx2.ReadTimeout("lost")
        return response

    def handle_directly(self, request: httpx2.Request) -> httpx2.Response:
        """Return the backend's answer, without faults."""
        response = self._transport.handle_request(request)
        response.read()
        return response

    def notify(self) -> None:
        """Write a CHANGED into every stream."""
        for stream in self.streams:
            stream.write(sse.event("changed"))

    def client(
        self, user: str = "alice", name: str = "laptop", *, state: Path | None = None, **options: Any
    ) -> SyncKitClient:
        """Return a client that is logged in and registered."""
        http = httpx2.Client(transport=self)
        client = SyncKitClient("http://server", api_key="key", state=state, http=http, **{"encrypt": False, **options})
        self._clients.append(client)
        client._state.log_in(Account(user, "notes"), Tokens(make_token(user, "notes"), None, None, 0.0))
        if client._state.device() is None:
            client.register_device(name, "linux")
        return client

    def forget_device(self, client: SyncKitClient) -> None:
        """Delete the client's device on the server."""
        mine = devices.c.id == client._state.device_id()
        self.backend.store.write(lambda connection: connection.execute(devices.delete().where(mine)))

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for stream in self.streams:
            stream.end()
        self.backend.store.dispose()

    def _subscribe(self) -> httpx2.Response:
        if self.stream is not None:
            return self.stream.response()
        stream = HeldStream()
        self.streams.append(stream)
        headers = {"content-type": "text/event-stream", "synckit-keepalive": "600"}
        return httpx2.Response(200, headers=headers, stream=stream, extensions={"network_stream": stream})
