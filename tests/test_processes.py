"""Several processes and machines: the broker is fast, and a sweep or a recovery finds what it loses.

Two gunicorns stand for two machines, A and B; the device listens on B and the push lands on A. One pair of tests really
has two machines, with a cable between them that is pulled.
"""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .support.netns import OtherMachine
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import ROOT, Server, clean_environment, gunicorn
from .support.tokens import make_token
from .support.valkey import Valkey
from .support.wait import wait_until

PUSHED_WITHIN = 2.5
"""Seconds; five times what a push may take, and half of what it takes to wait for a broker that hangs."""

ACROSS_WITHIN = 5.0  # five times what a notice or a log-out may take between machines
HEARD_WITHIN = 5.0  # what docs/protocol.md promises, with the broker gone and the sweep at work
PLAIN, FOREIGN = "tests.support.minimal_host:create_app()", "tests.support.full_host:create_app()"
PREFIX = {PLAIN: "/api/sync", FOREIGN: "/v1/sync"}


@dataclass
class Pair:
    """Two servers of one application, sharing a database and perhaps a broker."""

    app: str
    a: Server
    b: Server

    def listen(self, device: str = "phone", server: Server | None = None) -> Listener:
        path = f"{PREFIX[self.app]}/subscribe?app_id=notes"
        listener = Listener((server or self.b).port, path, make_token(device=device))
        assert listener.next_frame() == CONNECTED
        return listener

    def push(self, device: str = "laptop") -> float:
        """Push on A and return how long the request took."""
        route = "push" if self.app == PLAIN else "notes"
        began = time.monotonic()
        post(f"{self.a.url}/{route}/notes/alice?device={device}")
        return time.monotonic() - began

    def ready(self, server: Server) -> dict:
        with urllib.request.urlopen(f"{server.url}{PREFIX[self.app]}/ready", timeout=60) as answer:
            return json.load(answer)

    def wait_until_joined(self) -> None:
        """Wait until B is subscribed to the broker, and its first gap is mended."""
        wait_until(lambda: self.ready(self.b)["connected"])


def post(url: str, **headers: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="POST", headers=headers), timeout=60).close()


def read_all(listener: Listener, seconds: float = 0.3) -> int:
    """Read what comes for a while; return how often `changed` was in it."""
    before = listener.body.count(CHANGED)
    with contextlib.suppress(TimeoutError):
        while True:
            listener.next_frame(seconds)
    return listener.body.count(CHANGED) - before


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as valkey:
        yield valkey


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    with contextlib.ExitStack() as stack:

        def start_pair(app: str, url: str, **settings: str) -> Pair:
            env = {
                "SYNCKIT_BROKER_URL": url,
                "FOREIGN_DATABASE": str(tmp_path / "foreign.db"),
                "SYNCKIT_SWEEP_SECONDS": "3",
            } | settings
            a, b = (stack.enter_context(gunicorn(app, tmp_path / name, env=env)) for name in "ab")
            return Pair(app, a, b)

        yield start_pair


def test_a_push_on_one_machine_reaches_the_other_but_not_its_own_device(start, broker: Valkey) -> None:
    pair = start(PLAIN, broker.url)
    with pair.listen("phone") as phone, pair.listen("laptop") as laptop:
        pair.wait_until_joined()
        read_all(phone), read_all(laptop)
        began = time.monotonic()
        pair.push("laptop")
        assert phone.next_news(ACROSS_WITHIN) == CHANGED
        assert time.monotonic() - began < ACROSS_WITHIN
        assert read_all(laptop) == 0
        assert pair.ready(pair.b) == pair.ready(pair.b) | {"broker": "redis", "echo": True, "invalid": 0}


def test_a_log_out_on_one_machine_ends_the_streams_on_the_other_within_a_second(start, broker: Valkey) -> None:
    pair = start(PLAIN, broker.url)
    with pair.listen("phone") as phone, pair.listen("tablet") as tablet:
        pair.wait_until_joined()
        began = time.monotonic()
        post(f"{pair.a.url}/disconnect/notes/alice?device=phone")
        assert phone.read_to_end(ACROSS_WITHIN).endswith(b": bye revoked\n\n")
        assert time.monotonic() - began < ACROSS_WITHIN
        assert read_all(tablet, 0.2) < 2
        assert not tablet.ended_cleanly


@pytest.mark.parametrize("fault", ["dead", pytest.param("hung", marks=pytest.mark.thorough)])
def test_without_the_broker_a_push_does_not_wait_and_the_sweep_finds_it(start, broker: Valkey, fault: str) -> None:
    pair = start(FOREIGN, broker.url)
    with pair.listen() as phone:
        pair.wait_until_joined()
        read_all(phone)
        broker.kill() if fault == "dead" else broker.pause()
        for _ in range(2):
            pushed_at = time.monotonic()
            assert pair.push() < PUSHED_WITHIN
            assert phone.next_news(HEARD_WITHIN) == CHANGED
            assert time.monotonic() - pushed_at < HEARD_WITHIN
            read_all(phone, 0.1)
        assert pair.ready(pair.b)["ready"], "an outage of the broker takes no push and no pull out of service"


@pytest.mark.thorough
def test_a_broker_that_is_down_from_the_start_delays_a_notice_by_one_sweep(start, tmp_path: Path) -> None:
    pair = start(FOREIGN, "redis://127.0.0.1:9")
    with pair.listen() as phone:
        assert pair.push() < PUSHED_WITHIN
        assert phone.next_news(HEARD_WITHIN) == CHANGED
        assert not pair.ready(pair.b)["connected"]


@pytest.mark.thorough
def test_a_host_without_a_sweep_gets_notices_after_the_broker_is_back(start, broker: Valkey) -> None:
    pair = start(PLAIN, broker.url)
    with pair.listen() as phone:
        pair.wait_until_joined()
        read_all(phone)
        broker.kill()
        pair.push()
        broker.start()
        assert phone.next_news(15.0) == CHANGED


@pytest.mark.thorough
def test_a_log_out_that_was_not_published_ends_streams_after_the_next_gap(
    start, broker: Valkey, tmp_path: Path
) -> None:
    pair = start(FOREIGN, broker.url)
    with pair.listen() as phone:
        pair.wait_until_joined()
        read_all(phone, 0.5)  # the gap at the join is asked about
        with contextlib.closing(sqlite3.connect(tmp_path / "foreign.db")) as database, database:
            database.execute("INSERT INTO users VALUES ('alice', '2099-01-01T00:00:00')")
        assert not phone.ended_cleanly
        broker.client().execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
        assert phone.read_to_end(10.0).endswith(b": bye revoked\n\n")


@pytest.mark.thorough
def test_a_notice_of_a_script_that_exits_at_once_arrives(start, broker: Valkey) -> None:
    pair = start(PLAIN, broker.url)
    with pair.listen() as phone:
        pair.wait_until_joined()
        read_all(phone)
        host = "from tests.support.minimal_host import create_app, notifier"
        code = f"{host}; app = create_app(); notifier.publish('notes', 'alice')"
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            cwd=ROOT,
            env=clean_environment() | {"SYNCKIT_BROKER_URL": broker.url},
        )
        assert phone.next_news(1.0) == CHANGED


@pytest.mark.thorough
def test_a_replaced_worker_subscribes_to_the_broker_again(start, broker: Valkey) -> None:
    pair = start(PLAIN, broker.url)
    with pair.listen() as phone:
        pair.wait_until_joined()
        [worker] = pair.b.workers()
        subprocess.run(["kill", "-9", str(worker)], check=True)
        with pytest.raises((ConnectionError, EOFError)):
            phone.read_to_end(5.0)
    wait_until(lambda: pair.b.workers() not in ([], [worker]))
    with pair.listen() as phone:
        pair.wait_until_joined()
        read_all(phone)
        pair.push()
        assert phone.next_news(1.0) == CHANGED


@pytest.mark.thorough
def test_several_workers_of_one_master_notify_each_other(tmp_path: Path, broker: Valkey) -> None:
    env = {"SYNCKIT_BROKER_URL": broker.url}
    with gunicorn(PLAIN, tmp_path / "server", workers=2, env=env) as server:
        pair = Pair(PLAIN, server, server)
        with contextlib.ExitStack() as stack:
            listeners = []

            def both_workers_have_some() -> bool:
                """A worker listens to the broker from its first stream on, and a late one gets none at first."""
                listeners.append(stack.enter_context(pair.listen(f"device {len(listeners)}")))
                return len(listeners) >= 12 and all(pair.ready(server)["connected"] for _ in range(10))

            wait_until(both_workers_have_some)
            for listener in listeners:
                read_all(listener, 0.05)
            pair.push()
            assert [listener.next_news(2.0) for listener in listeners] == [CHANGED] * len(listeners)
        assert "SYNCKIT_BROKER_URL" not in server.log


@pytest.mark.thorough
def test_several_workers_without_a_broker_log_what_to_set(tmp_path: Path) -> None:
    with gunicorn(PLAIN, tmp_path, workers=2, env={"SYNCKIT_BROKER_URL": "memory://"}) as server:
        wait_until(lambda: "leave SYNCKIT_BROKER_URL unset" in server.log)


@pytest.mark.thorough
def test_two_machines_that_are_disconnected_for_a_while_lose_nothing(tmp_path: Path) -> None:
    """The database is one file here, as the notices' way is what is tested."""
    with OtherMachine() as far, contextlib.ExitStack() as stack:
        broker = stack.enter_context(
            Valkey(tmp_path, "--bind", "127.0.0.1", far.here_address, "--protected-mode", "no")
        )
        env = {
            "SYNCKIT_BROKER_URL": f"redis://{far.here_address}:{broker.port}",
            "FOREIGN_DATABASE": str(tmp_path / "foreign.db"),
            "SYNCKIT_SWEEP_SECONDS": "3",
        }
        a = stack.enter_context(gunicorn(FOREIGN, tmp_path / "a", env=env))
        b = stack.enter_context(far.call(lambda: gunicorn(FOREIGN, tmp_path / "b", env=env)))
        pair = Pair(FOREIGN, a, b)
        phone = stack.enter_context(far.call(pair.listen))
        wait_until(lambda: far.call(lambda: pair.ready(b)["connected"]))
        read_all(phone)
        pair.push()
        assert phone.next_news(1.0) == CHANGED
        far.unplug()
        pair.push()
        assert phone.next_news(HEARD_WITHIN) == CHANGED, "the sweep tells"
        wait_until(lambda: not far.call(lambda: pair.ready(b)["connected"]), 12.0)
        far.plug()
        wait_until(lambda: far.call(lambda: pair.ready(b)["gaps"] > 1), 12.0)
        read_all(phone)
        pair.push()
        assert phone.next_news(1.0) == CHANGED, "the broker tells again"
