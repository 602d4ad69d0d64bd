"""The command: `python -m benchmarks.soak` opens and closes streams for minutes and looks for losses and leaks.

    ten rounds on one gunicorn with the reference backend; in each, clients connect, receive pushes, and leave
        1       the first worker warms up         2-4   the worker is replaced several times a round (HUP)
        5       the last worker warms up          6-10  no reload: what grows now is a leak
    counted after each round, when all streams are closed: descriptors, threads, greenlets, objects, memory

Progress is printed on stderr, a summary on stdout. Exit status 1 when a push was lost, when a stream was cut, or when
something leaked; 130 on Ctrl-C. All traffic stays on the loopback interface.
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
from .churn import FAULTS, Churn
from .process import prepare
from .report import Row
from .server import BACKEND, Server, gunicorn

ROUNDS = 10
RELOADED = range(2, 5)
RELOADS_A_ROUND = 3
LAST_WARM_UP = 5

GONE_WITHIN = 30.0
"""Seconds until everything of a round must be closed: clients that stop reading stay for 5, an old worker for 10."""

SLACK = {
    "descriptors": FEW_DESCRIPTORS,
    "threads": FEW_THREADS,
    "greenlets": 3 * FEW_THREADS,
    "objects": 1_000,
    "memory_kib": 4_096,
    "master_kib": 1_024,
}
"""How much more than before the server may hold.

gevent's pool of native threads grows and shrinks, with some greenlets for each thread. Objects are counted after a full
collection. The last five rounds of ten minutes have 8,000 streams: one object leaked by every eighth stream is found.
Memory includes fragments of arenas and SQLite's page cache; half a KiB leaked by each stream is found. A master grows
by 0.6 MiB in its first nine reloads, and not at all in the next forty.
"""

COMPARED_WORKERS = ("descriptors", "threads", "greenlets", "objects", "master_kib")
COMPARED_ROUNDS = tuple(SLACK)
"""What is compared between the first worker and the last, and within the last worker's life.

The memory of two different workers is not compared: a worker keeps what it needed at its busiest. 300 streams that
connected at once to a worker raised it from 53.5 to 56.7 MiB, and it stayed there. After a reload they do connect
at once, in the first round one by one. Of exited workers only the master can have kept memory.
"""

PRINT_SECONDS = 5.0


COLUMNS = ("round", "opened", "reloads", "descriptors", "threads", "greenlets", "objects", "memory_kib", "master_kib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all rounds, print the summary, and return the exit status."""
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
            print(f"round {row['round']} of {ROUNDS}: {_summary(row)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    sentences = losses(counters) + leaks(rounds)
    print(table(facts, rounds, counters, sentences))
    report.save(options.json, facts, rounds=rounds, counts=counters, broken=sentences)
    return 1 if sentences else 0


def soak(seconds: float, streams: int, parked: bool, counters: Counter[str]) -> Iterator[Row]:
    """Yield what the server holds after each round; count in `counters` what happened."""
    key = secrets.token_hex(32)
    settings = {"SYNCKIT_KEEPALIVE_SECONDS": "2"} | ({"SYNCKIT_PARKING": "1"} if parked else {})
    with (
        tempfile.TemporaryDirectory(prefix="synckit-soak-") as folder,
        gunicorn(key, Path(folder), app=BACKEND, options=STOCK, settings=settings) as server,
        Churn(server.port, key, streams, counters) as churn,
    ):
        for number in range(1, ROUNDS + 1):
            reloads = RELOADS_A_ROUND if number in RELOADED else 0
            run_round(server, churn, seconds, reloads)
            yield {"round": number, "opened": counters["opened"], "reloads": reloads, **at_rest(server, churn)}


def run_round(server: Server, churn: Churn, seconds: float, reloads: int) -> None:
    """Let clients connect and leave, replace the worker now and then, and print the progress."""
    began = time.monotonic()
    reload_at = [began + seconds * (n + 0.5) / reloads for n in range(reloads)]
    print_at = began + PRINT_SECONDS
    while (now := time.monotonic()) < began + seconds:
        churn.step()
        if reload_at and now >= reload_at[0]:
            del reload_at[0]
            server.reload()
        if now >= print_at:
            print_at += PRINT_SECONDS
            print(f"  {len(churn)} streams; {_listed(churn.counters)}", file=sys.stderr, flush=True)


def at_rest(server: Server, churn: Churn) -> Row:
    """Close all streams, wait until the server has noticed, and return what it holds."""
    churn.leave()
    give_up = time.monotonic() + GONE_WITHIN
    while not (churn.gone and _is_alone(server)) and time.monotonic() < give_up:
        churn.listen(time.monotonic())
    holdings = json.loads(server.get("/holdings"))
    held = {**holdings, **asdict(Resources.of(server)), "master_kib": server.private_kib(server.processes()[0])}
    return {"streams": _streams(server), **held, "here": len(churn)}


def losses(counters: Counter[str]) -> list[str]:
    """Return what was lost, one sentence each."""
    return [f"{counters[fault]:,} x {fault}" for fault in FAULTS if counters[fault]]


def leaks(rounds: Sequence[Row]) -> list[str]:
    """Return what was not freed, by the replaced workers and by the last one, one sentence each."""
    open_still = [f"{row['streams'] + row['here']} streams open after round {row['round']}" for row in rounds]
    sentences = [sentence for sentence, row in zip(open_still, rounds, strict=True) if row["streams"] or row["here"]]
    first, warm, last = rounds[0], rounds[LAST_WARM_UP - 1], rounds[-1]
    for earlier, later, names in ((first, warm, COMPARED_WORKERS), (warm, last, COMPARED_ROUNDS)):
        sentences += [
            f"{later[name]:,} {name} after round {later['round']}, {earlier[name]:,} after round {earlier['round']}"
            for name in names
            if later[name] > earlier[name] + SLACK[name]
        ]
    return sentences


def table(facts: dict[str, str], rounds: Sequence[Row], counters: Counter[str], sentences: Sequence[str]) -> str:
    """Return the whole report."""
    lines = [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in rounds]
    rule = f"|{'--:|' * len(COLUMNS)}"
    verdict = "; ".join(sentences) or "Nothing was lost, nothing leaked."
    return "\n".join(
        [report.head(facts), "", f"| {' | '.join(COLUMNS)} |", rule, *lines, "", _listed(counters), "", verdict]
    )


def _is_alone(server: Server) -> bool:
    """Return whether there is exactly one worker, without streams."""
    return len(server.processes()) == 2 and _streams(server) == 0


def _streams(server: Server) -> int:
    return int(json.loads(server.get("/api/sync/ready"))["streams"])


def _summary(row: Row) -> str:
    return ", ".join(f"{row[name]:,} {name}" for name in COLUMNS[1:])


def _listed(counters: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counters.items() if count)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of all rounds (default 10)")
    parser.add_argument("--streams", type=int, default=300, help="most streams at a time (default 300)")
    parser.add_argument("--parked", action="store_true", help="parked streams")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows to this file")
    options = parser.parse_args(arguments)
    if not 0.5 <= options.minutes <= 24 * 60 or not 10 <= options.streams <= 5_000:
        parser.error("--minutes must be 0.5 or more, --streams 10 to 5,000")
    return options


if __name__ == "__main__":
    sys.exit(main())
