"""A TCP proxy with the faults of real ones, between the SDK and a server, and between a server and its broker.

`mode` may be changed at any time and applies to the bytes from then on:

    pass     both ways at once
    silence  nothing reaches the client any more, and connections stay open, like a dead middlebox
    hold     the same for the bodies of event streams only, like a proxy that buffers
    refuse   new connections are reset
    busy     new connections are answered 503 with Retry-After: 1

`swallow` may be bytes of a request: its answer and its connection are dropped after the server has answered.
`cut_in` may be bytes of an answer: the client gets the first half of them, then the connection ends.
`delay` is in seconds, for every piece in either direction. `to_port` is where new connections lead.
"""

import contextlib
import socket
import struct
import threading
import time

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on a free port of the loopback; a context manager."""

    def __init__(self, port: int) -> None:
        self.mode = "pass"
        self.connections = 0
        self.swallow: bytes | None = None
        self.swallowed = 0
        self.cut_in: bytes | None = None
        self.delay = 0.0
        self.to_port = port
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection, like a mobile network."""
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            _reset(each)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.mode == "refuse":
                _reset(client)
                continue
            if self.mode == "busy":
                client.recv(65536)
                client.sendall(BUSY)
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                _reset(client)
                continue
            self._sockets += [client, server]
            doomed = threading.Event()
            threading.Thread(target=self._carry, args=(client, server, False, doomed), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, True, doomed), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, to_client: bool, doomed: threading.Event) -> None:
        streams = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                streams = streams or (to_client and b"text/event-stream" in data)
                if to_client and doomed.is_set():
                    self.swallowed += 1
                    break
                if to_client and (self.mode == "silence" or (self.mode == "hold" and streams)):
                    continue
                if to_client and self.cut_in is not None and self.cut_in in data:
                    sink.sendall(data[: data.index(self.cut_in) + len(self.cut_in) // 2])
                    self.cut_in = None
                    break
                if not to_client and self.swallow is not None and self.swallow in data:
                    self.swallow = None
                    doomed.set()
                time.sleep(self.delay)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
