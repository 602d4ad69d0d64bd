"""A clock that can be set, or stopped, while the processes that read it run; ours stays right.

clock = Clock(folder)                      compiles clock.c with `cc`
start(..., env=clock.environment)          the library is preloaded into these processes
clock.step(3600)                           their wall clock is an hour ahead; the steady clocks are right
clock.stop(pid), clock.advance(5)          all clocks of one process stand still, and show five seconds more
"""

import mmap
import struct
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
_SETTING = struct.Struct("=qqqq")


class Clock:
    """The clock of all processes that are started with `environment`; right until it is set."""

    def __init__(self, folder: Path) -> None:
        library, file = folder / "clock.so", folder / "clock-setting"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run([*command, "-ldl"], check=True)
        file.write_bytes(bytes(_SETTING.size))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(file)}
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), _SETTING.size)

    def step(self, seconds: int) -> None:
        """Set the wall clock this many seconds ahead of the right time; 0 sets it right."""
        self._set(seconds, 0, 0, 0)

    def stop(self, pid: int) -> None:
        """Stop all clocks and timers of a gevent worker at the present moment.

        A native thread that waits until a moment of a stopped clock does not wait at all.
        """
        self._set(0, pid, time.time_ns(), time.monotonic_ns())

    def advance(self, seconds: float) -> None:
        """Move the stopped clocks forward. The worker notices when something else wakes it, a request for example."""
        ahead, pid, wall, steady = _SETTING.unpack(self._page)
        more = int(seconds * 1e9)
        self._set(ahead, pid, wall + more, steady + more)

    def _set(self, *numbers: int) -> None:
        self._page[:] = _SETTING.pack(*numbers)
