"""Real servers for the tests: gunicorn or `flask run` as a child process on a free port of the loopback."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from gunicorn.config import make_settings

ROOT = Path(__file__).parents[2]
STARTS_WITHIN = 60.0
GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
"""The installed script and not `-m gunicorn`, which cannot start itself anew on USR2."""

NO_CONTROL_SOCKET = ["--no-control-socket"] if "control_socket_disable" in make_settings() else []
"""gunicorn before 25.1 has no control socket and refuses the option."""

FREED_AT_EXIT = "RuntimeError: greenlet is being finalized\n"
"""The end of a traceback that gevent 24 may print when a process ends, for an object that is freed then."""


class Server:
    """A server process; a context manager that ends it. `port` is known once it listens."""

    def __init__(self, command: list[str], folder: Path, listening: str, env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = {"SYNCKIT_BROKER_NAMESPACE": str(folder)}  # the hosts in tests/support share one instance path
        if {"SYNCKIT_BROKER_URL", "SYNCKIT_DATABASE_URL"} & (env or {}).keys():
            own = {}
        self.log_file = folder / "server.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean_environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | own | (env or {}),
            )
        self.port = self._wait_for_port(listening)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def tracebacks(self) -> list[str]:
        """The tracebacks in the log, each with the lines after it, but for those of FREED_AT_EXIT."""
        _, *found = self.log.split("Traceback (most recent call last):\n")
        return [each for each in found if FREED_AT_EXIT not in each]

    def workers(self) -> list[int]:
        """The process ids of the children."""
        return children(self.process.pid)

    def stop(self, sig: int = signal.SIGTERM, within: float = 10.0) -> int:
        """Send a signal and return the exit status; killed if it takes longer."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.workers() if self.process.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):  # it was ending by itself
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def _wait_for_port(self, listening: str) -> int:
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(listening, self.log):
                return int(found[1])
            time.sleep(0.02)
        self.__exit__()  # a process or a pipe that is left over would fail a later test
        raise RuntimeError(f"the server did not start:\n{self.log}")


def gunicorn(
    app: str,
    folder: Path,
    *options: str,
    port: int = 0,
    worker_class: str = "gevent",
    workers: int = 1,
    env: dict[str, str] | None = None,
) -> Server:
    """Start gunicorn without a configuration file, as any host may run it."""
    command = [GUNICORN, app, "--bind", f"127.0.0.1:{port}", *NO_CONTROL_SOCKET]
    command += ["--worker-class", worker_class, "--workers", str(workers), *options]
    return Server(command, folder, r"Listening at: http://127\.0\.0\.1:(\d+)", env)


def flask_run(app: str, folder: Path, env: dict[str, str] | None = None) -> Server:
    """Start Flask's development server."""
    command = ["-m", "flask", "--app", app, "run", "--port", "0", "--no-reload"]
    return Server(command, folder, r"Running on http://127\.0\.0\.1:(\d+)", env)


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return []


def clean_environment() -> dict[str, str]:
    """Return the environment without SYNCKIT_ settings."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("SYNCKIT_", "FLASK_", "GUNICORN_"))
    }


def free_port() -> int:
    """Return a port on which nobody listens now; if another process takes it first, the server's start fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
