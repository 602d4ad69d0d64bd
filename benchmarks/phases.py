"""What is measured: two phases, each on a fresh server, each returning flat rows of numbers.

    idle     open N streams of three devices a user ──▶ memory, connects; then 50 pushes/s over them ──▶ delays
    fan_out  1,000 streams of one channel ──▶ sat1: the next push when all have the last; sat: up to four on their way

Every row also says how busy both cores were, and how many deliveries were expected and received. Pushes come over
HTTP, one POST each: about 180 µs of the server, which over 1,000 deliveries is 0.2 µs of each event.
"""

import json
import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .load import SILENCE_SECONDS, Load, Stream, ignore
from .server import Server, gunicorn

Row = dict[str, Any]

DEVICES_EACH = 3
WARM_UP_STREAMS = 60
CHANNEL_STREAMS = 1_000
PUSHES_PER_SECOND = 50
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; full or quick."""

    streams: int
    repeats: int
    paced_seconds: float = 35.0  # long enough that every stream also has its keepalive in it
    saturated_seconds: float = 5.0


class Delays:
    """Seconds from a push to each of its frames; a user is not pushed again before those have come."""

    def __init__(self) -> None:
        self.pushed_at: dict[str, float] = {}
        self.seconds: list[float] = []
        self.late = 0.0

    def arrived(self, stream: Stream, frames: int) -> None:
        """Count the frames of one read."""
        self.seconds += [time.perf_counter() - self.pushed_at[stream.user]] * frames

    def quantile(self, share: float) -> float:
        """Return the delay that this share of the frames stayed under."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


class Gate:
    """Tells when every stream of one channel has received every push so far."""

    def __init__(self, streams: int) -> None:
        self.pushes = 0
        self.complete = 0
        self.events = 0
        self.reads = 0
        self._streams = streams
        self._received: Counter[Stream] = Counter()
        self._have: Counter[int] = Counter()

    def arrived(self, stream: Stream, frames: int) -> None:
        """Count the frames of one read; push n is complete when the last stream has its n-th frame."""
        first = self._received[stream] + 1
        self._received[stream] += frames
        for nth in range(first, first + frames):
            self._have[nth] += 1
        self.reads += 1
        self.events += frames
        while self._have[self.complete + 1] == self._streams:
            self.complete += 1


@contextmanager
def server_and_load() -> Iterator[tuple[Server, Load]]:
    """Start a server with a key of its own and warm it up; end everything afterwards."""
    key = secrets.token_hex(32)
    with (
        tempfile.TemporaryDirectory(prefix="synckit-bench-") as folder,
        gunicorn(key, Path(folder)) as server,
        Load(server.port, key) as load,
    ):
        warm_up = [f"warm-up-{n}" for n in range(WARM_UP_STREAMS // DEVICES_EACH)]
        load.open(load.requests(warm_up, DEVICES_EACH), ignore)
        time.sleep(SETTLE_SECONDS)
        yield server, load


def idle(plan: Plan) -> Iterator[Row]:
    """Yield the rows `connects` and `delays`, with the memory per stream after each."""
    with server_and_load() as (server, load):
        users = [f"user-{n}" for n in range(-(-plan.streams // DEVICES_EACH))]
        requests = load.requests(users, DEVICES_EACH)[: plan.streams]
        complete_users = users[: plan.streams // DEVICES_EACH]
        delays, before = Delays(), server.private_kib()

        row = connect(server, load, requests, delays)
        yield row | {"kib_per_stream": (server.private_kib() - before) / plan.streams}
        row = push_and_time(server, load, complete_users, delays, plan.paced_seconds)
        yield row | {"kib_per_stream_later": (server.private_kib() - before) / plan.streams}


def connect(server: Server, load: Load, requests: list[tuple[str, bytes]], delays: Delays) -> Row:
    """Open all streams, and ask the server how many it has registered."""
    with server.usage() as usage:
        load.open(requests, delays.arrived)
    time.sleep(SETTLE_SECONDS)
    return {
        "phase": "connects",
        "expected": len(requests),
        "received": json.loads(server.get("/api/sync/ready"))["streams"] - WARM_UP_STREAMS,
        "connects_per_second": len(requests) / usage.seconds,
        "cpu_us": usage.server_cpu / len(requests) * 1e6,
        "collector": server.get("/collector"),
        **usage.shares(),
    }


def push_and_time(server: Server, load: Load, users: list[str], delays: Delays, seconds: float) -> Row:
    """Push at a pace, and take the time to every frame."""
    with server.usage() as usage:
        pushes = push_at_a_pace(load, delays, users, seconds)
    return {
        "phase": "delays",
        "expected": pushes * DEVICES_EACH,
        "received": len(delays.seconds),
        "p50_ms": delays.quantile(0.50) * 1e3,
        "p99_ms": delays.quantile(0.99) * 1e3,
        "longest_ms": delays.quantile(1.0) * 1e3,
        "late_ms": delays.late * 1e3,
        **usage.shares(),
    }


def push_at_a_pace(load: Load, delays: Delays, users: list[str], seconds: float) -> int:
    """Push to one random user after the other, answered or not, each once before any twice; return how many."""
    users = random.Random(2).sample(users, len(users))
    pushes = int(PUSHES_PER_SECOND * seconds)
    begin = time.perf_counter()
    for n in range(pushes):
        due = begin + n / PUSHES_PER_SECOND
        while (left := due - time.perf_counter()) > 0:
            load.turn(left)
        user = users[n % len(users)]
        delays.pushed_at[user] = now = time.perf_counter()
        delays.late = max(delays.late, now - due)
        load.push(user)
    give_up = time.perf_counter() + SILENCE_SECONDS
    while len(delays.seconds) < pushes * DEVICES_EACH and time.perf_counter() < give_up:
        load.turn(0.1)
    return pushes


def fan_out(plan: Plan) -> Iterator[Row]:
    """Yield the rows `sat1` and `sat`, after a moment of the same that nobody measures."""
    with server_and_load() as (server, load):
        gate = Gate(CHANNEL_STREAMS)
        load.open(load.requests(["everybody"], CHANNEL_STREAMS), gate.arrived)
        saturate(load, gate, 1, plan.saturated_seconds / 10)
        for phase, outstanding in (("sat1", 1), ("sat", 4)):
            pushes, events, reads = gate.pushes, gate.events, gate.reads
            with server.usage() as usage:
                saturate(load, gate, outstanding, plan.saturated_seconds)
            pushes, events, reads = gate.pushes - pushes, gate.events - events, gate.reads - reads
            yield {
                "phase": phase,
                "expected": pushes * CHANNEL_STREAMS,
                "received": events,
                "events_per_second": events / usage.seconds,
                "cpu_us": usage.server_cpu / events * 1e6,
                "events_per_read": events / reads,
                **usage.shares(),
            }


def saturate(load: Load, gate: Gate, outstanding: int, seconds: float) -> None:
    """Push whenever fewer than `outstanding` pushes are on their way; return when all have arrived, or never will."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        while gate.pushes - gate.complete < outstanding:
            gate.pushes += 1
            load.push("everybody")
        load.turn(0.1)
    give_up = until + SILENCE_SECONDS
    while gate.complete < gate.pushes and time.perf_counter() < give_up:
        load.turn(0.1)
