"""`python -m benchmarks.brokers` measures every broker; and what local:// does with ten thousand pushes in a breath."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import brokers
from benchmarks.load import APP, Load, Stream
from synckit_notify.brokers import Notice, connect

from ..support import descriptors
from ..support.local_workers import HOST, PATIENT, Workers, booted, changes
from ..support.postgresql import DEBIAN
from ..support.programs import need
from ..support.server import gunicorn
from ..support.tokens import KEY


def row(received: int, missing: int) -> dict[str, Any]:
    delays = {"count": 2, "p50": 0.001, "p99": 0.002, "max": 0.003}
    counts = {"expected": 2, "received": received, "missing": missing}
    return {"between": "local", **counts, "delays": delays, "memory_kib": 2048}


@pytest.mark.parametrize(
    ("received", "missing", "shown"), [(2, 0, "2 of 2"), (1, 1, "**1 of 2**"), (3, 0, "**3 of 2**")]
)
def test_a_push_that_is_lost_or_doubled_shows(received: int, missing: int, shown: str) -> None:
    measured = row(received, missing)
    assert brokers.is_complete(measured) is (shown == "2 of 2")
    assert brokers.table({}, [measured]).splitlines()[-1] == f"| local | {shown} | 1.00 | 2.00 | 3.00 | 2.0 |"


@pytest.mark.thorough
def test_every_push_reaches_the_other_process_once() -> None:
    need("postgres", *DEBIAN)
    rows = [brokers.measure(name, 20) for name in brokers.BETWEEN]
    assert [row["between"] for row in rows] == list(brokers.BETWEEN)
    assert all(map(brokers.is_complete, rows)), rows
    assert all(row["delays"]["p50"] > 0 for row in rows)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    with descriptors.many_descriptors(STREAMS + 1000):
        yield


STREAMS, PUSHES = 5_000, 10_000


@pytest.mark.thorough
@pytest.mark.usefixtures("many_descriptors")
def test_ten_thousand_pushes_to_three_workers_with_five_thousand_streams_make_no_gap(
    tmp_path: Path,
) -> None:
    frames: Counter[str] = Counter()

    def on_changed(stream: Stream, count: int) -> None:
        frames[stream.user] += count

    options = (*PATIENT, "--worker-connections", str(STREAMS + 100), "--backlog", "2048")
    with gunicorn(HOST, tmp_path, *options, workers=3) as server, ExitStack() as stack:
        workers = Workers(server, stack, *booted(server, 3))
        onlookers = [workers.listen(worker, "nobody") for worker in workers.pids]
        load = stack.enter_context(Load(server.port, KEY))
        load.open(load.requests(map(str, range(STREAMS)), 1), on_changed)
        publisher = stack.enter_context(closing(connect("local://", str(tmp_path))))

        def burst() -> None:
            for number in range(PUSHES):
                publisher.publish(Notice(APP, str(number % STREAMS)))

        pushing = threading.Thread(target=burst)
        pushing.start()
        end = time.monotonic() + 60.0
        while len(frames) < STREAMS and time.monotonic() < end:
            load.poll(0.1)
        pushing.join()
        assert len(frames) == STREAMS
        assert publisher.flush(60.0)
        assert [changes(each, 4.0) for each in onlookers] == [0, 0, 0]
