"""The command: `python -m benchmarks.streams` measures idle streams, connects, fan-out and delays, and prints a table.

A run is a number of repeats of the phases in `phases`, one line each on stderr while it goes on. The generator is this
process on the last core, the server a gunicorn on the first; all traffic stays on the loopback. Exit status 1 when a
delivery is missing, 130 on Ctrl-C; what was started is ended in any case.
"""

import argparse
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import report
from .phases import CHANNEL_STREAMS, WARM_UP_STREAMS, Plan, Row, fan_out, idle
from .server import GENERATOR_CORE


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _options(arguments)
    quick = {"paced_seconds": 5.0, "saturated_seconds": 2.0} if options.quick else {}
    plan = Plan(options.streams, options.repeat or (1 if options.quick else 3), **quick)
    facts = report.facts(
        f"{plan.streams:,} idle streams, {plan.repeats} repeats", "gunicorn.conf.py, one gevent worker"
    )
    prepare()
    try:
        rows = list(measure(plan))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.table(facts, rows))
    if options.json:
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["expected"] == row["received"] for row in rows) else 1


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rows of all repeats and tell them on stderr as they come."""
    for repeat in range(1, plan.repeats + 1):
        for phase in (idle, fan_out):
            for row in phase(plan):
                print(f"[{repeat}/{plan.repeats}] {report.progress(row)}", file=sys.stderr, flush=True)
                yield {"repeat": repeat, "load_average": os.getloadavg()[0], **row}
            gc.collect()  # the sockets of this phase; during one it would be a pause in the delays


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=5_000, help="idle streams (default 5,000)")
    parser.add_argument("--repeat", type=int, help="how often all is measured (default 3, quick 1)")
    parser.add_argument("--quick", action="store_true", help="one short repeat, below half a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw rows")
    options = parser.parse_args(arguments)
    if options.repeat is not None and options.repeat < 1:
        parser.error("--repeat: at least once")
    check_streams(parser, options.streams)
    return options


def check_streams(parser: argparse.ArgumentParser, streams: int) -> None:
    """End the command if a process here cannot have so many connections."""
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 9 // 10 - WARM_UP_STREAMS
    if not 3 <= streams <= room or room < CHANNEL_STREAMS:
        parser.error(f"--streams: the descriptors of a process here allow 3 to {room}")


def prepare() -> None:
    """Take a core, all descriptors, and no pauses for the collector; turn both signals into an orderly end."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {GENERATOR_CORE})
    gc.disable()
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(sign, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
