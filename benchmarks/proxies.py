"""The command: `python -m benchmarks.proxies` sends streams through nginx, HAProxy and Caddy, and prints what they add.

Each proxy runs from its file in `deploy/`, with only ports, paths and times replaced, in front of a gunicorn with the
project's gunicorn.conf.py. The client is curl over TLS, once with HTTP/1.1 and once with HTTP/2. Progress is printed on
stderr, and all traffic stays on the loopback interface. Exit status 1 when a promise is broken, 130 on Ctrl-C. All
started processes are ended in any case.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.proxies import Caddy, Haproxy, Nginx, Proxy
from tests.support.proxy_leaks import believed_lies, echo, revealed_metrics
from tests.support.proxy_scenarios import (
    Route,
    added_delays,
    cost,
    death,
    departure,
    expected_body,
    first_bytes,
    idle_life,
    whole_body,
)
from tests.support.reconnecting_devices import Outcome, disturb, hang_up
from tests.support.server import ROOT, Server, gunicorn
from tests.support.tokens import make_token

from .process import interrupt_on_signals
from .report import head, surroundings

PROXIES: dict[str, type[Proxy]] = {"nginx": Nginx, "haproxy": Haproxy, "caddy": Caddy}
KEEPALIVE_SECONDS = 1.0
DEVICES = 20
STREAMS = 100
DELAY_CEILING_MS = 50.0


class Column:
    """The figures of one route. `broken` lists the promises that were not kept; the table prints their figures bold."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: dict[str, str] = {}
        self.broken: list[str] = []

    def note(self, figure: str, value: str, holds: bool = True) -> None:
        """Store a figure."""
        self.figures[figure] = value if holds else f"**{value}**"
        if not holds:
            self.broken.append(f"{self.name}, {figure}: {value}")

    def departures(self, route: Route) -> None:
        """Measure how soon the server notices that a client has disconnected."""
        noticed = statistics.median(departure(route) for _ in range(5))
        self.note("client disconnects: server notices after, ms", f"{noticed * 1e3:.0f}", noticed < KEEPALIVE_SECONDS)

    def exactness(self, route: Route, pushes: int) -> None:
        """Check that every byte arrives unchanged, and measure how soon the first one does."""
        exact = whole_body(route, pushes) == expected_body(pushes)
        self.note(f"bytes of {pushes} pushes and the end", "exact" if exact else "altered", exact)
        self.note("request to first byte, p50, ms", f"{statistics.median(first_bytes(route, 20)) * 1e3:.1f}")

    def delays(self, direct: Route, route: Route, pushes: int) -> None:
        """Measure how much later a frame arrives than without the proxy."""
        later = sorted(added_delays(direct, route, pushes, pause=0.02))
        for name, share in (("p50", 50), ("p99", 99)):
            delay = later[len(later) * share // 100] * 1e3
            self.note(f"added to a frame, {name}, ms", f"{delay:.2f}", delay < DELAY_CEILING_MS)

    def costs(self, route: Route, proxy: Proxy) -> None:
        """Measure what an idle stream costs the proxy."""
        memory, descriptors = cost(route, proxy, STREAMS)
        self.note("memory per idle stream, KiB", f"{memory:.0f}")
        self.note("descriptors per stream", f"{descriptors:.1f}")

    def silence(self, held: Route, cut: Route) -> None:
        """Check that keepalives keep an idle stream open longer than the proxy's idle limit."""
        life = idle_life(held, at_most=6.0)
        self.note("idle, keepalive 1 s, proxy limit 2 s: open after, s", f"{life:.1f}", life >= 6.0)
        life = idle_life(cut, at_most=6.0)
        self.note("idle, keepalive 1 s, proxy limit 0.5 s: cut after, s", f"{life:.1f}", life < KEEPALIVE_SECONDS)

    def reload(self, what: str, outcome: Outcome, wanted: set[str]) -> None:
        """Store how clients and pushes fared during a reload."""
        ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items())) or "none"
        self.note(f"{what}: ends of streams", ends, outcome.ends.keys() <= wanted)
        self.note(f"{what}: all {DEVICES} clients back after, s", f"{outcome.back_after:.1f}", outcome.all_hear)
        answers = outcome.pushes.answers
        failed = answers.total() - answers[200]
        self.note(f"{what}: pushes that failed", f"{failed} of {answers.total()}", failed == 0)
        self.note(f"{what}: longest push, s", f"{outcome.pushes.longest:.1f}")

    def death(self, route: Route) -> None:
        """Measure how a stream ends when the worker is killed."""
        end = death(route)
        self.note("worker killed: the stream is", end, end in ("cut", "clean"))

    def outside(self, url: str, logs: str) -> None:
        """Check that metrics, forged headers and tokens do not pass."""
        revealed, believed = revealed_metrics(url), believed_lies(url)
        self.note("metrics", ", ".join(revealed) or "hidden", not revealed)
        self.note("forged headers", ", ".join(believed) or "replaced", not believed)
        self.note("tokens in the proxy's logs", "some" if "eyJ" in logs else "none", "eyJ" not in logs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _options(arguments)
    interrupt_on_signals()
    facts = surroundings() | {"proxies": ", ".join(map(version_of, options.proxies))}
    facts["load average"] = f"{os.getloadavg()[0]:.1f} before"
    try:
        columns = list(measure(options.proxies, options.pushes))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    broken = [promise for column in columns for promise in column.broken]
    print(head(facts))
    print(f"\n{table(columns)}\n\n{'NOT KEPT: ' + '; '.join(broken) if broken else 'All promises kept.'}")
    return 1 if broken else 0


def measure(proxies: Sequence[str], pushes: int) -> Iterator[Column]:
    """Yield one column for gunicorn itself, and two for each proxy."""
    config, env = ROOT / "gunicorn.conf.py", {"SYNCKIT_KEEPALIVE_SECONDS": f"{KEEPALIVE_SECONDS:g}"}
    with (
        tempfile.TemporaryDirectory(prefix="synckit-bench-") as folder,
        gunicorn("tests.support.minimal_host:create_app()", Path(folder), "--config", str(config), env=env) as service,
    ):
        _say("gunicorn without a proxy")
        yield measure_direct(service, pushes)
        for name in proxies:
            for version in ("1.1", "2"):
                _say(f"{name}, HTTP/{version}")
                yield measure_proxy(PROXIES[name], version, service, Path(folder) / f"{name}-{version}", pushes)


def measure_direct(service: Server, pushes: int) -> Column:
    """Return the column of gunicorn without a proxy."""
    column, direct = Column("direct 1.1"), Route(service, service.url, "1.1", make_token)
    column.departures(direct)
    column.exactness(direct, pushes)
    column.delays(direct, direct, pushes)
    column.reload("reload of gunicorn", hang_up(direct, DEVICES), {"clean"})
    column.death(direct)
    return column


def measure_proxy(kind: type[Proxy], version: str, service: Server, folder: Path, pushes: int) -> Column:
    """Return the column of one proxy and one version of HTTP."""
    column, direct = Column(f"{kind.name} {version}"), Route(service, service.url, "1.1", make_token)

    def through(proxy: Proxy) -> Route:
        return Route(service, proxy.url, version, make_token)

    with kind(folder / "proxy", service.port) as proxy:
        route = through(proxy)
        column.departures(route)
        column.exactness(route, pushes)
        column.delays(direct, route, pushes)
        column.costs(route, proxy)
        column.reload("reload of gunicorn", hang_up(route, DEVICES), {"clean"})
        column.reload("reload of the proxy", disturb(route, DEVICES, lambda: _reload(proxy)), {"clean", "cut"})
        column.death(route)
        logs = proxy.logs
    with (
        kind(folder / "long", service.port, idle_limit="2s") as held,
        kind(folder / "short", service.port, idle_limit="500ms") as cut,
    ):
        column.silence(through(held), through(cut))
    with echo() as port, kind(folder / "echo", port) as proxy:
        column.outside(proxy.url, logs)
    return column


def _reload(proxy: Proxy) -> None:
    proxy.reload()
    time.sleep(2.0)  # by then the new processes of every proxy accept


def version_of(name: str) -> str:
    """Return the name and version of a proxy."""
    command = [name, "version"] if name == "caddy" else [name, "-v"]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+\.\d+", said)
    return f"{PROXIES[name].name} {found[0] if found else said.strip()}"


def table(columns: Sequence[Column]) -> str:
    """Return all figures as Markdown, one line each; the last column has all of them."""
    lines = [["", *(column.name for column in columns)], ["---", *("--:" for _ in columns)]]
    lines += [[figure, *(column.figures.get(figure, "") for column in columns)] for figure in columns[-1].figures]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxies", description=__doc__)
    parser.add_argument("proxies", nargs="*", metavar="PROXY", help="nginx, haproxy, caddy (default: all three)")
    parser.add_argument("--pushes", type=int, default=200, help="how many pushes each route carries (default 200)")
    options = parser.parse_args(arguments)
    options.proxies = options.proxies or list(PROXIES)
    if unknown := set(options.proxies) - set(PROXIES):
        parser.error(f"unknown proxy {', '.join(unknown)}; choose from {', '.join(PROXIES)}")
    if missing := [name for name in (*options.proxies, "openssl", "curl") if shutil.which(name) is None]:
        parser.error(f"not installed: {' '.join(missing)}; install them (apt-get install {' '.join(missing)})")
    if options.pushes < 1:
        parser.error("--pushes must be 1 or more")
    return options


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
