"""The clock of the machine that the servers of a torture believe to run on: it can be set while they run.

In: a folder. Out: variables for the environment of their processes, and `step`. Needs a C compiler (`cc`).
"""

import mmap
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "native" / "clock.c"


class Clock:
    """Begins with the right time."""

    def __init__(self, folder: Path) -> None:
        library, file = folder / "clock.so", folder / "clock-offset"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run([*command, "-ldl"], check=True)
        file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(file)}
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), 8)

    def step(self, seconds: int) -> None:
        """Let the time of day be so many seconds off; 0 sets it right."""
        self._page[:] = struct.pack("q", seconds)
