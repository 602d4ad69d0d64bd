"""One account's requests, again and again on many connections, in a process of its own.

    python -m benchmarks.flood PORT SECONDS CONNECTIONS     requests as a JSON list on stdin; what came of it on stdout

Each connection sends the next request once the last is answered. It runs at the lowest priority, so that it does not
delay those who measure; `fairness` starts it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .attack_connections import Swarm
from .attacks import Attack, flood
from .server import ROOT


@contextmanager
def flooding(port: int, requests: Sequence[str], seconds: float, connections: int) -> Iterator["subprocess.Popen[str]"]:
    """Start the process; it ends by itself, or with the block."""
    command = [sys.executable, "-m", "benchmarks.flood", str(port), str(seconds), str(connections)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdin:
                process.stdin.write(json.dumps(requests))
                process.stdin.close()
            yield process
        finally:
            process.kill()


def main(port: int, seconds: float, connections: int) -> None:
    """Flood, and tell which answers came how often."""
    os.nice(19)
    requests = json.load(sys.stdin)
    with Swarm(port) as swarm:
        flood(Attack(swarm, [], [], connections, time.monotonic() + seconds), requests)
    print(json.dumps(dict(swarm.answers)))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
