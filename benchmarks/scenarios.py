"""The three scenarios that every contender runs, each on a fresh server. Each yields flat rows of numbers.

    idle        N streams, three devices a user ──▶ `connects`, memory; then 50 pushes/s over them ──▶ `delays`;
                then a quarter of them disconnects and connects again with the same tokens ──▶ `returns`
    fan_out     1,000 streams of one channel ──▶ `one_in_flight`: a push once all streams have the last one
                                                 `four_in_flight`: up to four pushes that not all streams have
    keepalives  3,000 idle streams with a keepalive every second ──▶ `keepalives`: the processor time of each

A row says how many deliveries were expected and how many were received, counted where they arrive, and how busy both
cores were. A server that fails gives a row that says so, and the run continues.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from .contenders import Contender
from .generator import Generator, Programs
from .report import Row
from .server import Server

DEVICES_EACH = 3
CHANNEL_STREAMS = 1_000
PUSHES_PER_SECOND = 50
REST_SECONDS, RESTING_SHARE, MOST_RESTS = 1.0, 0.1, 20
"""Between opening streams and the next measurement; the share of a core below which a server has noticed that its
streams left; and how often that is looked for."""

WARM_UP_STREAMS = 60
WARM_UP = [DEVICES_EACH] * (WARM_UP_STREAMS // DEVICES_EACH)
"""The streams of each user that are open before anything is measured."""

SURPLUS_SECONDS = 0.3
"""How long to wait for deliveries that nobody pushed."""

KEEPALIVE_TOLERANCE = 0.25
"""The share of keepalives that may fall outside the few seconds measured. All other counts must be exact."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    streams: int
    repeats: int
    paced_seconds: float = 7.0
    saturated_seconds: float = 2.0
    keepalive_streams: int = 3_000
    keepalive_seconds: float = 5.0


class Scenario(NamedTuple):
    """One way to load a fresh server."""

    measure: Callable[[Contender, Programs, Plan], Iterator[Row]]
    seconds: Callable[[Plan], float]
    """About how long it takes."""


def idle(contender: Contender, programs: Programs, plan: Plan) -> Iterator[Row]:
    """Yield the rows `connects`, `delays` and `returns`."""
    if contender.floor:
        return
    users, rest = divmod(plan.streams, DEVICES_EACH)
    with server_and_generator(contender, programs, [DEVICES_EACH] * users + [rest]) as (server, generator):
        before = server.private_kib()
        with server.usage(generator.pid) as usage:
            opened = generator.ask(f"open {plan.streams}")
        time.sleep(REST_SECONDS)
        yield {
            "phase": "connects",
            "expected": plan.streams,
            "received": opened["connected"] - WARM_UP_STREAMS - opened["refused"] - opened["ended"],
            "kib_per_stream": (server.private_kib() - before) / plan.streams,
            "connects_per_second": plan.streams / usage.seconds,
            "cpu_us": usage.server_cpu / plan.streams * 1e6,
            **usage.shares(),
        }
        first, last = len(WARM_UP), len(WARM_UP) + users - 1
        with server.usage(generator.pid) as usage:
            counted = generator.ask(f"pace {first} {last} {PUSHES_PER_SECOND} {plan.paced_seconds}")
        delays = {key: value for key, value in counted.items() if key.endswith("_ms")}
        yield {"phase": "delays", **_received(generator, counted), **delays, **usage.shares()}
        returning = plan.streams // 4
        generator.ask("open 0")  # those that the server has ended meanwhile
        generator.ask(f"leave {returning}")
        _wait_until_idle(server)
        with server.usage(generator.pid) as usage:
            opened = generator.ask(f"open {returning}")
        yield {
            "phase": "returns",
            "expected": returning,
            "received": returning - opened["refused"] - opened["ended"],
            "cpu_us": usage.server_cpu / returning * 1e6,
            **usage.shares(),
        }


def fan_out(contender: Contender, programs: Programs, plan: Plan) -> Iterator[Row]:
    """Yield the rows `one_in_flight` and `four_in_flight`, after a short warm-up."""
    with server_and_generator(contender, programs, [CHANNEL_STREAMS]) as (server, generator):
        generator.ask(f"open {CHANNEL_STREAMS}")
        channel = len(WARM_UP)
        generator.ask(f"saturate {channel} 1 {plan.saturated_seconds / 10}")
        for phase, in_flight in (("one_in_flight", 1), ("four_in_flight", 4)):
            with server.usage(generator.pid) as usage:
                counted = generator.ask(f"saturate {channel} {in_flight} {plan.saturated_seconds}")
            frames = max(1, counted["frames"])
            yield {
                "phase": phase,
                **_received(generator, counted),
                "events_per_second": frames / counted["seconds"],
                "cpu_us": usage.server_cpu / frames * 1e6,
                "events_per_read": frames / max(1, counted["reads"]),
                "bytes_per_event": counted["bytes"] / frames,
                **usage.shares(),
            }


def keepalives(contender: Contender, programs: Programs, plan: Plan) -> Iterator[Row]:
    """Yield the row `keepalives`: all processor time of the server, divided by the keepalives."""
    if contender.floor:
        return
    with server_and_generator(contender, programs, [plan.keepalive_streams], keepalive=1) as (server, generator):
        generator.ask(f"open {plan.keepalive_streams}")
        generator.ask("listen 2")
        with server.usage(generator.pid) as usage:
            counted = generator.ask(f"listen {plan.keepalive_seconds}")
        yield {
            "phase": "keepalives",
            "expected": int((plan.keepalive_streams + WARM_UP_STREAMS) * plan.keepalive_seconds * contender.keepalives),
            "received": counted["keepalives"],
            "tolerance": KEEPALIVE_TOLERANCE,
            "cpu_us": usage.server_cpu / max(1, counted["keepalives"]) * 1e6,
            **usage.shares(),
        }


SCENARIOS = (
    Scenario(idle, lambda plan: plan.paced_seconds + plan.streams / 1_600 + 4.5),
    Scenario(fan_out, lambda plan: 2.1 * plan.saturated_seconds + 3.5),
    Scenario(keepalives, lambda plan: plan.keepalive_seconds + plan.keepalive_streams / 2_000 + 4.5),
)


@contextmanager
def server_and_generator(
    contender: Contender, programs: Programs, channels: Sequence[int], keepalive: int = 30
) -> Iterator[tuple[Server, Generator]]:
    """Start a server with a key of its own and open the warm-up streams; end both processes afterwards."""
    key = secrets.token_hex(32)
    with (
        contender.start(programs, key, keepalive) as server,
        Generator(programs, server, key, [*WARM_UP, *channels]) as generator,
    ):
        if contender.drops_streams:
            generator.ask("reconnect")
        generator.ask(f"open {WARM_UP_STREAMS}")
        time.sleep(REST_SECONDS)
        yield server, generator


def _wait_until_idle(server: Server) -> None:
    """Return when the server uses little processor time, at the latest after 20 s."""
    for _ in range(MOST_RESTS):
        with server.usage() as usage:
            time.sleep(REST_SECONDS)
        if usage.server_cpu < RESTING_SHARE * usage.seconds:
            return


def verified(row: Row) -> bool:
    """Return whether exactly what was expected was received."""
    if "failed" in row:
        return False
    return bool(abs(row["received"] - row["expected"]) <= row["expected"] * row.get("tolerance", 0))


def _received(generator: Generator, counted: Row) -> Row:
    in_the_end = generator.ask(f"linger {SURPLUS_SECONDS}")["frames"]
    return {"expected": counted["expected"], "received": in_the_end}
