"""A thread that cannot be started now is started later; the limit is a real one of the operating system."""

import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from synckit_notify.brokers import Gap, Notice, connect
from synckit_notify.brokers.memory import MemoryBroker
from synckit_notify.client.browser_login import Callback
from synckit_notify.client.connection import HttpClient
from synckit_notify.client.errors import NetworkError
from synckit_notify.errors import TooManyStreams
from synckit_notify.node import Node
from synckit_notify.streams.channel import ChannelKey, EndReason
from synckit_notify.streams.recovery import GapRecovery
from synckit_notify.streams.registry import Registry

from .support import minimal_host
from .support.brokers import QUICK, Heard
from .support.tokens import make_token
from .support.valkey import Valkey
from .support.wait import until

ALICE = ChannelKey("notes", "alice")
STACK_BYTES = 512 * 2**20


@contextmanager
def no_new_threads() -> Iterator[None]:
    """Let each start of a thread fail: its stack is larger than the memory that the process may still map."""
    present = int(re.findall(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
    limits, stack = resource.getrlimit(resource.RLIMIT_AS), threading.stack_size(STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (present + STACK_BYTES // 2, limits[1]))
    try:
        with pytest.raises(RuntimeError, match="new thread"):
            threading.Thread(target=int).start()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        threading.stack_size(stack)


def test_a_gap_is_recovered_when_threads_are_available_again(caplog: pytest.LogCaptureFixture) -> None:
    revoked: list[object] = []
    worker = Node(Registry(), MemoryBroker(), revoked=lambda subscriber: revoked.append(subscriber) or True)
    subscriber = worker.open(ALICE, "phone")
    with no_new_threads():
        for _ in range(3):
            worker.receive(Gap())
        worker.join_idle()
        assert (subscriber.pending, revoked) == ((), [])
    assert until(lambda: subscriber.end is EndReason.REVOKED)
    assert subscriber.pending
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    worker.registry.release(subscriber)
    worker.join_idle()


def test_a_recovery_without_a_thread_waits_for_the_next_gap() -> None:
    registry = Registry()
    repair = GapRecovery(registry, None)
    subscriber = registry.subscribe(ALICE)
    with no_new_threads():
        repair.gap()
    repair.join_idle()
    repair.gap()
    assert until(lambda: subscriber.pending)
    repair.join_idle()


def test_a_stream_whose_threads_cannot_be_started_is_refused_and_the_next_one_is_not() -> None:
    app = minimal_host.create_app()
    path, headers = "/api/sync/subscribe?app_id=notes", {"Authorization": f"Bearer {make_token()}"}
    worker = app.extensions["synckit_notify"].node()
    with no_new_threads():
        answer = app.test_client().get(path, headers=headers)
    assert (answer.status_code, list(answer.json)) == (503, ["error"])
    assert "Retry-After" in answer.headers
    assert len(worker.registry) == 0
    again = app.test_client().get(path, headers=headers, buffered=False)
    assert again.status_code == 200
    again.close()
    worker.join_idle()


def test_a_broker_without_threads_listens_and_sends_later(valkey: Valkey) -> None:
    broker, other = (connect(valkey.url, timing=QUICK) for _ in range(2))
    heard = Heard()
    other.start(heard)
    assert until(lambda: other.status().connected, 20.0)
    worker = Node(Registry(), broker)
    with no_new_threads():
        with pytest.raises(TooManyStreams):
            worker.open(ALICE, "phone")
        broker.publish(Notice("notes", "alice"))
    subscriber = worker.open(ALICE, "phone")  # its listener's probe makes the sender try again
    assert until(lambda: heard.messages == [Notice("notes", "alice")], 20.0)
    other.publish(Notice("notes", "alice"))
    assert until(lambda: subscriber.pending, 20.0)
    worker.registry.release(subscriber)
    worker.join_idle()
    for each in (broker, other):
        each.close()


def test_a_broker_that_never_had_a_thread_can_be_closed(valkey: Valkey) -> None:
    broker = connect(valkey.url)
    with no_new_threads(), pytest.raises(RuntimeError):
        broker.start(Heard())
    broker.close()


def test_the_sdk_raises_a_network_error_and_its_stream_retries() -> None:
    body = httpx2.ByteStream(b": connected\n\n")
    closed: list[bool] = []
    body.close = lambda: closed.append(True)  # type: ignore[method-assign]
    answers = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=body))
    line = HttpClient("http://sync.example.org", httpx2.Client(transport=answers))
    with no_new_threads(), pytest.raises(NetworkError, match="cannot start a thread"):
        line.subscribe({"app_id": "notes"}, "token", ())
    assert closed
    connection = line.subscribe({"app_id": "notes"}, "token", ())
    assert connection.read(5.0) == b": connected\n\n"
    line.close()


def test_a_log_in_without_a_thread_leaves_no_port_open() -> None:
    callback = Callback("state")
    with no_new_threads(), pytest.raises(NetworkError, match="cannot start a thread"), callback:
        raise AssertionError("not reached")
    assert callback._server.fileno() == -1
