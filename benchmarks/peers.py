"""The command: `python -m benchmarks.peers` measures ours beside nchan, sse-starlette and a floor in C, side by side.

Every repeat takes each contender through each trial, in an order that turns with the repeats; each on a fresh server.
The tables go to stdout, progress to stderr; raw rows and the chart into a folder, the rows as they come. All traffic
stays on the loopback. Exit status 1 when something was lost, 130 on Ctrl-C; what was started is ended in any case.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from . import chart, comparison, report
from .contenders import CONTENDERS, Contender
from .generator import Programs
from .streams import check_streams, prepare
from .trials import TRIALS, Plan, Row, Trial, verified

RESULTS = Path(__file__).parent / "results"
QUICK: dict[str, Any] = {
    "paced_seconds": 4.0,
    "saturated_seconds": 1.0,
    "keepalive_streams": 600,
    "keepalive_seconds": 3.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save, and return the exit status."""
    options = _options(arguments)
    contenders = list(_present(options.only))
    if not contenders:
        return 2
    plan = Plan(options.streams, options.repeat, **(QUICK if options.quick else {}))
    facts = _facts(plan, contenders)
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare()
    rows: list[Row] = []
    try:
        for row in measure(contenders, plan):
            rows.append(row)
            (options.folder / "peers.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    except KeyboardInterrupt:
        print("interrupted; what is told now comes from the rows so far", file=sys.stderr)
        status = 130
    except RuntimeError as error:  # no compiler
        print(error, file=sys.stderr)
        return 2
    else:
        status = 0 if all(verified(row) for row in rows) else 1
    if rows:
        _conclude(comparison.Rows(rows), contenders, facts, options.folder)
    return status


def measure(contenders: Sequence[Contender], plan: Plan) -> Iterator[Row]:
    """Yield the rows of all repeats and tell them on stderr as they come."""
    each = [trial.seconds(plan) for trial in TRIALS]
    due, done, began = plan.repeats * len(contenders) * sum(each), 0.0, time.monotonic()
    print(f"about {due / 60:.0f} minutes on an idle machine", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="synckit-bench-") as folder:
        programs = Programs(Path(folder))
        for repeat in range(plan.repeats):
            turn = repeat % len(contenders)
            for trial, contender in product(TRIALS, [*contenders[turn:], *contenders[:turn]]):
                for row in _rows(trial, contender, programs, plan):
                    print(f"[{repeat + 1}/{plan.repeats}] {contender.name}: {_progress(row)}", file=sys.stderr)
                    yield {"contender": contender.name, "repeat": repeat + 1, "load_average": os.getloadavg()[0], **row}
                done += trial.seconds(plan)
                left = (time.monotonic() - began) * (due - done) / done
                print(f"[{repeat + 1}/{plan.repeats}] {done / due:.0%}, {left / 60:.1f} minutes left", file=sys.stderr)


def _rows(trial: Trial, contender: Contender, programs: Programs, plan: Plan) -> Iterator[Row]:
    """Yield the rows of one trial; what fails is a row too, and the run goes on."""
    try:
        yield from trial.measure(contender, programs, plan)
    except (RuntimeError, OSError) as error:
        yield {"phase": trial.measure.__name__, "failed": str(error)}


def _progress(row: Row) -> str:
    return f"{row['phase']} FAILED: {row['failed']}" if "failed" in row else report.progress(row)


def _present(names: Sequence[str]) -> Iterator[Contender]:
    """Yield the contenders that can run here, and tell which cannot."""
    for contender in CONTENDERS:
        if contender.name not in names:
            continue
        if missing := contender.missing():
            print(f"{contender.name} is left out; it needs: {missing}", file=sys.stderr)
        else:
            yield contender


def _facts(plan: Plan, contenders: Sequence[Contender]) -> dict[str, str]:
    """Return what a reader must know to compare, and in what the contenders are not alike."""
    present = [contender.name for contender in contenders]
    absent = [contender.name for contender in CONTENDERS if contender.name not in present]
    peers = [text for contender in contenders if (text := contender.version())]
    facts = report.facts(
        f"{plan.streams:,} idle streams, {plan.repeats} repeats", "gunicorn.conf.py, one gevent worker"
    )
    facts["versions"] = ", ".join([facts["versions"], *peers])
    facts["seconds"] = (
        f"pushes at a pace {plan.paced_seconds:g}, each saturation {plan.saturated_seconds:g}, "
        f"{plan.keepalive_streams:,} streams' keepalives {plan.keepalive_seconds:g}"
    )
    facts |= {c.name: c.what + (f". Not alike: {c.unlike}" if c.unlike else "") for c in contenders}
    return facts | ({"left out": ", ".join(absent)} if absent else {})


def _conclude(rows: comparison.Rows, contenders: Sequence[Contender], facts: dict[str, str], folder: Path) -> None:
    """Print the report and save the chart."""
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print(comparison.tables(rows, contenders))
    if missing := chart.missing():
        print(f"no chart; it needs: {missing}", file=sys.stderr)
    else:
        title = f"{facts['measured']}; {facts['machine']}; {facts['date']}"
        chart.draw(rows, [contender.name for contender in contenders if contender.ours], title, folder / "peers.png")
    print(f"raw rows and chart: {folder}", file=sys.stderr)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--streams", type=int, help="idle streams (default 10,000, quick 1,000)")
    parser.add_argument("--repeat", type=int, help="how often all is measured (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="one short repeat, about two minutes")
    some = f"some of: {', '.join(names)}"
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=some)
    parser.add_argument(
        "--folder", type=Path, default=RESULTS, help="for peers.json and peers.png (benchmarks/results)"
    )
    options = parser.parse_args(arguments)
    options.streams = options.streams or (1_000 if options.quick else 10_000)
    options.repeat = options.repeat or (1 if options.quick else 5)
    if options.repeat < 1:
        parser.error("--repeat: at least once")
    check_streams(parser, options.streams)
    return options


if __name__ == "__main__":
    sys.exit(main())
