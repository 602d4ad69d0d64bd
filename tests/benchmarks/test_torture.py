"""The ledger of `benchmarks.torture` finds changes that are lost, repeated or late, and allows for the faults."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.torture.chaos import FAULTS
from benchmarks.torture.ledger import RECONNECTED, STAYED, Episode, Ledger, Row
from benchmarks.torture.network import Network
from benchmarks.torture.tables import Tables

from ..support.broker_servers import ENGINES
from ..support.clock import Clock
from ..support.programs import need

pytestmark = pytest.mark.thorough

NOW = 1_800_000_000.0
PHONE, LAPTOP = "phone", "laptop"


class Run:
    """A torture of one user's two devices that are connected; `at` is in seconds from now on."""

    def __init__(self) -> None:
        self.ledger = Ledger({PHONE: ("alice", 0), LAPTOP: ("alice", 1)})
        for device in (PHONE, LAPTOP):
            self.report(device, "device", at=-100, id=f"id of {device}")
            self.report(device, "state", state="connected")

    def report(self, device: str, what: str, at: float = 0.0, **fields: object) -> None:
        self.ledger.record({"is": what, "device": device, "at": NOW + at, **fields})

    def push(self, device: str, *rows: str, at: float = 0.0, stored: bool = True) -> None:
        self.report(device, "pushing", rows=list(rows))
        self.report(device, "pushed")
        if stored:
            self.store(device, *rows, at=at)

    def store(self, device: str, *rows: str, at: float = 0.0) -> None:
        begin = len(self.ledger.log["alice"]) + 1
        self.ledger.read(Row("alice", seq, row, f"id of {device}", NOW + at) for seq, row in enumerate(rows, begin))

    def pull(self, device: str, *changes: tuple[int, str], at: float = 0.0) -> None:
        self.report(device, "pulled", at, changes=[[seq, row, True] for seq, row in changes])

    def verdict(self) -> list[str]:
        for device in (PHONE, LAPTOP):
            self.report(device, "finished")
        self.ledger.judge(NOW + 1)
        return self.ledger.verdict()

    def staleness(self, *episodes: Episode, pulled: float) -> float:
        """How stale the phone counts as that pulled a change so many seconds after its push."""
        self.ledger.episodes += episodes
        self.push(LAPTOP, "a")
        self.pull(PHONE, (1, "a"), at=pulled)
        self.ledger.judge(NOW + pulled)
        return self.ledger.longest.seconds


def fault(struck: float, repaired: float | None, touches: int = 0) -> Episode:
    return Episode("cut", "network", frozenset({touches}), NOW + struck, None if repaired is None else NOW + repaired)


def test_devices_that_hold_all_changes_in_order_pass() -> None:
    run = Run()
    run.push(LAPTOP, "a", "b")
    run.push(PHONE, "c")
    run.pull(PHONE, (1, "a"), (2, "b"))
    run.pull(LAPTOP, (3, "c"))
    assert run.verdict() == []
    assert run.ledger.complete()


def test_a_lost_change_is_found() -> None:
    run = Run()
    run.push(LAPTOP, "a", "b")
    run.pull(PHONE, (1, "a"))
    assert ["phone lacks" in words for words in run.verdict()] == [True]
    assert not run.ledger.complete()


@pytest.mark.parametrize(
    ("pulls", "found"),
    [
        ([(2, "b")], "phone holds 2, but not"),
        ([(2, "b"), (1, "a")], "after 2"),
        ([(1, "a"), (1, "a"), (2, "b")], "twice"),
        ([(1, "a"), (2, "z")], "phone holds 'z' as 2, which is 'b'"),
    ],
)
def test_a_missing_repeated_reordered_or_altered_change_is_found(pulls: list[tuple[int, str]], found: str) -> None:
    run = Run()
    run.push(LAPTOP, "a", "b")
    for change in pulls:
        run.pull(PHONE, change)
    assert found in " ".join(run.verdict())


def test_a_page_may_come_again_after_its_process_was_killed_but_not_later_ones() -> None:
    run = Run()
    run.push(LAPTOP, "a", "b")
    run.pull(PHONE, (1, "a"))
    run.ledger.record({"is": "ended", "network": 0})
    run.pull(PHONE, (1, "a"), (2, "b"))
    assert run.verdict() == []
    run.pull(PHONE, (2, "b"))
    assert "twice" in " ".join(run.verdict())


def test_a_push_that_was_answered_and_is_not_in_the_log_is_found() -> None:
    run = Run()
    run.push(LAPTOP, "a", stored=False)
    assert "which is not stored" in " ".join(run.verdict())


def test_a_push_whose_process_was_killed_before_the_answer_may_be_in_the_log_or_not() -> None:
    run = Run()
    run.report(LAPTOP, "pushing", rows=["a"])
    run.ledger.record({"is": "ended", "network": 1})
    run.push(LAPTOP, "b")
    run.pull(PHONE, (1, "b"))
    assert run.verdict() == []


def test_a_push_that_was_stored_twice_is_found() -> None:
    run = Run()
    run.push(LAPTOP, "a")
    run.store(LAPTOP, "a")
    run.pull(PHONE, (1, "a"), (2, "a"))
    assert "2 times" in " ".join(run.verdict())


def test_a_pull_of_the_devices_own_change_is_found() -> None:
    run = Run()
    run.push(PHONE, "a")
    run.pull(PHONE, (1, "a"))
    assert "its own" in " ".join(run.verdict())


@pytest.mark.parametrize(
    ("episodes", "pulled", "stale"),
    [
        ([], 7.0, 7.0),
        ([fault(-5, -1)], 7.0, 7.0),
        ([fault(2, 4)], 7.0, 3.0),
        ([fault(2, 4), fault(3, 6)], 7.0, 2.0),
        ([fault(5, 5)], 7.0, 5.0),
        ([fault(2, None)], 7.0, 2.0),
        ([fault(8, 9)], 7.0, 7.0),
        ([fault(2, 4, touches=1)], 7.0, 7.0),
    ],
    ids=["no fault", "before", "meanwhile", "two", "a moment", "not repaired", "later", "another network's"],
)
def test_staleness_is_the_longest_stretch_without_a_fault(episodes: list[Episode], pulled: float, stale: float) -> None:
    assert Run().staleness(*episodes, pulled=pulled) == stale


@pytest.mark.parametrize(
    ("connected", "stale"), [(-60, 6.0), (1, 3.0), (None, 0.0)], ids=["long before", "meanwhile", "not at all"]
)
def test_the_promise_counts_only_while_the_stream_is_connected(connected: float | None, stale: float) -> None:
    run = Run()
    run.report(PHONE, "state", at=-70, state="waiting")
    if connected is not None:
        run.report(PHONE, "state", at=connected, state="connected")
    run.staleness(pulled=6.0)
    assert run.ledger.longest_connected.seconds == stale


@pytest.mark.parametrize(
    ("connected", "answered", "pulled", "wrong"),
    [
        (-60, None, 4.9, []),
        (-60, None, 5.1, ["while connected"]),
        (None, 1, 10.9, []),
        (None, 1, 11.1, ["after an answered request"]),
        (None, -1, 11.1, []),
        (None, None, 59.9, []),
        (None, None, 60.1, ["without a fault"]),
        (-60, 1, 60.1, ["without a fault", "after an answered request", "while connected"]),
    ],
)
def test_all_bounds_are_in_the_verdict(
    connected: float | None, answered: float | None, pulled: float, wrong: list[str]
) -> None:
    run = Run()
    run.report(PHONE, "state", at=-70, state="waiting")
    if connected is not None:
        run.report(PHONE, "state", at=connected, state="connected")
    if answered is not None:
        run.report(PHONE, "pushed", at=answered)
    run.staleness(pulled=pulled)
    found = " ".join(run.verdict())
    assert [
        words for words in ("without a fault", "after an answered request", "while connected") if words in found
    ] == wrong


@pytest.mark.parametrize(("answered", "stale"), [(1, 2.0), (5, 2.0), (9, 0.0)])
def test_an_answer_counts_only_in_its_own_stretch_without_a_fault(answered: float, stale: float) -> None:
    run = Run()
    run.report(PHONE, "pushed", at=answered)
    run.staleness(fault(3, 4), fault(7, 8), pulled=8.5)
    assert run.ledger.longest_answered.seconds == stale


def test_the_last_fault_before_a_stretch_is_named_and_a_standing_one_never() -> None:
    run = Run()
    line = Episode("line", "network", frozenset(), NOW - 3, permanent=True)
    assert run.staleness(fault(-5, -4), line, pulled=2.0) == 2.0
    assert run.ledger.longest.after == "cut"


def gap(struck: float, repaired: float) -> Episode:
    return Episode("broker killed", "broker", frozenset(), NOW + struck, NOW + repaired, part="broker")


@pytest.mark.parametrize(
    ("episodes", "pulled", "measured"),
    [
        ([gap(-1, 2)], 5.0, [3.0]),
        ([gap(-5, -1)], 5.0, [5.0]),
        ([gap(-30, -20)], 5.0, []),
        ([gap(-1, 6)], 5.0, []),
        ([gap(-1, 2), gap(3, 4)], 5.0, [3.0, 1.0]),
        ([gap(-1, 2), fault(4, 6)], 9.0, [2.0]),
        ([fault(-1, 3), gap(-1, 2)], 5.0, []),
    ],
    ids=[
        "it waited",
        "pushed soon after",
        "pushed long after",
        "pulled during it",
        "two gaps",
        "then a fault",
        "within a fault",
    ],
)
def test_from_the_end_of_a_brokers_gap_to_the_pull_is_measured(
    episodes: list[Episode], pulled: float, measured: list[float]
) -> None:
    run = Run()
    run.staleness(*episodes, pulled=pulled)
    assert [each.seconds for each in run.ledger.after_gap[STAYED]] == measured
    assert run.ledger.after_gap[RECONNECTED] == []


def test_a_device_that_reconnects_after_a_brokers_gap_is_measured_from_its_first_answer() -> None:
    run = Run()
    run.report(PHONE, "state", at=3, state="connected")
    run.report(PHONE, "pushed", at=4)
    run.staleness(gap(-1, 2), pulled=15.0)
    assert [each.seconds for each in run.ledger.after_gap[RECONNECTED]] == [11.0]
    assert any("after a gap of the broker, with a reconnect" in words for words in run.verdict())


def test_a_change_that_nobody_has_pulled_yet_makes_its_device_stale() -> None:
    run = Run()
    run.push(LAPTOP, "a")
    assert run.ledger.judge(NOW + 12).seconds == 12
    assert run.ledger.longest.device == PHONE


def test_a_line_that_cuts_by_age_cuts_old_and_new_connections_until_it_is_told_to_stop() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        network = Network([server.getsockname()[1]])
        stack.callback(network.close)

        def connect() -> socket.socket:
            device = stack.enter_context(socket.create_connection(("127.0.0.1", network.port), 60))
            stack.enter_context(server.accept()[0])
            return device

        def is_cut(device: socket.socket, seconds: float) -> bool:
            device.settimeout(seconds)
            try:
                return device.recv(1) == b""
            except ConnectionResetError:
                return True
            except TimeoutError:
                return False

        old = connect()
        network.limit_age(0.1, 0.3)
        new = connect()
        assert is_cut(old, 10.0)
        assert is_cut(new, 10.0)
        network.forget_age()
        assert not is_cut(connect(), 0.6)
        assert network.expired == 2


ASK = """
import sys, time
from datetime import datetime
for line in sys.stdin:
    began = time.monotonic()
    time.sleep(0.1)
    slept = time.monotonic() - began
    print(time.time(), datetime.now().timestamp(), slept, flush=True)
"""


def test_the_clock_of_a_process_can_be_set_while_it_runs_and_sleeps_stay_right(tmp_path: Path) -> None:
    need("cc")
    clock = Clock(tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ASK], env=os.environ | clock.environment, **pipes) as process:
        for offset in (0, 3600, -3600, 0):
            clock.step(offset)
            process.stdin.write("now\n")
            process.stdin.flush()
            *told, slept = map(float, process.stdout.readline().split())
            assert [round(at - time.time() - offset) for at in told] == pytest.approx([0, 0], abs=5)
            assert 0.1 <= slept < 5.0
        process.stdin.close()


def test_every_fault_has_its_own_name_and_needs_at_most_one_kind_of_database() -> None:
    assert all({"broker killed, started again"} <= {f.kind for f in FAULTS if name in f.brokers} for name in ENGINES)
    assert len({fault.kind for fault in FAULTS}) == len(FAULTS)
    assert {fault.needs for fault in FAULTS} == {"", "postgresql"}


@pytest.mark.parametrize(
    ("laptop", "phone", "committed", "wrong"),
    [
        ({"1": "milk"}, {"1": "milk"}, {"1"}, []),
        ({"1": "milk"}, {"1": "bread"}, {"1"}, ["phone and laptop differ in 1 rows, such as '1'"]),
        (
            {"1": "milk"},
            {"1": "milk"},
            {"1", "2"},
            [f"{n} lacks 1 rows that were committed, such as '2'" for n in (LAPTOP, PHONE)],
        ),
    ],
    ids=["equal", "a row differs", "a row is lost"],
)
def test_tables_of_stores_must_be_equal_and_have_all_that_was_committed(
    tmp_path: Path, laptop: dict[str, str], phone: dict[str, str], committed: set[str], wrong: list[str]
) -> None:
    files = {LAPTOP: laptop, PHONE: phone}
    for name, rows in files.items():
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as app, app:
            app.execute("CREATE TABLE notes (id, text)")
            app.executemany("INSERT INTO notes VALUES (?, ?)", rows.items())
    tables = Tables({name: tmp_path / name for name in files})
    for row in committed:
        tables.record({"is": "edited", "device": LAPTOP, "row": row})
    assert not tables.complete()  # the apps may still edit
    for name in files:
        tables.record({"is": "finished", "device": name})
    assert tables.verdict() == wrong
    assert tables.complete() is not bool(wrong)


def test_an_app_that_does_not_finish_is_wrong() -> None:
    assert Tables({PHONE: Path("phone.db")}).verdict() == ["the app of phone has not finished"]
