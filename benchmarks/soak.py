"""The command: `python -m benchmarks.soak` lets streams come and go for minutes and looks for what is lost or left.

    ten rounds on one gunicorn with the reference backend; in each a crowd comes, hears pushes, and goes again
        1       the first worker warms up         2-4   the worker is replaced several times a round (HUP)
        5       the last worker warms up          6-10  nobody interferes: what grows now, leaks
    after each round, all closed: open streams, descriptors, threads, greenlets, objects, memory, the master's memory

A line every few seconds and one per round on stderr, a summary on stdout. Exit status 1 when a push was unheard by a
stream that stayed, when a stream broke off, or when something is left; 130 on Ctrl-C. All traffic is on the loopback.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from . import report
from .attack_run import FEW_DESCRIPTORS, FEW_THREADS, STOCK, Resources
from .churn import FAULTS, Crowd
from .process import prepare
from .report import Row
from .server import BACKEND, Server, gunicorn

ROUNDS = 10
RELOADED = range(2, 5)
RELOADS_A_ROUND = 3
LAST_WARM_UP = 5

GONE_WITHIN = 30.0
"""Seconds until everything of a round must be closed: deaf visitors stay for 5, an old worker for 10."""

SLACK = {
    "descriptors": FEW_DESCRIPTORS,
    "threads": FEW_THREADS,
    "greenlets": 3 * FEW_THREADS,
    "objects": 1_000,
    "memory_kib": 4_096,
    "master_kib": 1_024,
}
"""How much more than before may be held. gevent's pool of native threads breathes, with some greenlets to each. Objects
are counted after a full collection; of ten minutes' streams 8,000 fall into the last five rounds: one object left by
every eighth shows. Memory has the arenas' fragments and SQLite's page cache in it; half a KiB a stream shows.
A master grows by 0.6 MiB in its first nine reloads, and by nothing in the forty after them."""

OUTLIVES_RELOADS = ("descriptors", "threads", "greenlets", "objects", "master_kib")
OUTLIVES_STREAMS = tuple(SLACK)
"""What is compared from the first worker to the last, and within the last one's life. Not the memory of two different
workers: a worker keeps what it needed at its busiest. 300 streams that came at once to a worker that was never replaced
raised it from 53.5 to 56.7 MiB, and it stayed there. After a reload they do come at once, in the first round they come
one by one. Of memory only the master's can be left over from workers that are gone."""

TELL_EVERY = 5.0


COLUMNS = ("round", "opened", "reloads", "descriptors", "threads", "greenlets", "objects", "memory_kib", "master_kib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print, and return the exit status."""
    options = _options(arguments)
    facts = report.facts(
        f"{options.minutes:g} minutes, {options.streams} streams at a time",
        f"gunicorn.conf.py, one gevent worker{', parked streams' * options.parked}, the reference backend",
    )
    prepare()
    rounds: list[Row] = []
    counters: Counter[str] = Counter()
    try:
        for row in soak(options.minutes * 60 / ROUNDS, options.streams, options.parked, counters):
            rounds.append(row)
            print(f"round {row['round']} of {ROUNDS}: {_told(row)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    sentences = lost(counters) + left(rounds)
    print(table(facts, rounds, counters, sentences))
    if options.json:
        report_ = {**facts, "rounds": rounds, "counts": counters, "broken": sentences}
        options.json.write_text(json.dumps(report_, indent=1) + "\n")
    return 1 if sentences else 0


def soak(seconds: float, streams: int, parked: bool, counters: Counter[str]) -> Iterator[Row]:
    """Yield what is held after each round, everything closed; count in `counters` what happened."""
    key = secrets.token_hex(32)
    settings = {"SYNCKIT_KEEPALIVE_SECONDS": "2"} | ({"SYNCKIT_PARKING": "1"} if parked else {})
    with (
        tempfile.TemporaryDirectory(prefix="synckit-soak-") as folder,
        gunicorn(key, Path(folder), app=BACKEND, options=STOCK, settings=settings) as server,
        Crowd(server.port, key, streams, counters) as crowd,
    ):
        for number in range(1, ROUNDS + 1):
            reloads = RELOADS_A_ROUND if number in RELOADED else 0
            crowd_comes(server, crowd, seconds, reloads)
            yield {"round": number, "opened": counters["opened"], "reloads": reloads, **at_rest(server, crowd)}


def crowd_comes(server: Server, crowd: Crowd, seconds: float, reloads: int) -> None:
    """Let a crowd come and go; now and then replace the worker, and tell how it goes."""
    began = time.monotonic()
    reload_at = [began + seconds * (n + 0.5) / reloads for n in range(reloads)]
    tell_at = began + TELL_EVERY
    while (now := time.monotonic()) < began + seconds:
        crowd.turn()
        if reload_at and now >= reload_at[0]:
            del reload_at[0]
            server.reload()
        if now >= tell_at:
            tell_at += TELL_EVERY
            print(f"  {len(crowd)} here; {_listed(crowd.counters)}", file=sys.stderr, flush=True)


def at_rest(server: Server, crowd: Crowd) -> Row:
    """Let all go, wait until the server knows, and return what it holds."""
    crowd.leave()
    give_up = time.monotonic() + GONE_WITHIN
    while not (crowd.gone and _is_alone(server)) and time.monotonic() < give_up:
        crowd.listen(time.monotonic())
    holdings = json.loads(server.get("/holdings"))
    held = {**holdings, **asdict(Resources.of(server)), "master_kib": server.private_kib(server.processes()[0])}
    return {"streams": _streams(server), **held, "here": len(crowd)}


def lost(counters: Counter[str]) -> list[str]:
    """Return what must not have happened."""
    return [f"{counters[fault]:,} x {fault}" for fault in FAULTS if counters[fault]]


def left(rounds: Sequence[Row]) -> list[str]:
    """Return what was not given back, by the replaced workers and by the last one."""
    open_still = [f"{row['streams'] + row['here']} streams open after round {row['round']}" for row in rounds]
    sentences = [told for told, row in zip(open_still, rounds, strict=True) if row["streams"] or row["here"]]
    first, warm, last = rounds[0], rounds[LAST_WARM_UP - 1], rounds[-1]
    for earlier, later, names in ((first, warm, OUTLIVES_RELOADS), (warm, last, OUTLIVES_STREAMS)):
        sentences += [
            f"{later[name]:,} {name} after round {later['round']}, {earlier[name]:,} after round {earlier['round']}"
            for name in names
            if later[name] > earlier[name] + SLACK[name]
        ]
    return sentences


def table(facts: dict[str, str], rounds: Sequence[Row], counters: Counter[str], sentences: Sequence[str]) -> str:
    """Return the whole report."""
    head = [f"- {name}: {value}" for name, value in facts.items()]
    lines = [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in rounds]
    rule = f"|{'--:|' * len(COLUMNS)}"
    verdict = "; ".join(sentences) or "Nothing was lost, nothing is left."
    return "\n".join([*head, "", f"| {' | '.join(COLUMNS)} |", rule, *lines, "", _listed(counters), "", verdict])


def _is_alone(server: Server) -> bool:
    """Return whether there is one worker again, without streams."""
    return len(server.processes()) == 2 and _streams(server) == 0


def _streams(server: Server) -> int:
    return int(json.loads(server.get("/api/sync/ready"))["streams"])


def _told(row: Row) -> str:
    return ", ".join(f"{row[name]:,} {name}" for name in COLUMNS[1:])


def _listed(counters: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counters.items() if count)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long in all (default 10)")
    parser.add_argument("--streams", type=int, default=300, help="how many are open at a time (default 300)")
    parser.add_argument("--parked", action="store_true", help="streams without a greenlet each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows")
    options = parser.parse_args(arguments)
    if not 0.5 <= options.minutes <= 24 * 60 or not 10 <= options.streams <= 5_000:
        parser.error("--minutes from 0.5, --streams from 10 to 5,000")
    return options


if __name__ == "__main__":
    sys.exit(main())
