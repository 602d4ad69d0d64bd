"""A process sends what it published before it ends, also if it ends with os._exit like pools and Celery."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from synckit_notify import Notifier
from synckit_notify.brokers import Broker, Notice, connect

from ..support.brokers import MakeProcess, Process
from ..support.server import ROOT, clean_environment, free_port
from ..support.slow_connection import slow_connection
from ..support.tokens import KEY
from ..support.valkey import Valkey
from ..support.wait import until

CHILDREN = 3
THOROUGH = ("executor", "forkserver", "spawn", "pool", "billiard", "os._exit")


def run(url: str, method: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.short_lived_processes", url, method, str(CHILDREN)]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def users(heard: Process) -> list[str]:
    return sorted(message.user for message in heard.heard.messages if isinstance(message, Notice))


@pytest.mark.parametrize(
    "method",
    ["fork", "flush", *(pytest.param(method, marks=pytest.mark.thorough) for method in THOROUGH)],
)
def test_what_short_lived_children_publish_arrives(method: str, valkey: Valkey, process: MakeProcess) -> None:
    listener = process(valkey.url)
    with slow_connection(valkey.port, 0.3) as url:
        run(url, method)
    expected = [] if method == "os._exit" else [str(number) for number in range(CHILDREN)]
    assert until(lambda: users(listener) == expected), users(listener)
    if method == "os._exit":
        time.sleep(1.0)
        assert users(listener) == [], "then nobody needs flush, and the documentation may say so"


TASKS = f"""
from celery import Celery
from synckit_notify.brokers.pubsub import PubSubBroker
from tests.support.short_lived_processes import job

PubSubBroker.closing_seconds = 20.0
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {{
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"
}}
app.conf.worker_prefetch_multiplier = 1

@app.task
def tell(url, number):
    job(url, number)

def send(url):
    for number in range({CHILDREN}):
        tell.delay(url, number)
"""


@pytest.mark.thorough
def test_what_celerys_children_publish_arrives(valkey: Valkey, process: MakeProcess, tmp_path: Path) -> None:
    """One task a child; billiard gives a child one second after its last task, then it ends by os._exit."""
    listener = process(valkey.url)
    (tmp_path / "tasks.py").write_text(TASKS)
    for folder in "queue", "control":
        (tmp_path / folder).mkdir()
    env = clean_environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONWARNINGS": "ignore"}
    with slow_connection(valkey.port, 2.0) as url:
        send = [sys.executable, "-c", "import sys, tasks; tasks.send(sys.argv[1])", url]
        subprocess.run(send, cwd=tmp_path, env=env, check=True, timeout=60)
        command = [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--pool", "prefork"]
        command += ["--concurrency", "2", "--max-tasks-per-child", "1", "--loglevel", "INFO"]
        command += ["--without-gossip", "--without-mingle"]
        with (tmp_path / "log").open("w") as log:
            worker = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            arrived = until(lambda: len(users(listener)) >= CHILDREN, 60)
        finally:
            worker.terminate()
            worker.wait(30)
    assert arrived, (tmp_path / "log").read_text()
    assert users(listener) == [str(number) for number in range(CHILDREN)]


class TestFlush:
    @pytest.fixture
    def notifier(self, valkey: Valkey) -> Iterator[Notifier]:
        app = Flask("host")
        app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_BROKER_URL=valkey.url)
        with app.app_context():  # a Notifier alone does not keep its application
            yield Notifier(app)

    def test_returns_at_once_where_nothing_waits(self, notifier: Notifier) -> None:
        assert notifier.flush(0.0)

    def test_returns_true_when_the_broker_has_taken_all(self, notifier: Notifier, process: MakeProcess) -> None:
        listener = process(notifier._app_state().settings.broker_url)
        for number in range(300):
            notifier.publish("notes", number)
        assert notifier.flush(20.0)
        assert until(lambda: len(users(listener)) == 300)
        notifier._app_state().node().broker.close()

    def test_returns_false_after_its_time_while_the_broker_hangs(self, notifier: Notifier, valkey: Valkey) -> None:
        valkey.pause()
        notifier.publish("notes", "alice")
        began = time.monotonic()
        assert not notifier.flush(0.2)
        assert 0.2 <= time.monotonic() - began < 1.0
        valkey.resume()
        assert notifier.flush(20.0)
        notifier._app_state().node().broker.close()

    def test_tries_again_at_once_a_broker_that_was_away(self, tmp_path: Path) -> None:
        valkey = Valkey(tmp_path)
        broker = connect(f"redis://127.0.0.1:{valkey.port}")
        broker.publish(Notice("notes", "alice"))
        assert not broker.flush(0.5)
        with valkey:
            assert broker.flush(20.0)
        broker.close()

    def test_of_a_closed_broker_tells_what_it_could_not_send(self) -> None:
        broker: Broker = connect(f"redis://127.0.0.1:{free_port()}")
        broker.publish(Notice("notes", "alice"))
        broker.close()
        assert not broker.flush(20.0)

    def test_is_true_where_there_is_nobody_else_to_tell(self) -> None:
        app = Flask("host")
        app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_BROKER_URL="memory://")
        notifier = Notifier(app)
        notifier.publish("notes", os.getpid())
        assert notifier.flush()
