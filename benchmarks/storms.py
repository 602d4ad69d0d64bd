"""The command: `python -m benchmarks.storms` ends all streams of a fleet at once, and measures how it comes back.

    reload     SIGHUP to gunicorn: every stream ends with a random `retry:`
    kill       SIGKILL to the fuller of two workers: its connections break
    outage     30 s without a network: all connections break, and every attempt fails until it is over

Two workers on all cores hold the streams of 10,000 real sockets. Every device follows the SDK's own rules (fleet.py) in
this process, which shares the cores with the server. The times count from the signal, or from the end of the outage, to
the `: connected` of a stream that stays. Exit status 1 when a reload misses one of AIMS, 130 on Ctrl-C.
"""

import argparse
import math
import os
import re
import resource
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import curve, report
from .fleet import Fleet
from .process import prepare_on_all_cores
from .server import FOR_FIGURES, ROOT, Server, gunicorn

WORKERS = 2
KINDS = {"generator": {}, "parked": {"SYNCKIT_PARKING": "1"}}
OUTAGE_SECONDS = 30.0
STAYS_SECONDS = 2.0
"""A fleet is back when all have had a stream for so long, and no old worker is left."""

WITHIN = {"reload": 60.0, "kill": 60.0, "outage": 120.0}

STEP_SECONDS = 0.1
PICTURE_SECONDS = 12.0
"""The picture shows at least so many seconds."""

BACK_99, BACK_ALL, REPEATED, REFUSED = "99 % back, s", "all back, s", "needed a second attempt, %", "answered 503"
AIMS = {BACK_99: 10.0, BACK_ALL: 20.0, REPEATED: 1.0, REFUSED: 0.0}
"""The most that each figure of a reload may be."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What one storm did; times are seconds after its signal, or after the end of the outage."""

    kind: str
    name: str
    devices: int
    hit: int
    """The number of devices that lost their stream."""
    back: list[float]
    """When each of them had a stream that stayed, in ascending order; fewer than `hit` if some stayed away."""
    repeated: int
    failures: Counter[str]
    before: int
    """The number of devices that had a stream at that moment."""
    changes: list[tuple[float, int]]
    overflows: int
    """Connections that the kernel dropped since the queue of the listening socket was full."""
    fullest: int
    """The number of streams of the worker that has the most, afterwards."""
    cpu: float
    """Processor time of this process."""

    def figures(self) -> dict[str, float]:
        """Return the figures of the table by name; infinity for devices that are not back."""
        return {
            "half back, s": self._share_back(0.5),
            BACK_99: self._share_back(0.99),
            BACK_ALL: self._share_back(1.0),
            REPEATED: 100 * self.repeated / max(1, self.hit),
            REFUSED: self.failures["503"],
            "other failed attempts": self.failures.total() - self.failures["503"],
            "listen-queue overflows": self.overflows,
            "streams of the fuller worker": self.fullest,
            "processor time of the devices, s": self.cpu,
        }

    def missed(self) -> set[str]:
        """Return the names of the figures that miss their aim; only a reload has aims."""
        figures = self.figures()
        return {name for name, most in AIMS.items() if figures[name] > most} if self.name == "reload" else set()

    def curve(self) -> list[tuple[float, float]]:
        """Return the share of all devices that have a stream, at steps of 0.1 s."""
        points, open_streams, changes = [], self.before, iter([*self.changes, (math.inf, 0)])
        at, change = next(changes)
        for step in range(int(self.changes[-1][0] / STEP_SECONDS) + 2 if self.changes else 1):
            while at <= step * STEP_SECONDS:
                open_streams += change
                at, change = next(changes)
            points.append((step * STEP_SECONDS, open_streams / self.devices))
        return points

    def _share_back(self, share: float) -> float:
        place = math.ceil(share * self.hit) - 1
        return self.back[place] if 0 <= place < len(self.back) else math.inf


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save the picture, and return the exit status."""
    options = _options(arguments)
    prepare_on_all_cores()
    facts = report.facts(
        f"{options.devices:,} devices on real sockets, in one process that shares the cores with the server",
        f"gunicorn.conf.py, {WORKERS} gevent workers, local:// between them, all cores",
    )
    facts["net.core.somaxconn"] = Path("/proc/sys/net/core/somaxconn").read_text().strip()
    facts["load average before"] = f"{os.getloadavg()[0]:.1f}"
    try:
        storms = [storm for kind in options.kinds for storm in measure(kind, options.devices, options.storms)]
    except KeyboardInterrupt:
        return 130
    print(table(facts, storms))
    reloads = {storm.kind: storm.curve() for storm in storms if storm.name == "reload"}
    if reloads:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        where = f"{options.devices:,} devices, {WORKERS} workers on {os.cpu_count()} cores"
        title = f"Devices with a stream after SIGHUP: {where}"
        last = max(PICTURE_SECONDS, *(points[-1][0] for points in reloads.values()))
        curve.draw(reloads, title, last, options.picture)
        _tell(f"picture: {options.picture}")
    return 1 if any(storm.missed() for storm in storms) else 0


def measure(kind: str, devices: int, names: Sequence[str]) -> Iterator[Storm]:
    """Start a server, connect the fleet, and yield what each storm did."""
    key = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="synckit-storms-") as name:
        settings = {
            **KINDS[kind],
            "SYNCKIT_BROKER_URL": f"local://{name}/broker",
            "SYNCKIT_WORKER_CONNECTIONS": "10000",
        }
        options = {**FOR_FIGURES, "workers": WORKERS}
        with (
            gunicorn(key, Path(name), options=options, core=None, settings=settings) as server,
            Fleet(server.port, key, devices) as fleet,
        ):
            _tell(f"{kind}: connecting {devices:,} devices")
            fleet.open()
            for storm in names:
                _tell(f"{kind}: {storm}")
                yield raise_storm(kind, storm, server, fleet)


def raise_storm(kind: str, name: str, server: Server, fleet: Fleet) -> Storm:
    """Let one storm strike, and wait until all devices are back."""
    fleet.run_until(lambda: False, STAYS_SECONDS)
    fleet.forget_the_past()
    old, dropped, cpu = set(server.processes()[1:]), listen_overflows(), time.process_time()
    match name:
        case "reload":
            server.reload()
        case "kill":
            fuller = max(old, key=descriptors)
            os.kill(fuller, signal.SIGKILL)
            old = {fuller}
        case "outage":
            old = set()
            fleet.lose_network()
            fleet.run_until(lambda: False, OUTAGE_SECONDS)
            fleet.forget_the_past()
            fleet.has_network = True
    before, began = fleet.open_streams, time.monotonic()

    def is_over() -> bool:
        still = fleet.open_streams == len(fleet.devices) and fleet.quiet_since() < time.monotonic() - STAYS_SECONDS
        return still and not old & set(server.processes())

    fleet.run_until(is_over, WITHIN[name])
    hit = [device for device in fleet.devices if device.hit]
    return Storm(
        kind=kind,
        name=name,
        devices=len(fleet.devices),
        hit=len(hit),
        back=sorted(device.back_at - began for device in hit if device.back_at is not None),
        repeated=sum(device.attempts > 1 for device in hit),
        failures=Counter(fleet.failures),
        before=before,
        changes=[(at - began, change) for at, change in fleet.changes],
        overflows=listen_overflows() - dropped,
        fullest=max(map(descriptors, server.processes())),
        cpu=time.process_time() - cpu,
    )


def listen_overflows() -> int:
    """Return how many connections the kernel has dropped since a listening socket's queue was full."""
    names, values = re.findall(r"^TcpExt: (.+)$", Path("/proc/net/netstat").read_text(), re.MULTILINE)
    return int(dict(zip(names.split(), values.split(), strict=True))["ListenOverflows"])


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process; a worker has some ten besides its streams."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def table(facts: dict[str, str], storms: Sequence[Storm]) -> str:
    """Return the report: one column for each storm, and the aims beside them."""
    columns = [(storm.figures(), storm.missed()) for storm in storms]
    head = " | ".join(f"{storm.kind}, {storm.name}" for storm in storms)
    lines = [report.head(facts), "", f"| | {head} | aim of a reload |", f"|---|{'--:|' * len(storms)}--:|"]
    for name in columns[0][0]:
        cells = [_cell(figures[name], missed=name in missed) for figures, missed in columns]
        aim = f"≤ {AIMS[name]:g}" if name in AIMS else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {aim} |")
    failures = {f"{storm.kind}, {storm.name}": dict(storm.failures) for storm in storms if storm.failures}
    return "\n".join(lines + [f"\nFailed attempts: {failures}"] * bool(failures))


def _cell(value: float, *, missed: bool) -> str:
    text = "never" if math.isinf(value) else f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    return f"**{text}**" if missed else text


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storms", description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000, help="default 10,000")
    parser.add_argument("--quick", action="store_true", help="1,000 devices and only reloads; misses most faults")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="default: both")
    parser.add_argument("--storms", nargs="+", choices=WITHIN, default=[*WITHIN], help="default: all three")
    folder = ROOT / "benchmarks" / "results"
    parser.add_argument(
        "--picture", type=Path, default=folder / "storms.svg", help="default benchmarks/results/storms.svg"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.devices, options.storms = 1_000, ["reload"]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200
    if not 10 <= options.devices <= most:
        parser.error(f"--devices must be 10 to {most:,}: every device takes a file descriptor of this process")
    return options


if __name__ == "__main__":
    sys.exit(main())
