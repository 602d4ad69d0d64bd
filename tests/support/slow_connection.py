"""A connection to a broker that opens slowly, like TLS over a long distance: what ends before that sends nothing."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def slow_connection(port: int, seconds: float) -> Iterator[str]:
    """Give the URL of a proxy to this port that forwards after so many seconds, if the client is still there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, seconds), daemon=True).start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, seconds: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_carry, args=(near, port, seconds), daemon=True).start()


def _carry(near: socket.socket, port: int, seconds: float) -> None:
    time.sleep(seconds)
    looking = select.poll()
    looking.register(near, select.POLLRDHUP)
    if looking.poll(0):
        near.close()
        return
    with near, socket.create_connection(("127.0.0.1", port)) as far, suppress(OSError):
        threading.Thread(target=_pump, args=(far, near), daemon=True).start()
        _pump(near, far)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
