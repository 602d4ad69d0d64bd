"""Many pushes at once over local://, to processes that keep up, that are busy, and that stand still."""

import os
import signal
import time

import pytest

from synckit_notify.brokers import Disconnect, Notice

from ..support.broker_process import BrokerProcess
from ..support.broker_servers import LocalServer
from ..support.brokers import MakeBroker
from ..support.wait import until


@pytest.fixture
def url(local_server: LocalServer) -> str:
    return local_server.url


@pytest.mark.thorough
def test_ten_thousand_pushes_to_three_workers_make_no_gap(url: str, broker: MakeBroker) -> None:
    with BrokerProcess(url) as one, BrokerProcess(url, "synckit", "gevent") as two, BrokerProcess(url) as three:
        workers = (one, two, three)
        for worker in workers:
            assert worker.heard("listening")
        publisher = broker(url)
        for number in range(10_000):
            publisher.publish(Notice("notes", str(number % 5_000)))
        assert publisher.flush(60.0)
        everything = {f"notice {number}" for number in range(5_000)}
        for worker in workers:
            assert until(lambda worker=worker: everything <= set(worker.lines), 60.0)
            assert worker.lines.count("gap") == 0


def test_a_burst_does_not_wait_for_a_busy_worker(url: str, broker: MakeBroker) -> None:
    """A native thread takes the messages while the worker's own code holds the hub."""
    with BrokerProcess(url, "synckit", "gevent") as busy:
        assert busy.heard("listening")
        busy.process.stdin.write("busy 2\n")
        busy.process.stdin.flush()
        time.sleep(0.3)
        publisher = broker(url)
        for number in range(100):
            publisher.publish(Notice("notes", str(number)))
        assert publisher.flush(1.0)
        assert "done" not in busy.lines, "the worker was not busy any more"
        assert busy.heard(*(f"notice {number}" for number in range(100)))


def test_a_burst_against_a_stopped_worker_delays_no_other_and_is_its_own_gap(url: str, broker: MakeBroker) -> None:
    publisher = broker(url, limit=200)
    with BrokerProcess(url) as stopped, BrokerProcess(url) as healthy:
        assert stopped.heard("listening")
        assert healthy.heard("listening")
        os.kill(stopped.process.pid, signal.SIGSTOP)
        for number in range(1000):
            publisher.publish(Notice("notes", str(number)))
            if number % 50 == 0:
                time.sleep(0.01)
        publisher.publish(Disconnect("notes", "mallory"))
        assert healthy.heard("disconnect mallory", "notice 999")
        assert publisher.status().pending <= 201
        os.kill(stopped.process.pid, signal.SIGCONT)
        assert stopped.heard("disconnect mallory")
        assert until(lambda: publisher.status().pending == 0)
        assert (stopped.lines.count("gap"), healthy.lines.count("gap")) == (1, 0)


def test_the_burst_of_a_command_that_ends_while_a_worker_is_stopped_reaches_it_as_a_gap(url: str) -> None:
    with BrokerProcess(url) as worker, BrokerProcess(url) as command:
        assert worker.heard("listening")
        assert command.heard("listening")
        os.kill(worker.process.pid, signal.SIGSTOP)
        command.tell("burst 1000")
        began = time.monotonic()
        assert command.end() == 0
        assert time.monotonic() - began < 5.0
        time.sleep(1.0)
        os.kill(worker.process.pid, signal.SIGCONT)
        assert until(lambda: worker.lines.count("gap") == 1)
