"""One attack on one server: what well-behaved streams notice, what the server holds, and which promises were broken.

with target(streams, period, ...) as server:        a fresh gunicorn with the reference backend, and its streams
    row = run_attack(server, name, seconds, size)   the attack in its own process, until its descriptors are free
    broken_promises(row)                            one sentence each; an empty list if all were kept
"""

import json
import math
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from .load import make_token
from .report import Row
from .server import BACKEND, ROOT, SERVER_CORE, Server, gunicorn
from .watch import Watch

SEATS = 5_000
"""Connections of the worker: fewer than the largest attack opens."""

BACK_WITHIN = 15.0
"""Seconds from the end of an attack until its descriptors must be free.

A client that reads nothing is disconnected after 20 s: see `DEAF_SECONDS` in gunicorn_hooks."""

LOG_LINES_PER_SECOND = 40.0
"""Each kind of line comes at most ten times a second: refused, ended, malformed."""

MAX_GROWTH_KIB = 256 * 1024
"""The most that an attack may add to the server's memory: 500 heads of 200 KiB, read in pieces, and as much again.

How much of it the allocator returns is not judged here; `soak` looks for leaks."""

FEW_DESCRIPTORS = 4
"""Descriptors that may be open besides: a request for /live in flight, one more connection to the database."""

FEW_THREADS = 10
"""Threads that may be started: gevent's pool of native threads fills on first use. gthread's own are extra."""

STOCK: Mapping[str, object] = {"worker-class": "gevent"}


@dataclass(slots=True)
class Resources:
    """The resources that the server's processes use at one moment."""

    pids: list[int]
    memory_kib: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, server: Server) -> "Resources":
        """Return what they hold now."""
        return cls(server.processes(), server.private_kib(), server.descriptors(), server.threads())


@dataclass(frozen=True, slots=True)
class Target:
    """A server with its well-behaved streams, and the tokens that an attacker may have or invent."""

    server: Server
    watch: Watch
    period: float
    most_threads: int
    tokens: Mapping[str, list[str]]


@contextmanager
def target(
    streams: int,
    period: float,
    *,
    options: Mapping[str, object] = STOCK,
    settings: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Iterator[Target]:
    """Start a server, open the streams, and listen until each has had a keepalive."""
    key = secrets.token_hex(32)
    every = {"SYNCKIT_KEEPALIVE_SECONDS": str(period), "SYNCKIT_WORKER_CONNECTIONS": str(SEATS), **(settings or {})}
    with (
        tempfile.TemporaryDirectory(prefix="synckit-abuse-") as folder,
        gunicorn(key, Path(folder), app=BACKEND, options=options, core=core, settings=every) as server,
        Watch(server, key, streams, period) as watch,
    ):
        until = time.monotonic() + 2 * period + 0.5
        watch.look(lambda: time.monotonic() < until)
        most_threads = server.threads() + FEW_THREADS + int(str(options.get("threads", 0)))
        yield Target(server, watch, period, most_threads, make_tokens(key))


def make_tokens(key: str) -> dict[str, list[str]]:
    """Return valid tokens, and every kind of invalid token."""
    good = [make_token(key, f"attacker-{n}", f"device-{n}") for n in range(100)]
    header, claims, signature = good[0].split(".")
    bad = [
        secrets.token_urlsafe(40),
        make_token(key, "attacker-0", life=-10),
        make_token(secrets.token_hex(32), "attacker-0"),
        make_token(key, "attacker" * 100),
        f"{header}.{claims}.",
        f"{header}.{signature}.{claims}",
        f"{header}.{claims}.{signature}{'A' * 7500}",
        f"{'A' * 7900}.{claims}.{signature}",
        secrets.token_urlsafe(6000),
    ]
    return {"good": good, "bad": bad}


def run_attack(target: Target, name: str, seconds: float, size: int) -> Row:
    """Run one attack, listen until its descriptors are free, and return everything that was measured."""
    before, logged_before, began = Resources.of(target.server), len(target.server.log()), time.monotonic()
    with attacking(target, name, seconds, size) as attack, target.server.usage() as usage:
        seen = listen(target, attack, before)
        attack.kill()
        result = attack.stdout.read() if attack.stdout else ""
    return {
        "attack": name,
        "size": size,
        "seconds": time.monotonic() - began,
        "period": target.period,
        "most_threads": target.most_threads,
        "attacker": json.loads(result or "null"),
        **usage.shares(),
        **seen,
        "before": asdict(before),
        "after": asdict(Resources.of(target.server)),
        **logged(target.server.log()[logged_before:], target.tokens),
    }


@contextmanager
def attacking(target: Target, name: str, seconds: float, size: int) -> Iterator["subprocess.Popen[str]"]:
    """Start the process of an attack; it is ended with the block at the latest."""
    command = [sys.executable, "-m", "benchmarks.attacks", name, str(target.server.port), str(seconds), str(size)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attack:
        try:
            if attack.stdin:
                attack.stdin.write(json.dumps(target.tokens))
                attack.stdin.close()
            yield attack
        finally:
            attack.kill()


def listen(target: Target, attack: "subprocess.Popen[str]", before: Resources) -> Row:
    """Listen while the attack runs and until its descriptors are free; return the delays and the peak of memory."""
    peak, back, give_up = 0, False, math.inf

    def sample() -> None:
        nonlocal peak, back, give_up
        peak = max(peak, target.server.private_kib())
        if attack.poll() is not None:
            give_up = min(give_up, time.monotonic() + BACK_WITHIN)
            back = target.server.descriptors() <= before.descriptors + FEW_DESCRIPTORS

    failure = ""
    try:
        target.watch.look(lambda: not back and time.monotonic() < give_up, sample)
    except (RuntimeError, OSError) as error:
        failure = f"{type(error).__name__}: {error}"[:200]
    delays = {what: summary(seconds) for what, seconds in target.watch.delays().items()}
    return {"failure": failure, "peak_kib": peak, **delays}


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return the number of delays and their quantiles, in seconds."""
    ordered = sorted(seconds) or [math.nan]
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return {"count": len(seconds), "p50": p50, "p99": p99, "max": ordered[-1]}


def logged(log: str, tokens: Mapping[str, list[str]]) -> Row:
    """Return how much the server logged meanwhile, and whether the log has a token."""
    secret = {part[:24] for token in chain(*tokens.values()) for part in token.split(".") if len(part) >= 24}
    return {
        "log_lines": log.count("\n"),
        "tracebacks": log.count("Traceback"),
        "tokens_in_log": sum(part in log for part in secret),
    }


def broken_promises(row: Row, slack: float = 1.0) -> list[str]:
    """Return which promises were not kept. Times and rates may be worse by the factor `slack`."""
    before, after = row["before"], row["after"]
    promises = {
        row["failure"]: not row["failure"],
        "a keepalive was late": row["keepalive"]["max"] <= row["period"] * slack,
        "there were no keepalives": row["keepalive"]["count"] > 0,
        "the server took too much memory": row["peak_kib"] - before["memory_kib"] <= MAX_GROWTH_KIB,
        "descriptors were not freed": after["descriptors"] <= before["descriptors"] + FEW_DESCRIPTORS,
        "threads were not freed": after["threads"] <= row["most_threads"],
        "the worker was replaced": after["pids"] == before["pids"],
        "the server answered 500": not (row["attacker"] or {"answers": {}})["answers"].get("500"),
        "the attack did not end": row["attacker"] is not None,
        "the log has a traceback": not row["tracebacks"],
        "the log has a token": not row["tokens_in_log"],
        "the server logged too many lines": row["log_lines"] <= LOG_LINES_PER_SECOND * row["seconds"] * slack,
    }
    return [sentence for sentence, holds in promises.items() if not holds]
