"""What stands behind the figures of benchmarks.peers: each delivery is counted, a lost or surplus one shows; a ratio
compares what was measured in one repeat."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import generator, peers, pushpin
from benchmarks.checkouts import PACKAGE, unpacked
from benchmarks.comparison import EVENT_CPU, Rows, tables, verdict
from benchmarks.contenders import CONTENDERS, Contender, earlier, start_floor
from benchmarks.generator import Generator, Programs, subscriptions
from benchmarks.scenarios import Plan, Scenario, verified
from benchmarks.server import ROOT

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
        assert load.ask("open 6") == {"connected": 6, "refused": 0, "ended": 0}
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


def test_streams_that_left_are_not_pushed_to_until_they_return(programs: Programs) -> None:
    with loaded_floor(programs) as load:
        load.ask("leave 2")
        assert load.ask("saturate 1 1 0.1")["expected"] == load.ask("linger 0.1")["frames"] > 0
        assert load.ask("open 2") == {"connected": 6, "refused": 0, "ended": 0}
        counted = load.ask("pace 1 1 1 1")
        assert counted["frames"] == counted["expected"] == 3


def test_a_server_that_ends_a_stream_is_an_error(programs: Programs) -> None:
    with start_floor(programs, KEY, 30) as server, Generator(programs, server, KEY, STREAMS_OF_USER) as load:
        load.ask("open 6")
        server.kill()
        with pytest.raises(RuntimeError, match="a stream ended"):
            load.ask("listen 0.2")


def row(contender: str, repeat: int, cpu_us: float, **other: Any) -> dict[str, Any]:
    counts = {"phase": "one_in_flight", "expected": 1000, "received": 1000}
    return {"contender": contender, "repeat": repeat, "cpu_us": cpu_us, **counts, **other}


def contenders(*names: str) -> list[Contender]:
    """Return this project's contenders, each with its earlier version, and the others with these names."""
    ours = [both for c in CONTENDERS if c.ours for both in (c, earlier(c, Path("/nowhere")))]
    return [c for c in [*ours, *CONTENDERS[2:]] if c.name in names]


def test_a_ratio_pairs_what_was_measured_in_the_same_repeat() -> None:
    rows = Rows([row("parked", 1, 8.0), row("nchan", 1, 10.0), row("parked", 2, 30.0), row("nchan", 2, 40.0)])
    assert rows.ratios("parked", "nchan", EVENT_CPU) == [0.8, 0.75]


@pytest.mark.parametrize(
    ("before", "cell"), [(100.0, "0.65 ≤ 0.65"), (90.0, "**0.72** ≤ 0.65")], ids=["it meets its aim", "it misses it"]
)
def test_an_aim_stands_behind_its_ratio_which_is_bold_if_it_misses_it(before: float, cell: str) -> None:
    rows = Rows([row("generator", 1, 65.0), row("generator, before", 1, before), row("floor", 1, 10.0)])
    assert (f"| generator: CPU per event, one push in flight, µs | 65.0 | {cell} | 6.50 |\n") in tables(
        rows, contenders("generator", "generator, before", "floor")
    )


def test_without_a_contender_of_this_project_the_table_has_the_figures_of_the_others() -> None:
    report = tables(Rows([row("nchan", 1, 9.5)]), CONTENDERS)
    assert "| nchan: CPU per event, one push in flight, µs | 9.5 |\n" in report


def test_every_second_repeat_has_the_reverse_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measure(contender: Contender, programs: Programs, plan: Plan) -> Iterator[dict[str, Any]]:
        yield row(contender.name, 0, 1.0)

    monkeypatch.setattr(peers, "SCENARIOS", [Scenario(measure, lambda plan: 1.0)])
    monkeypatch.setattr(peers, "Programs", lambda folder: None)
    pair: Sequence[Contender] = contenders("generator", "generator, before")
    order = [(row["repeat"], row["contender"]) for row in peers.measure(pair, Plan(3, 3), tmp_path)]
    assert [name for _, name in order] == [
        *("generator", "generator, before"),
        *("generator, before", "generator"),
        *("generator", "generator, before"),
    ]


def test_what_is_no_version_of_the_package_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--only", "generator", "--against", str(tmp_path)]) == 2
    assert "--against must be a commit or the folder of a checkout" in capsys.readouterr().err


def test_an_earlier_version_serves_its_own_package(programs: Programs, tmp_path: Path) -> None:
    tree = unpacked(str(ROOT), tmp_path / "before")
    with (tree / PACKAGE / "__init__.py").open("a") as file:
        file.write("\nprint('the other version', flush=True)\n")
    ours = CONTENDERS[0]
    for contender, seen in ((ours, False), (earlier(ours, tree), True)):
        with contender.start(programs, KEY, 30) as server, Generator(programs, server, KEY, [1]) as load:
            assert load.ask("open 1")["connected"] == 1
            assert ("the other version" in server.log()) == seen


def test_pushpin_uses_the_zurl_that_it_starts_itself() -> None:
    debians = "zurl_out_specs=ipc:///var/run/zurl/zurl-in\nstats_spec=ipc://{rundir}/{ipc_prefix}stats\n"
    assert pushpin.internal_configuration(debians) == (
        "zurl_out_specs=ipc://{rundir}/{ipc_prefix}zurl-in\nstats_spec=ipc://{rundir}/{ipc_prefix}stats\n"
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
