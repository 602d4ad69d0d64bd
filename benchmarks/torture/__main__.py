"""The command: `python -m benchmarks.torture` runs the torture for minutes and says whether a change was lost or late.

    start ── faults strike, devices push ── repair ── devices finish ── compare what each device holds ── verdict

Progress is printed on stderr, the summary on stdout. Exit status 1 when a change was lost, repeated or late, 130 on
Ctrl-C. All started processes are ended in any case. The logs are kept when something was wrong.
"""

import argparse
import json
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.broker_servers import ENGINES
from tests.support.postgresql import DEBIAN

from .chaos import FAULTS, Chaos, Fault
from .ledger import RECONNECTED, STAYED, Ledger
from .site import Plan, Site
from .tables import Tables

PASSED = "Every device holds the whole log, in order, and none was stale for too long; devices with a store are equal."
LOOK_SECONDS = 0.5
STATUS_SECONDS = 5.0
GRACE_SECONDS = 90.0
"""How long the devices have to start, and to finish: long enough to tell a late change from a lost one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the torture, print the summary, and return the exit status."""
    plan, faults, file = _options(arguments)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _interrupt_once)
    folder = Path(tempfile.mkdtemp(prefix="synckit-torture-"))
    print(f"seed {plan.seed}; logs in {folder}", file=sys.stderr, flush=True)
    try:
        with Site(folder, plan) as site:
            summary = torture(site, plan, faults)
        summary["wrong"] += _tracebacks(folder)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        shutil.rmtree(folder)
        return 130
    print(report(summary))
    if file is not None:
        file.write_text(json.dumps(summary, indent=1) + "\n")
    if not summary["wrong"]:
        shutil.rmtree(folder)
    return 1 if summary["wrong"] else 0


def torture(site: Site, plan: Plan, faults: Sequence[Fault]) -> dict[str, Any]:
    """Run the whole plan on a site that has started, and return the summary."""
    ledger, tables = Ledger(site.devices), Tables(site.stores())
    chaos = Chaos(site, ledger.episodes, faults, plan.seed)
    began = time.time()
    _watch(site, ledger, tables, began, until=began + GRACE_SECONDS, enough=lambda: ledger.streams == plan.devices)
    chaos.start()
    try:
        _watch(site, ledger, tables, began, until=time.time() + plan.seconds)
    finally:
        chaos.stop()  # before the site ends, or a repair would start a process again
    for client in site.clients:
        client.command("finish")
    enough = time.time() + GRACE_SECONDS
    _watch(site, ledger, tables, began, until=enough, enough=lambda: ledger.complete() and tables.complete())
    return (
        _summary(site, ledger, chaos, plan, faults, began)
        | tables.summary()
        | {"wrong": ledger.verdict() + tables.verdict() + [f"a fault failed: {failure}" for failure in chaos.failures]}
    )


def _watch(
    site: Site,
    ledger: Ledger,
    tables: Tables,
    began: float,
    *,
    until: float,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Keep the ledger up to date and print the progress, until a moment or until `enough`."""
    next_status = time.time()
    while (now := time.time()) < until and not enough():
        _take(site, ledger, tables, now + LOOK_SECONDS)
        ledger.read(site.new_rows())
        present = ledger.judge(time.time())
        if now >= next_status:
            next_status = now + STATUS_SECONDS
            print(_status(ledger, now - began, present.seconds), file=sys.stderr, flush=True)


def _take(site: Site, ledger: Ledger, tables: Tables, until: float) -> None:
    while (left := until - time.time()) > 0:
        try:
            message = site.messages.get(timeout=left)
        except queue.Empty:
            return
        (tables if message.get("device") in tables.devices else ledger).record(message)


def _status(ledger: Ledger, elapsed: float, stale: float) -> str:
    active = [episode.kind for episode in ledger.episodes if episode.repaired is None]
    return (
        f"[{elapsed:4.0f} s] {ledger.counters['answers']} pushes, {ledger.streams}/{len(ledger.devices)} streams, "
        f"{len(ledger.episodes)} faults, stale now {stale:.1f} s, longest {ledger.longest.seconds:.1f} s"
        + (f", {len(ledger.wrong)} WRONG" if ledger.wrong else "")
        + (f"; now: {', '.join(active)}" if active else "")
    )


def _summary(
    site: Site, ledger: Ledger, chaos: Chaos, plan: Plan, faults: Sequence[Fault], began: float
) -> dict[str, Any]:
    struck = Counter(episode.kind for episode in ledger.episodes)
    return {
        "seed": f"{plan.seed}{', parked streams' * plan.parked}{'' if plan.postgresql else ', SQLite'}",
        "seconds": round(time.time() - began),
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "devices": len(ledger.devices),
        "changes in the log": sum(map(len, ledger.log.values())),
        "changes pulled": sum(len(holder.held) for holder in ledger.devices.values()),
        "longest staleness": round(ledger.longest.seconds, 1),
        "longest staleness after an answered request": round(ledger.longest_answered.seconds, 1),
        "longest staleness of a connected device": round(ledger.longest_connected.seconds, 1),
        "longest staleness, faults included": round(ledger.longest_in_all.seconds, 1),
        "broker": plan.broker,
        **{
            f"longest from the end of a broker's gap to the pull, {how}": (
                f"{ledger.longest_after_gap(how).seconds:.1f} ({len(ledger.after_gap[how])} pulls)"
            )
            for how in (STAYED, RECONNECTED)
        },
        "connections cut by age": sum(network.expired for network in site.networks),
        "counts": dict(sorted(ledger.counters.items())),
        "faults": {
            fault.kind: {"struck": struck[fault.kind], "stale after": round(ledger.longest_after[fault.kind], 1)}
            for fault in faults
        },
        "troubles": dict(ledger.troubles.most_common()),
    }


def report(summary: Mapping[str, Any]) -> str:
    """Return the summary as text."""
    lines = [f"{name}: {value}" for name, value in summary.items() if not isinstance(value, dict | list)]
    for name in ("counts", "troubles"):
        lines += ["", f"{name}:", *(f"  {count:5}  {what}" for what, count in summary[name].items())]
    lines += ["", "faults: how often, and how stale a device was after one (s)"]
    lines += [f"  {seen['struck']:5}  {seen['stale after']:4}  {kind}" for kind, seen in summary["faults"].items()]
    return "\n".join([*lines, "", *(summary["wrong"] or [PASSED])])


def _interrupt_once(sign: int, frame: object) -> None:
    """Raise KeyboardInterrupt once: a second signal during the cleanup would leave processes."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tracebacks(folder: Path) -> list[str]:
    """Return how many tracebacks each log has, if any."""
    counters = {log.name: log.read_text(errors="replace").count("Traceback (most") for log in folder.glob("*.log")}
    return [f"{count} tracebacks in {name}" for name, count in counters.items() if count]


def _options(arguments: Sequence[str] | None) -> tuple[Plan, list[Fault], Path | None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the faults (default 10)")
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--networks", type=int, default=3, help="client processes, each behind a proxy (default 3)")
    parser.add_argument(
        "--pushes",
        type=float,
        default=3.0,
        metavar="PER_SECOND",
        help="of all devices together (default 3)",
    )
    parser.add_argument(
        "--stores",
        type=int,
        default=3,
        metavar="N",
        help="besides, devices with run(SQLiteStore), of one user of their own (default 3; 0 for none)",
    )
    parser.add_argument("--parked", action="store_true", help="parked streams")
    parser.add_argument(
        "--sqlite", action="store_true", help="SQLite instead of PostgreSQL; leaves out faults of the database server"
    )
    parser.add_argument(
        "--broker",
        choices=ENGINES,
        default="redis",
        help="what is between the servers (default redis); postgresql is another server than the database",
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="only faults with these words in their name")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeat an earlier run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the summary as JSON")
    given = parser.parse_args(arguments)
    if not 1 <= given.users <= given.devices or given.networks < 1 or given.minutes <= 0 or given.pushes <= 0:
        parser.error("--networks must be 1 or more, and --devices as many as --users or more")
    faults = [fault for fault in FAULTS if _applies(fault, given)]
    if not faults:
        parser.error(f"--only must be in one of these names: {', '.join(fault.kind for fault in FAULTS)}")
    if (not given.sqlite or given.broker == "postgresql") and not (shutil.which("postgres") or DEBIAN):
        parser.error(
            "PostgreSQL is not installed: install it (apt-get install postgresql) or use --sqlite and another broker"
        )
    plan = Plan(
        seconds=given.minutes * 60,
        devices=given.devices,
        users=given.users,
        networks=given.networks,
        pushes_per_second=given.pushes,
        seed=given.seed,
        stores=max(given.stores, 0),
        parked=given.parked,
        postgresql=not given.sqlite,
        broker=given.broker,
    )
    return plan, faults, given.json


def _applies(fault: Fault, given: argparse.Namespace) -> bool:
    return given.only in fault.kind and given.broker in fault.brokers and not (given.sqlite and fault.needs)


if __name__ == "__main__":
    sys.exit(main())
