"""What stands behind the figures of benchmarks.peers: each delivery is counted, a lost or surplus one shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import generator
from benchmarks.comparison import EVENT_CPU, Rows, tables, verdict
from benchmarks.contenders import CONTENDERS, start_floor
from benchmarks.generator import Generator, Programs, subscriptions
from benchmarks.scenarios import verified

from ..support.programs import need

pytestmark = pytest.mark.thorough

STREAMS_OF_USER = [3, 3]
KEY = "a key of 32 bytes, or more, that the floor never looks at"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    need("cc")
    return Programs(tmp_path_factory.mktemp("programs"))


@contextmanager
def loaded_floor(programs: Programs) -> Iterator[Generator]:
    with (
        start_floor(programs, KEY, 30) as server,
        Generator(programs, server, KEY, STREAMS_OF_USER, silence=0.3) as load,
    ):
        assert load.ask("open 6") == {"connected": 6, "refused": 0}
        yield load


@pytest.fixture
def one_stream_on_the_wrong_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last stream of user 1 hears the pushes of user 0 instead."""

    def astray(port: int, key: str, channels: list[int]) -> list[tuple[int, bytes]]:
        right = subscriptions(port, key, channels)
        return [*right[:-1], (1, right[0][1])]

    monkeypatch.setattr(generator, "subscriptions", astray)


def test_what_was_pushed_is_counted_where_it_arrives(programs: Programs) -> None:
    with loaded_floor(programs) as load:
        for command in ("saturate 0 1 0.1", "saturate 1 4 0.1", "pace 0 1 100 0.1"):
            counted = load.ask(command)
            assert counted["frames"] == counted["expected"] > 0
        assert load.ask("listen 0.1") == {"frames": 0, "keepalives": 0, "bytes": 0}


@pytest.mark.parametrize(("user", "received_of_3"), [(1, 2), (0, 4)])
@pytest.mark.usefixtures("one_stream_on_the_wrong_channel")
def test_a_lost_or_surplus_delivery_shows(programs: Programs, user: int, received_of_3: int) -> None:
    with loaded_floor(programs) as load:
        counted = load.ask(f"pace {user} {user} 1 1")
        received = load.ask("linger 0.1")["frames"]
    assert (counted["expected"], received) == (3, received_of_3)


def test_a_server_that_ends_a_stream_is_an_error(programs: Programs) -> None:
    with start_floor(programs, KEY, 30) as server, Generator(programs, server, KEY, STREAMS_OF_USER) as load:
        load.ask("open 6")
        server.kill()
        with pytest.raises(RuntimeError, match="a stream ended"):
            load.ask("listen 0.2")


def row(contender: str, repeat: int, cpu_us: float, **other: Any) -> dict[str, Any]:
    counts = {"phase": "one_in_flight", "expected": 1000, "received": 1000}
    return {"contender": contender, "repeat": repeat, "cpu_us": cpu_us, **counts, **other}


def test_a_ratio_pairs_what_was_measured_in_the_same_repeat() -> None:
    rows = Rows([row("parked", 1, 8.0), row("nchan", 1, 10.0), row("parked", 2, 30.0), row("nchan", 2, 40.0)])
    assert rows.ratios("parked", "nchan", EVENT_CPU) == [0.8, 0.75]
    assert "| parked: CPU per event, one push in flight, µs ≤ 0.85 x nchan | 0.78 (0.75 - 0.80) | 2 | met |" in tables(
        rows, CONTENDERS
    )


def test_a_repeat_that_failed_has_no_ratio_and_the_verdict_says_so() -> None:
    failed = {"contender": "nchan", "repeat": 2, "phase": "fan_out", "failed": "a stream ended"}
    rows = [row("parked", 1, 8.0), row("nchan", 1, 10.0), row("parked", 2, 30.0), failed]
    assert Rows(rows).ratios("parked", "nchan", EVENT_CPU) == [0.8]
    assert verdict(rows).startswith("NOT VERIFIED")
    assert "nchan, fan_out, repeat 2: a stream ended" in tables(Rows(rows), CONTENDERS)


@pytest.mark.parametrize("received", [999, 1001])
def test_one_delivery_too_few_or_too_many_is_not_verified(received: int) -> None:
    assert not verified(row("nchan", 1, 10.0, received=received))
