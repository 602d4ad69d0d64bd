"""Reconnects of a fleet: connects per 0.1 s after all streams ended at the same moment, with the SDK's own rules.

    python -m benchmarks.reconnects               # 10,000 devices, four kinds of outage; lines that cut every stream
    python -m benchmarks.reconnects --devices 500 --seed 7

A simulation with a fake clock: no sockets, no waiting, a few seconds. Each device is one `Lifecycle` of the SDK, which
gets what a real stream would give it. `benchmarks.peers` measures how many connects a server takes.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from synckit_notify import sse
from synckit_notify.client.lifecycle import Lifecycle
from synckit_notify.client.schedule import RetryPolicy

STEP_SECONDS = 0.1
ROWS = 25
BAR_CHARACTERS = 50
STREAMS, CONNECT_SECONDS = 1000, 0.05
CUT_AFTER_SECONDS = (20, 30, 45, 59)
HEADERS = {"content-type": "text/event-stream", "synckit-keepalive": "30"}

Attempts = Iterator[float]
"""The moments of a device's attempts, in seconds after the outage began; the last one succeeds."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of outage."""

    name: str
    attempts: Callable[[Lifecycle, random.Random], Attempts]


def connected(device: Lifecycle, life: float) -> None:
    """Give a device a stream that has been open for `life` seconds."""
    device.answered(200, HEADERS, "", -life, -life)
    device.received([sse.Comment("connected")], -life)
    device.received([sse.Comment("keepalive")], -0.01)


def cut(life: float) -> Callable[[Lifecycle, random.Random], Attempts]:
    """Return the attempts after the line was cut; it works again at once."""

    def attempts(device: Lifecycle, chance: random.Random) -> Attempts:
        connected(device, life)
        device.ended("connection reset", 0.0)
        yield device.at

    return attempts


def drain(device: Lifecycle, chance: random.Random) -> Attempts:
    """Yield the attempts after a drain, with a different `retry:` for each device."""
    connected(device, 3600.0)
    device.received([sse.Retry(chance.randint(500, 5000)), sse.Comment("bye draining")], 0.0)
    yield device.at


def outage(seconds: float) -> Callable[[Lifecycle, random.Random], Attempts]:
    """Return the attempts while there is no server for so long; then each app sends a request once a minute."""

    def attempts(device: Lifecycle, chance: random.Random) -> Attempts:
        connected(device, 3600.0)
        device.ended("connection reset", 0.0)
        while device.at < seconds:
            yield device.at
            device.connect_failed("connection refused", device.at, took=0.0)
        asked_at = seconds + 60.0 * chance.random()
        if asked_at < device.at:
            device.request_succeeded(asked_at, asked_at)
        yield device.at

    return attempts


SCENARIOS = (
    Scenario("cut after an hour, the server is available", cut(3600.0)),
    Scenario("cut after 20 s, the server is available", cut(20.0)),
    Scenario("a drain, each with its own retry: of 0.5 to 5 s", drain),
    Scenario("no server for 120 s, then each app sends a request once a minute", outage(120.0)),
)


def run(scenario: Scenario, devices: int, seed: int) -> tuple[Counter[int], list[float]]:
    """Return the attempts in each step of 0.1 s, and the moment when each device was connected again."""
    chance = random.Random(seed)
    steps: Counter[int] = Counter()
    back: list[float] = []
    for _ in range(devices):
        device = Lifecycle(lambda state, reason: None, policy=RetryPolicy(), random=chance.random)
        moments = list(scenario.attempts(device, chance))
        steps.update(int(moment / STEP_SECONDS) for moment in moments)
        back.append(moments[-1])
    return steps, sorted(back)


def figures(steps: Counter[int], back: list[float]) -> str:
    """Return one line: the most attempts in 0.1 s, and when the devices were back."""
    attempts, half, most, last = steps.total(), back[len(back) // 2], back[int(len(back) * 0.99)], back[-1]
    return (
        f"{attempts:,} connects, at most {max(steps.values()):,} in {STEP_SECONDS:g} s; "
        f"half are back after {half:.1f} s, 99 % after {most:.1f} s, all after {last:.1f} s"
    )


def histogram(steps: Counter[int]) -> Iterator[str]:
    """Yield a row for each span of time: its end, the mean and the most connects in 0.1 s, and a bar."""
    width = max(1, -(-(max(steps) + 1) // ROWS))
    spans = [[steps[step] for step in range(begin, begin + width)] for begin in range(0, max(steps) + 1, width)]
    highest = max(sum(span) for span in spans)
    yield f"{'until':>8} {'mean':>7} {'most':>6}  connects in {STEP_SECONDS:g} s"
    for number, span in enumerate(spans, 1):
        bar = "#" * round(BAR_CHARACTERS * sum(span) / highest)
        yield f"{number * width * STEP_SECONDS:>6.1f} s {sum(span) / width:>7.1f} {max(span):>6}  {bar}".rstrip()


def share_connected(life: float, seed: int) -> float:
    """Return the share of the time for which a device is connected on a line that cuts every stream at this age."""
    device = Lifecycle(lambda state, reason: None, policy=RetryPolicy(), random=random.Random(seed).random)
    now = 0.0
    for _ in range(STREAMS):
        now = max(now, device.at) + CONNECT_SECONDS
        device.answered(200, HEADERS, "", now, now)
        device.received([sse.Comment("connected")], now)
        now += life
        device.ended("connection reset", now)
    return STREAMS * life / now


def main() -> None:
    """Print the figures and a histogram of each kind of outage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconnects", description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for scenario in SCENARIOS:
        steps, back = run(scenario, options.devices, options.seed)
        title = f"{options.devices:,} devices, {scenario.name}"
        print(title, figures(steps, back), "", *histogram(steps), "", sep="\n")
    for life in CUT_AFTER_SECONDS:
        share = share_connected(life, options.seed)
        print(f"a line that cuts every stream after {life} s: connected {share:.1%} of the time")


if __name__ == "__main__":
    main()
