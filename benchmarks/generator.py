"""The load generator in C: compiled when needed, started with ready requests, given one command at a time.

    programs = Programs(folder)                                      compiles native/*.c with cc
    with Generator(programs, server, key, channels) as generator:    channels: how many devices each user has
        generator.ask("open 1060") ──▶ {"connected": 1060}           returns when the command is done

A user's name is its place in the list. All contenders get the same bytes except for the port: subscriptions with a JWT
each, and pushes. Path and query name the user too, for servers that do not read the token.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .load import APP, SILENCE_SECONDS, subscription
from .server import GENERATOR_CORE, Server

NATIVE = Path(__file__).parent / "native"


class Programs:
    """The two C programs, compiled into a folder; raises RuntimeError without a C compiler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.load, self.floor = (self._compile(name) for name in ("load", "floor"))

    def _compile(self, name: str) -> Path:
        binary = self.folder / name
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(binary), str(NATIVE / f"{name}.c")]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise RuntimeError("`cc` is not installed: install a C compiler (apt-get install gcc)") from None
        return binary


class Generator:
    """One generator process on the last core, for one server; a context manager that kills it."""

    def __init__(
        self, programs: Programs, server: Server, key: str, channels: Sequence[int], silence: float = SILENCE_SECONDS
    ) -> None:
        streams, pushes = programs.folder / "streams", programs.folder / "pushes"
        _write(streams, subscriptions(server.port, key, channels))
        _write(pushes, [(user, push(user)) for user in range(len(channels))])
        self._errors = programs.folder / "load.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [programs.load, str(server.port), str(silence), streams, pushes],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {GENERATOR_CORE}),
            )
        self.pid = self._process.pid

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str) -> dict[str, Any]:
        """Run one command (native/load.c lists them) and return what it counted; raises RuntimeError if it failed."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail(command)
        answer = self._process.stdout.readline()
        if not answer:
            self._fail(command)
        counted: dict[str, Any] = json.loads(answer)
        return counted

    def _fail(self, command: str) -> NoReturn:
        self._process.wait()
        raise RuntimeError(f"{command}: {self._errors.read_text(errors='replace').strip()}")


def subscriptions(port: int, key: str, channels: Sequence[int]) -> list[tuple[int, bytes]]:
    """Return the user and the request of every stream."""
    return [
        (user, subscription(port, key, str(user), device, f"&user={user}"))
        for user, devices in enumerate(channels)
        for device in range(devices)
    ]


def push(user: int) -> bytes:
    """Return the push to a user. nchan reads the event's name from the header."""
    headers = "Host: localhost\r\nX-EventSource-Event: changed\r\n"
    return f"POST /push/{APP}/{user} HTTP/1.1\r\n{headers}\r\n".encode()


def _write(path: Path, requests: list[tuple[int, bytes]]) -> None:
    path.write_bytes(b"".join(b"%d %d\n%b" % (user, len(data), data) for user, data in requests))
