"""What gevent's `sendall` does for a few bytes, and what it could do. Needs gevent alone.

    python gevent_sendall.py [--number 20000] [--pairs 15]

It sends 40 bytes at a time over a socket pair, once with gevent's `sendall` and once with the proposal, which asks for
the size of the send buffer only where the answer can matter. Both are measured in turn; the ratio is the median.
"""

import argparse
import statistics
import time
from collections import Counter
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any, ClassVar

import gevent
from gevent import _socketcommon
from gevent import socket as gevent_socket

DATA = b"x" * 40
AT_LEAST = 1024 * 1024
"""The smallest piece of `_sendall`, however small the send buffer is."""

IN_FLIGHT = 100
"""How often it sends before the other end reads; so much always fits into the buffers of a socket pair."""

as_it_is = _socketcommon._sendall
send_chunk = vars(_socketcommon)["__send_chunk"]


def proposal(socket: Any, data_memory: memoryview, flags: int) -> None:
    """Send data of one piece without asking for the buffer's size; the rest of `_sendall` stays as it is."""
    if 0 < len(data_memory) <= AT_LEAST:
        timeout = socket.timeout
        send_chunk(socket, data_memory, flags, timeout, None if timeout is None else time.time() + timeout)
    else:
        as_it_is(socket, data_memory, flags)


class CountingSocket(gevent_socket.socket):
    """Counts the calls that end in a system call."""

    calls: ClassVar[Counter[str]] = Counter()

    def getsockopt(self, *arguments: Any) -> Any:
        self.calls["getsockopt(SO_SNDBUF)"] += arguments == (SOL_SOCKET, SO_SNDBUF)
        return super().getsockopt(*arguments)

    def send(self, *arguments: Any, **options: Any) -> int:
        self.calls["send"] += 1
        return int(super().send(*arguments, **options))


def send(number: int, sendall: Any) -> float:
    """Send so often; return the processor time of one `sendall` in microseconds, the other end's reads included."""
    _socketcommon._sendall = sendall
    sender, receiver = gevent_socket.socketpair()
    with sender, receiver:
        began = time.process_time()
        for n in range(number):
            sender.sendall(DATA)
            if n % IN_FLIGHT == IN_FLIGHT - 1:
                receiver.recv(IN_FLIGHT * len(DATA))
        spent = time.process_time() - began
    _socketcommon._sendall = as_it_is
    return spent / number * 1e6


def calls_of(sendall: Any) -> str:
    """Return the system calls of one `sendall`."""
    _socketcommon._sendall = sendall
    CountingSocket.calls.clear()
    sender, receiver = gevent_socket.socketpair()
    with receiver, CountingSocket(fileno=sender.detach()) as counting:
        counting.sendall(DATA)
    _socketcommon._sendall = as_it_is
    return ", ".join(f"{count} {name}" for name, count in sorted(CountingSocket.calls.items()) if count)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--number", type=int, default=20_000, help="sends in one measurement")
    options.add_argument("--pairs", type=int, default=15, help="measurements of each kind")
    chosen = options.parse_args()
    pairs = [(send(chosen.number, as_it_is), send(chosen.number, proposal)) for _ in range(chosen.pairs)]
    ratios = sorted(proposed / now for now, proposed in pairs)
    now, proposed = (statistics.median(kind) for kind in zip(*pairs, strict=True))
    print(f"gevent {gevent.__version__}")
    print(f"sendall as it is: {calls_of(as_it_is)}; {now:.2f} us")
    print(f"sendall as proposed: {calls_of(proposal)}; {proposed:.2f} us")
    print(f"ratio: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
