"""The attacks of `abuse`: one function each, limited in connections and in time, on the loopback interface only.

    python -m benchmarks.attacks NAME PORT SECONDS SIZE    tokens as JSON on stdin; the result as JSON on stdout

`abuse` starts this as a process of its own, at the lowest priority, so that it delays the measurement least. There are
four kinds: flood (send the next request when the last is answered), drip (send one byte a second), pipeline (send on
without waiting for responses), churn (connect and reset).
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .attack_connections import AttackConnections, Connection
from .load import APP

AT_ONCE = 200
"""Connections to open before the existing ones are polled."""

HOST = "HTTP/1.1\r\nHost: localhost\r\n"
SUBSCRIBE = f"GET /api/sync/subscribe?app_id={APP} {HOST}"
LIVE = f"GET /api/sync/live {HOST}\r\n"
PUSH = f"POST /api/sync/push {HOST}"
LOG_IN = f"POST /api/sync/auth {HOST}"

OUR_LINE, MAX_LINE = (f"X-Bomb: {'x' * most}\r\n" for most in (4080, 8180))
"""The longest of fifty headers that gunicorn.conf.py allows, and the longest of a hundred that gunicorn allows."""

MALFORMED_LINES = (
    "Authorization Bearer {token}",
    "X-Line: \n{token}",
    "X Space: {token}",
    "Content-Length: {token}",
    "Transfer-Encoding: {token}",
    "Expect: {token}",
)
"""Header lines that gunicorn refuses and logs."""

METHODS = ["HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "BREW", "get", "X"]
PATHS = (f"/api/sync/subscribe?app_id={APP}", "/api/sync/live", "/api/sync/push", "/nowhere", "*")


@dataclass(slots=True)
class Attack:
    """One attack while it runs. None of its tokens may appear in a log."""

    connections: AttackConnections
    good: list[str]
    bad: list[str]
    size: int
    until: float

    def is_running(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self.until

    def fill(self, beginnings: Sequence[str], *, deaf: bool = False) -> Iterator[Connection]:
        """Open more connections, up to the size of the attack."""
        for _ in range(min(AT_ONCE, self.size - len(self.connections))):
            yield self.connections.open(beginnings[self.connections.opened % len(beginnings)].encode(), deaf=deaf)


def flood(attack: Attack, requests: Sequence[str]) -> None:
    """Send the next request on each connection as soon as the last one is answered."""
    sent = 0
    while attack.is_running():
        sent += sum(1 for _ in attack.fill(requests))
        for connection in attack.connections.poll(0.02):
            if connection.open:
                sent += 1
                connection.send(requests[sent % len(requests)].encode())


def drip(attack: Attack, beginnings: Sequence[str]) -> None:
    """Keep connections open whose request has begun, and send one byte a second on each."""
    dripping: list[Connection] = []
    while attack.is_running():
        for connection in dripping:
            connection.send(b"z")
        second = min(time.monotonic() + 1, attack.until)
        while time.monotonic() < second:
            dripping += attack.fill(beginnings)
            attack.connections.poll(0.02)
        dripping = [connection for connection in dripping if connection.open]


def pipeline(attack: Attack, beginning: str, more: str, *, deaf: bool = False) -> None:
    """Send requests without waiting for responses."""
    connections: list[Connection] = []
    while attack.is_running():
        connections += attack.fill([beginning], deaf=deaf)
        for connection in connections:
            if not connection.unsent:
                connection.send(more.encode())
        attack.connections.poll(0.02)
        connections = [connection for connection in connections if connection.open]


def churn(attack: Attack, beginnings: Sequence[str], *, after_answer: bool) -> None:
    """Connect, send, and reset: when the response begins, or at once."""
    while attack.is_running():
        opened = list(attack.fill(beginnings))
        answered = attack.connections.poll(0.002)
        for connection in answered if after_answer else opened:
            connection.reset()


def bearer(head: str, token: str, *lines: str) -> str:
    """Return a complete request head with a token."""
    return "\r\n".join([f"{head}Authorization: Bearer {token}", *lines, "", ""])


def slow_heads(attack: Attack) -> None:
    """Slowloris: request heads that never end."""
    drip(attack, [f"{SUBSCRIBE}X-Slow: "])


def large_heads(attack: Attack) -> None:
    """The same with heads as large as gunicorn.conf.py, and as gunicorn itself, allows."""
    drip(attack, [f"{SUBSCRIBE}{line * many}X-Slow: " for line, many in ((OUR_LINE, 48), (MAX_LINE, 98))])


def header_bombs(attack: Attack) -> None:
    """Complete heads at every limit of gunicorn, above it, and malformed, with tokens in wrong places."""
    token = attack.good[0]
    large = [
        OUR_LINE * 48,
        MAX_LINE * 98,
        MAX_LINE * 101,
        f"X-Bomb: {'x' * 20_000}\r\n",
        "X-Many: 1\r\n" * 1000,
    ]
    malformed = [f"{line.format(token=token)}\r\n" for line in MALFORMED_LINES]
    request_lines = [f"GET /{'x' * many} HTTP/1.1\r\n\r\n" for many in (4000, 5000)]
    flood(attack, [f"{SUBSCRIBE}{lines}\r\n" for lines in large + malformed] + request_lines + [f"{token}\r\n\r\n"])


def bad_tokens(attack: Attack) -> None:
    """Invalid tokens: random text, expired, signed with another key, 8 KiB long."""
    flood(attack, [bearer(SUBSCRIBE, token) for token in attack.bad])


def odd_methods(attack: Attack) -> None:
    """Every method on every path."""
    flood(attack, [f"{method} {path} {HOST}\r\n" for method in METHODS for path in PATHS])


def pipelined_live(attack: Attack) -> None:
    """Requests for /live without pause."""
    pipeline(attack, LIVE, LIVE * 1000)


def pipelined_refusals(attack: Attack) -> None:
    """The same with an invalid token."""
    pipeline(attack, "", bearer(SUBSCRIBE, attack.bad[0]) * 300)


def pipelined_streams(attack: Attack) -> None:
    """Requests for more streams behind the first one."""
    pipeline(attack, "", bearer(SUBSCRIBE, attack.good[0]) * 300)


def unread_responses(attack: Attack) -> None:
    """Requests whose responses are never read."""
    pipeline(attack, LIVE, LIVE * 1000, deaf=True)


def half_bodies(attack: Attack) -> None:
    """Pushes and logins whose bodies never end."""
    length = "Content-Length: 10000"
    push = [bearer(PUSH, attack.good[0], line) for line in (length, "Transfer-Encoding: chunked")]
    drip(attack, [f'{push[0]}{{"device_id": "', f"{push[1]}ffff\r\n", f'{LOG_IN}{length}\r\n\r\n{{"email": "'])


def endless_bodies(attack: Attack) -> None:
    """An endless body that no view reads."""
    pipeline(attack, f"PUT /api/sync/subscribe {HOST}Content-Length: 1000000000000\r\n\r\n", "x" * 2**18)


def endless_chunks(attack: Attack) -> None:
    """The same as an endless chunk, for a view that reads it."""
    pipeline(attack, bearer(PUSH, attack.good[0], "Transfer-Encoding: chunked") + "fffffffff\r\n", "x" * 2**18)


def refused_bodies(attack: Attack) -> None:
    """Pushes of 8 MiB with an invalid token."""
    flood(attack, [bearer(PUSH, attack.bad[0], f"Content-Length: {2**23}") + "x" * 2**23])


def connect_and_reset(attack: Attack) -> None:
    """Connections that are reset before or during the request."""
    churn(attack, ["", SUBSCRIBE, LIVE], after_answer=False)


def subscribe_and_reset(attack: Attack) -> None:
    """Valid streams that are reset when they are open."""
    churn(attack, [bearer(SUBSCRIBE, token) for token in attack.good], after_answer=True)


ATTACKS: dict[str, tuple[Callable[[Attack], None], int]] = {
    "slow heads": (slow_heads, 3000),
    "slow heads on all connections": (slow_heads, 8000),
    "large heads": (large_heads, 500),
    "header bombs": (header_bombs, 50),
    "bad tokens": (bad_tokens, 500),
    "odd methods": (odd_methods, 500),
    "pipelined /live": (pipelined_live, 1),
    "pipelined refusals": (pipelined_refusals, 50),
    "pipelined streams": (pipelined_streams, 20),
    "unread responses": (unread_responses, 300),
    "half bodies": (half_bodies, 2000),
    "endless bodies": (endless_bodies, 20),
    "endless chunks": (endless_chunks, 20),
    "refused 8 MiB": (refused_bodies, 20),
    "connect and reset": (connect_and_reset, 200),
    "subscribe and reset": (subscribe_and_reset, 200),
}
"""Every attack, and how many connections it opens."""


def main(name: str, port: int, seconds: float, size: int) -> None:
    """Run one attack and print the result."""
    os.nice(19)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tokens = json.load(sys.stdin)
    attack, _ = ATTACKS[name]
    with AttackConnections(port) as connections:
        attack(Attack(connections, tokens["good"], tokens["bad"], size, time.monotonic() + seconds))
        held = len(connections)
    result = {"opened": connections.opened, "held": held, "closed_on": connections.closed_on}
    print(json.dumps({**result, "sent_bytes": connections.sent_bytes, "answers": dict(connections.answers)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
