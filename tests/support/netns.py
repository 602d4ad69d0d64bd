"""A second machine for the tests: a network namespace, joined to this one by a pair of virtual cables.

Needs root and `ip`. The other machine can be unplugged: its packets are lost and nobody is told, as when a laptop goes
under ground.
"""

import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from .programs import need

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_count = itertools.count()


class OtherMachine:
    """One namespace with one cable; a context manager that removes both."""

    def __init__(self) -> None:
        self._ip = need("ip")
        if os.geteuid() != 0:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs root, for a network namespace")
        number = (8 * os.getpid() + next(_count)) % 16384  # so that tests may run side by side
        self._name = f"synckit{number}"
        self._here, self._there = f"sk{number}a", f"sk{number}b"
        net = f"198.18.{number // 64}.{number % 64 * 4}".rsplit(".", 1)
        self.here_address, self.there_address = (f"{net[0]}.{int(net[1]) + end}" for end in (1, 2))

    def __enter__(self) -> "OtherMachine":
        self._run(f"netns add {self._name}")
        self._run(f"link add {self._here} type veth peer name {self._there} netns {self._name}")
        self._run(f"addr add {self.here_address}/30 dev {self._here}")
        self._run(f"link set {self._here} up")
        self._run(f"-n {self._name} addr add {self.there_address}/30 dev {self._there}")
        self._run(f"-n {self._name} link set lo up")
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(f"link del {self._here}")  # the namespace outlives its name while one of its sockets does
        self._run(f"netns del {self._name}")

    def call(self, function: Callable[[], T]) -> T:
        """Call a function over there, in a thread; the sockets and processes it makes stay there."""
        results: list[T] = []

        def move_and_call() -> None:
            with Path(f"/run/netns/{self._name}").open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "the namespace cannot be entered")
            results.append(function())

        thread = threading.Thread(target=move_and_call)
        thread.start()
        thread.join()
        return results[0]

    def plug(self) -> None:
        """Join the two machines (again)."""
        self._run(f"-n {self._name} link set {self._there} up")

    def unplug(self) -> None:
        """From now on nothing arrives and nothing is refused."""
        self._run(f"-n {self._name} link set {self._there} down")

    def _run(self, words: str) -> None:
        subprocess.run([self._ip, *words.split()], check=True, capture_output=True)
