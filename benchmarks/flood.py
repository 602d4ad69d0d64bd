"""The same requests of one account, again and again on many connections.

    python -m benchmarks.flood PORT SECONDS CONNECTIONS     requests as a JSON list on stdin; the result on stdout

Each connection sends the next request when the last one is answered. `fairness` starts this as a process of its own, at
the lowest priority, so that it does not delay the measurement.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .attack_connections import AttackConnections
from .attacks import Attack, flood
from .server import ROOT


@contextmanager
def flooding(port: int, requests: Sequence[str], seconds: float, connections: int) -> Iterator["subprocess.Popen[str]"]:
    """Start the process; it is ended with the block at the latest."""
    command = [sys.executable, "-m", "benchmarks.flood", str(port), str(seconds), str(connections)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdin:
                process.stdin.write(json.dumps(requests))
                process.stdin.close()
            yield process
        finally:
            process.kill()


def main(port: int, seconds: float, size: int) -> None:
    """Send the requests, and print how often each status was answered."""
    os.nice(19)
    requests = json.load(sys.stdin)
    with AttackConnections(port) as connections:
        flood(Attack(connections, [], [], size, time.monotonic() + seconds), requests)
    print(json.dumps(dict(connections.answers)))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
