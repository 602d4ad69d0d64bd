"""local:// in the workers of a real gunicorn, on a host without the sweep hook that could make up for a lost notice."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.load import APP as LOAD_APP
from benchmarks.load import Load, Stream
from synckit_notify.brokers import Notice

from ..support.brokers import MakeBroker
from ..support.deployment import gone
from ..support.raw_client import CHANGED, CONNECTED, Listener
from ..support.server import ROOT, Server, children, clean_environment, gunicorn
from ..support.tokens import KEY, make_token
from ..support.wait import wait_until

THOROUGH = pytest.mark.thorough
HOST = "tests.support.minimal_host:create_app()"
PATIENT = ("--timeout", "300")
"""gunicorn must not replace a worker that a test has stopped."""


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still for a block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Workers:
    """The workers of one port, from one master or from two; each can be made to answer."""

    def __init__(self, server: Server, stack: ExitStack, *pids: int) -> None:
        self.pids = list(pids)
        self._server, self._stack = server, stack

    def listen(self, worker: int, user: str = "alice") -> Listener:
        """Open a stream in this worker; the others stand still meanwhile."""
        with self.all_but(worker):
            path = "/api/sync/subscribe?app_id=notes"
            listener = self._stack.enter_context(Listener(self._server.port, path, make_token(user)))
            assert listener.next_frame() == CONNECTED
        return listener

    def push(self, worker: int, user: str = "alice") -> None:
        """Push through this worker; the others stand still meanwhile."""
        with self.all_but(worker), Listener(self._server.port, f"/push/notes/{user}", None, method="POST") as answer:
            assert answer.status == 200

    def all_but(self, worker: int) -> ExitStack:
        """Let the other workers stand still for a block."""
        block = ExitStack()
        block.enter_context(stopped(*(pid for pid in self.pids if pid != worker)))
        return block


def hear_each_other(workers: Workers, listeners: list[Listener]) -> None:
    for worker in workers.pids:
        workers.push(worker)
        assert [listener.next_news() for listener in listeners] == [CHANGED] * len(listeners)


def booted(server: Server, count: int) -> list[int]:
    """Return the workers of a master and of a master that it started, once there are so many."""

    def found() -> list[int]:
        here = server.workers()
        return [pid for pid in (*here, *(pid for child in here for pid in children(child))) if not children(pid)]

    wait_until(lambda: server.log.count("Booting worker") >= count and len(found()) == count)
    return found()


def changes(listener: Listener, seconds: float) -> int:
    """Return how many `changed` come within this time."""
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        try:
            count += listener.next_frame(left) == CHANGED
        except TimeoutError:
            break
    return count


@pytest.mark.parametrize("worker_class", ["gevent", pytest.param("gthread", marks=THOROUGH)])
def test_preloaded_workers_hear_each_other(tmp_path: Path, worker_class: str) -> None:
    threads = ("--threads", "8") if worker_class == "gthread" else ()
    with (
        gunicorn(HOST, tmp_path, "--preload", *threads, *PATIENT, worker_class=worker_class, workers=2) as server,
        ExitStack() as stack,
    ):
        workers = Workers(server, stack, *booted(server, 2))
        hear_each_other(workers, [workers.listen(worker) for worker in workers.pids])


@THOROUGH
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
def test_after_usr2_the_workers_of_both_masters_hear_each_other(tmp_path: Path, options: tuple[str, ...]) -> None:
    with gunicorn(HOST, tmp_path, *options, *PATIENT, workers=2) as server, ExitStack() as stack:
        old = booted(server, 2)
        server.process.send_signal(signal.SIGUSR2)
        workers = Workers(server, stack, *booted(server, 4))
        [new_master] = set(server.workers()) - set(old)
        stack.callback(lambda: gone(new_master, 10.0))
        stack.callback(os.kill, new_master, signal.SIGQUIT)
        listeners = {worker: workers.listen(worker) for worker in workers.pids}
        hear_each_other(workers, list(listeners.values()))
        server.process.send_signal(signal.SIGTERM)
        assert all(gone(worker, 30.0) for worker in old)
        for worker in old:
            assert listeners.pop(worker).read_to_end().endswith(b": bye draining\n\n")
            workers.pids.remove(worker)
        hear_each_other(workers, list(listeners.values()))


@THOROUGH
def test_a_worker_that_stood_still_has_one_gap_and_the_others_have_none(tmp_path: Path, broker: MakeBroker) -> None:
    """More channels are pushed meanwhile than an outbox holds. A gap wakes everybody, also who was not pushed to."""
    with gunicorn(HOST, tmp_path, *PATIENT, workers=3) as server, ExitStack() as stack:
        workers = Workers(server, stack, *booted(server, 3))
        onlookers = {worker: workers.listen(worker, "nobody") for worker in workers.pids}
        still, *others = workers.pids
        alice = [workers.listen(worker) for worker in others]
        publisher = broker("local://", str(tmp_path), limit=1_000)
        with stopped(still):
            began = time.monotonic()
            for number in range(4_000):
                publisher.publish(Notice("notes", str(number)))
                if number % 500 == 499:  # so the others fall behind by less than an outbox
                    publisher.publish(Notice("notes", "alice"))
                    assert [listener.next_news() for listener in alice] == [CHANGED] * 2
            time.sleep(max(0.0, began + 8.0 - time.monotonic()))  # longer than a probe may be on its way
        assert publisher.flush(20.0)
        found = {worker: changes(each, 4.0) for worker, each in onlookers.items()}
        assert found == {still: 1, **dict.fromkeys(others, 0)}
        hear_each_other(workers, [workers.listen(worker) for worker in workers.pids])


@THOROUGH
def test_what_a_process_published_before_its_end_reaches_a_worker_that_stood_still(tmp_path: Path) -> None:
    code = """
from tests.support.minimal_host import create_app, notifier
with create_app().app_context():
    for number in range(1000):
        notifier.publish("notes", number)
"""
    env = clean_environment() | {"PYTHONPATH": str(ROOT), "SYNCKIT_BROKER_NAMESPACE": str(tmp_path)}
    with gunicorn(HOST, tmp_path, *PATIENT) as server, ExitStack() as stack:
        [worker] = booted(server, 1)
        workers = Workers(server, stack, worker)
        listeners = [workers.listen(worker, user) for user in ("0", "500", "999")]
        with stopped(worker):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)
            time.sleep(max(0.0, began + 5.0 - time.monotonic()))
        resumed = time.monotonic()
        assert [listener.next_news() for listener in listeners] == [CHANGED] * 3
        assert time.monotonic() - resumed < 5.0


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STREAMS + 1000:
        pytest.skip(f"needs {STREAMS + 1000} file descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


STREAMS, PUSHES = 5_000, 10_000


@THOROUGH
@pytest.mark.usefixtures("many_descriptors")
def test_ten_thousand_pushes_to_three_workers_with_five_thousand_streams_make_no_gap(
    tmp_path: Path, broker: MakeBroker
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
        publisher = broker("local://", str(tmp_path))

        def burst() -> None:
            for number in range(PUSHES):
                publisher.publish(Notice(LOAD_APP, str(number % STREAMS)))

        pushing = threading.Thread(target=burst)
        pushing.start()
        end = time.monotonic() + 60.0
        while len(frames) < STREAMS and time.monotonic() < end:
            load.poll(0.1)
        pushing.join()
        assert len(frames) == STREAMS
        assert publisher.flush(60.0)
        assert [changes(each, 4.0) for each in onlookers] == [0, 0, 0]
