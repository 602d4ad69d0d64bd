"""The command: `python -m benchmarks.peers` measures this project beside other servers, and beside another version.

Each repeat runs every scenario with every contender, on a fresh server each time; every second repeat has the reverse
order. `--against` adds the streams of another version of this package, called `before`.

The table is printed on stdout, progress on stderr. Raw rows and the chart are saved in a folder, each row at once. All
traffic stays on the loopback interface. Exit status 1 when a delivery was lost, 2 when something is missing, 130 on
Ctrl-C. All started processes are ended in any case.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from . import chart, comparison, report
from .checkouts import Missing, unpacked
from .contenders import CONTENDERS, Contender, earlier
from .generator import Programs
from .process import check_streams, prepare
from .report import Row, progress
from .scenarios import CHANNEL_STREAMS, SCENARIOS, WARM_UP_STREAMS, Plan, Scenario, verified
from .server import ROOT

RESULTS = Path(__file__).parent / "results"
QUICK: dict[str, Any] = {
    "paced_seconds": 3.0,
    "saturated_seconds": 1.0,
    "keepalive_streams": 600,
    "keepalive_seconds": 2.0,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save, and return the exit status."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="synckit-bench-") as name:
        try:
            contenders = list(_with_earlier(_present(options.only), options.against, Path(name)))
        except Missing as error:
            print(error, file=sys.stderr)
            return 2
        return _run(contenders, options, Path(name)) if contenders else 2


def _run(contenders: Sequence[Contender], options: argparse.Namespace, folder: Path) -> int:
    """Measure, print, save, and return the exit status."""
    plan = Plan(options.streams, options.repeat, **(QUICK if options.quick else {}))
    facts = _facts(plan, contenders, options.against)
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare()
    rows: list[Row] = []
    try:
        for row in measure(contenders, plan, folder):
            rows.append(row)
            report.save(options.folder / "peers.json", facts, rows=rows)
    except KeyboardInterrupt:
        print("interrupted; the report is made of the rows so far", file=sys.stderr)
        status = 130
    except RuntimeError as error:  # no compiler
        print(error, file=sys.stderr)
        return 2
    else:
        status = 0 if all(verified(row) for row in rows) else 1
    if rows:
        _conclude(comparison.Rows(rows), contenders, facts, options.folder)
    return status


def measure(contenders: Sequence[Contender], plan: Plan, folder: Path) -> Iterator[Row]:
    """Yield the rows of all repeats, and print each on stderr at once; the folder is for the servers' files."""
    each = [scenario.seconds(plan) for scenario in SCENARIOS]
    due, done, began = plan.repeats * len(contenders) * sum(each), 0.0, time.monotonic()
    print(f"about {due / 60:.0f} minutes on an idle machine", file=sys.stderr)
    programs = Programs(folder)
    for repeat in range(plan.repeats):
        order = contenders[::-1] if repeat % 2 else contenders
        for scenario, contender in product(SCENARIOS, order):
            for row in _rows(scenario, contender, programs, plan):
                print(f"[{repeat + 1}/{plan.repeats}] {contender.name}: {progress(row)}", file=sys.stderr)
                yield {"contender": contender.name, "repeat": repeat + 1, "load_average": os.getloadavg()[0], **row}
            done += scenario.seconds(plan)
            left = (time.monotonic() - began) * (due - done) / done
            print(f"[{repeat + 1}/{plan.repeats}] {done / due:.0%}, {left / 60:.1f} minutes left", file=sys.stderr)


def _rows(scenario: Scenario, contender: Contender, programs: Programs, plan: Plan) -> Iterator[Row]:
    """Yield the rows of one scenario. A failure is a row too, and the run continues."""
    try:
        yield from scenario.measure(contender, programs, plan)
    except (RuntimeError, OSError) as error:
        yield {"phase": scenario.measure.__name__, "failed": str(error)}


def _present(names: Sequence[str]) -> Iterator[Contender]:
    """Yield the contenders that can run here, and print which cannot."""
    for contender in CONTENDERS:
        if contender.name not in names:
            continue
        if missing := contender.missing():
            print(f"{contender.name} is left out; to measure it: {missing}", file=sys.stderr)
        else:
            yield contender


def _with_earlier(contenders: Iterable[Contender], against: str | None, folder: Path) -> Iterator[Contender]:
    """Yield the contenders, and after each of this project's own the same of another version; raises Missing."""
    tree = unpacked(against, folder / "before") if against is not None else None
    for contender in contenders:
        yield contender
        if contender.ours and tree is not None:
            yield earlier(contender, tree)


def _facts(plan: Plan, contenders: Sequence[Contender], against: str | None) -> dict[str, str]:
    """Return what a reader must know to compare, and how the contenders differ."""
    present = [contender.name for contender in contenders]
    absent = [contender.name for contender in CONTENDERS if contender.name not in present]
    peers = [text for contender in contenders if (text := contender.version())]
    facts = report.facts(
        f"{plan.streams:,} idle streams, {plan.repeats} repeats", "gunicorn.conf.py, one gevent worker"
    )
    facts["versions"] = ", ".join([facts["versions"], *peers])
    if against is not None:
        is_folder = Path(against).is_dir()
        facts["before"] = report.commit(Path(against)) if is_folder else report.commit(ROOT, against)
    facts["seconds"] = (
        f"delays {plan.paced_seconds:g}, fan-out twice {plan.saturated_seconds:g}, "
        f"keepalives of {plan.keepalive_streams:,} streams {plan.keepalive_seconds:g}"
    )
    facts |= {c.name: c.what + (f". Caveats: {c.caveats}" if c.caveats else "") for c in contenders if not c.earlier}
    return facts | ({"left out": ", ".join(absent)} if absent else {})


def _conclude(rows: comparison.Rows, contenders: Sequence[Contender], facts: dict[str, str], folder: Path) -> None:
    """Print the report and save the chart."""
    ours = [contender.name for contender in contenders if contender.ours]
    print(report.head(facts), end="\n\n")
    print(comparison.tables(rows, contenders))
    if missing := chart.missing():
        print(f"no chart; to draw it: {missing}", file=sys.stderr)
    else:
        title = f"{facts['measured']}; {facts['machine']}; {facts['date']}"
        chart.draw(rows, ours, title, folder / "peers.png")
    print(f"raw rows and chart: {folder}", file=sys.stderr)
    if ours:
        print(
            "seconds vary with the machine; benchmarks.instructions counts instead, with --against too", file=sys.stderr
        )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--streams", type=int, help="idle streams (default 10,000, quick 1,000)")
    parser.add_argument(
        "--repeat", type=int, help="how often everything is measured (default 5; 1 if quick, or if nothing is compared)"
    )
    parser.add_argument("--quick", action="store_true", help="one short repeat, three minutes; not reliable")
    parser.add_argument(
        "--against", metavar="COMMIT", help="also measure a commit, or the folder of another checkout, as `before`"
    )
    some = f"some of: {', '.join(names)}"
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=some)
    parser.add_argument(
        "--folder",
        type=Path,
        default=RESULTS,
        help="for peers.json and peers.png (default benchmarks/results)",
    )
    options = parser.parse_args(arguments)
    options.streams = options.streams or (1_000 if options.quick else 10_000)
    compared = options.against is not None or any(not c.ours for c in CONTENDERS if c.name in options.only)
    options.repeat = options.repeat or (5 if compared and not options.quick else 1)
    if options.repeat < 1:
        parser.error("--repeat must be 1 or more")
    check_streams(parser, options.streams, CHANNEL_STREAMS, WARM_UP_STREAMS)
    return options


if __name__ == "__main__":
    sys.exit(main())
