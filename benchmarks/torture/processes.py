"""The processes of a torture, each with its own process group, so that killing one leaves no child.

Server   a gunicorn with the project's configuration; its master and its workers can be signalled
Client   the devices of one network; their messages go into a queue
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.server import clean_environment, free_port

from ..server import ROOT
from .devices import Order

STARTS_WITHIN = 60.0
APPLICATION = "tests.support.short_lived_tokens:create()"
"""The reference backend with a configurable lifetime of tokens."""


class Process:
    """A child process with its own process group; its stderr goes to a log."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.log_file = folder / f"{name}.log"
        self.log_file.touch()
        self.child: subprocess.Popen[bytes] | None = None

    def spawn(self, command: list[str], env: Mapping[str, str], *, talks: bool = False) -> "subprocess.Popen[bytes]":
        """Start a Python program, after killing what is left of the last one."""
        self.kill()
        with self.log_file.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=clean_environment() | {"PYTHONPATH": str(ROOT), **env},
                start_new_session=True,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
            )
        return self.child

    def signal(self, number: int) -> None:
        """Send a signal to the process; do nothing if it has ended."""
        if self.child is not None:
            self.child.send_signal(number)

    def kill(self) -> None:
        """Kill the whole group, once: its number may be reused."""
        child, self.child = self.child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


class Server(Process):
    """A gunicorn with the project's own configuration, always on the same port."""

    def __init__(self, folder: Path, name: str, env: Mapping[str, str]) -> None:
        super().__init__(folder, name)
        self.port = free_port()
        self._env = {**env, "SYNCKIT_BIND": f"127.0.0.1:{self.port}"}

    def start(self) -> None:
        """Start, and wait until it serves."""
        began, until = self._listened(), time.monotonic() + STARTS_WITHIN
        command = ["-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py"), APPLICATION]
        self.spawn(command, self._env)
        while self._listened() == began:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not start; see {self.log_file}")
            time.sleep(0.05)
        self.wait_until_it_serves()

    def wait_until_it_serves(self) -> None:
        """Return when a worker answers; on a busy machine that is seconds after the master listens."""
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/sync/live", timeout=STARTS_WITHIN).close()

    def signal_worker(self, number: int, worker: int) -> None:
        """Send a signal to a worker; do nothing if it has exited."""
        if worker in self._children():
            os.kill(worker, number)

    def workers(self) -> list[int]:
        """Return the process ids of the workers; wait until there is at least one."""
        while not (workers := self._children()):
            time.sleep(0.05)
        return workers

    def _children(self) -> list[int]:
        master = self.child.pid if self.child is not None else 0
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def _listened(self) -> int:
        return self.log_file.read_text(errors="replace").count("Listening at")


class Client(Process):
    """The process of one network's devices; its messages go into a queue, and `ended` after the last one."""

    def __init__(
        self, folder: Path, name: str, number: int, order: Order, messages: "queue.Queue[dict[str, Any]]"
    ) -> None:
        super().__init__(folder, name)
        self._number, self._order, self._messages = number, order, messages
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start, or start again after a kill."""
        if self._reader is not None:
            self._reader.join()  # so that `ended` comes before the next process's messages
        child = self.spawn(["-m", "benchmarks.torture.devices"], {}, talks=True)
        self.command(json.dumps(self._order._asdict()))
        self._reader = threading.Thread(target=self._read, args=(child.stdout,), daemon=True)
        self._reader.start()

    def sever(self) -> None:
        """Shut down all its sockets."""
        self.command("sever")

    def pause(self) -> None:
        """Stop the process, like a machine that sleeps."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        self.signal(signal.SIGCONT)

    def command(self, words: str) -> None:
        """Write a line to the process; do nothing if it was killed."""
        if self.child is not None and self.child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.child.stdin.write(words.encode() + b"\n")
                self.child.stdin.flush()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            with contextlib.suppress(ValueError):  # a line that a kill has cut
                self._messages.put(json.loads(line))
        if (child := self.child) is not None:
            text = f"{self.name} exited unexpectedly with status {child.wait()}; see {self.log_file}"
            self._messages.put({"is": "broken", "text": text})
        self._messages.put({"is": "ended", "network": self._number})
