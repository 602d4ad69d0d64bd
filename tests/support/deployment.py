"""A gunicorn with open streams, and the ways to stop it, for tests and for `benchmarks.operations`."""

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .raw_client import Listener
from .server import gunicorn
from .tokens import KEY, make_token

STREAMS = 20
APPS = {
    "ours": ("tests.support.crashing_backend:create_app()", "/api/sync"),
    "foreign": ("tests.support.full_host:create_app()", "/v1/sync"),
}


class Deployment:
    """One gunicorn, and streams on it."""

    def __init__(self, folder: Path, app: str, worker_class: str, *options: str, workers: int = 1) -> None:
        target, self.prefix = APPS[app]
        self._listeners: list[Listener] = []
        threads = ("--threads", "60") if worker_class == "gthread" else ()
        parking = "1" if worker_class == "parked" else "0"
        worker_class = "gevent" if worker_class == "parked" else worker_class
        env = {
            "SYNCKIT_JWT_KEY": KEY,
            "INSTANCE": str(folder / "instance"),
            "FOREIGN_DATABASE": str(folder / "foreign.db"),
            "SYNCKIT_SWEEP_SECONDS": "3",
            "SYNCKIT_PARKING": parking,
        }
        self.server = gunicorn(target, folder, *threads, *options, worker_class=worker_class, workers=workers, env=env)

    def listen(self, device: str | None = None) -> Listener:
        """Subscribe; the connection is closed with the deployment at the latest."""
        listener = Listener(self.server.port, f"{self.prefix}/subscribe?app_id=notes", make_token(device=device))
        self._listeners.append(listener)
        return listener

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()
        for listener in self._listeners:
            listener.close()


def gone(pid: int, within: float) -> bool:
    """Whether a process ends in time; a zombie has ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):  # the second: it ended while it was read
            return True
        time.sleep(0.02)
    return False


def term(deployment: Deployment) -> None:
    deployment.server.process.send_signal(signal.SIGTERM)


def hup(deployment: Deployment) -> None:
    deployment.server.process.send_signal(signal.SIGHUP)


def too_many_requests(deployment: Deployment) -> None:
    """Send requests until the worker has had its fill (--max-requests)."""
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", deployment.server.port), 60) as client:
            client.sendall(f"GET {deployment.prefix}/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
            client.recv(4096)


STOPS: dict[str, Callable[[Deployment], None]] = {"TERM": term, "HUP": hup, "max_requests": too_many_requests}
