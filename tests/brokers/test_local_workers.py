"""local:// in the workers of a real gunicorn, on a host without the sweep hook that could make up for a lost notice."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from synckit_notify.brokers import Notice

from ..support.brokers import MakeBroker
from ..support.deployment import gone
from ..support.local_workers import HOST, PATIENT, Workers, booted, changes, hear_each_other, stopped
from ..support.raw_client import CHANGED
from ..support.server import ROOT, clean_environment, gunicorn

THOROUGH = pytest.mark.thorough


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
