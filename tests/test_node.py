"""The parts of a node are made once per process, on first use; its threads run only while streams are open."""

import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from synckit_notify import sse
from synckit_notify.brokers import Disconnect, Message, Notice
from synckit_notify.brokers.memory import MemoryBroker
from synckit_notify.errors import TooManyStreams
from synckit_notify.node import Node
from synckit_notify.runtime.background import Periodic
from synckit_notify.runtime.per_process import PerProcess
from synckit_notify.streams.channel import ChannelKey, EndReason
from synckit_notify.streams.recovery import Sweep
from synckit_notify.streams.registry import Registry
from synckit_notify.streams.stream import Deadline
from synckit_notify.testing import CONNECTED, KEEPALIVE, open_stream

from .support import minimal_host
from .support.tokens import make_token
from .support.wait import until

ALICE = ChannelKey("notes", "alice")


_earlier: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _forget_earlier_threads() -> None:
    """Threads of other tests may still end."""
    _earlier.clear()
    _earlier.update(threading.enumerate())


def running(name: str) -> list[threading.Thread]:
    """Return the threads of this name that this test has started."""
    return [thread for thread in threading.enumerate() if thread.name == name and thread not in _earlier]


class BrokerThatRemembers(MemoryBroker):
    def __init__(self) -> None:
        self.starts = 0
        self.sent: list[Message] = []

    def start(self, receive) -> None:
        self.starts += 1

    def publish(self, message: Message) -> None:
        self.sent.append(message)


class GunicornWorker:
    """As gunicorn's: its bound method handles SIGTERM."""

    cfg = None

    def __init__(self) -> None:
        self.alive = True

    def handle_exit(self, *_: object) -> None:
        self.alive = False


@pytest.fixture
def make_worker():
    """Makes Workers whose streams are gone, and their threads with them, when the test ends."""
    made: list[Node] = []

    def make(broker=None, **options) -> Node:
        made.append(Node(Registry(), broker or MemoryBroker(), **options))
        return made[-1]

    yield make
    for node in made:
        release_all(node)


def release_all(node: Node) -> None:
    for _, subscribers in node.registry.snapshot():
        for subscriber in subscribers:
            node.registry.release(subscriber)
    node.join_idle()


@pytest.fixture
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield lambda handler: signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGTERM, before)


def test_a_value_is_made_once_by_forty_threads_at_once() -> None:
    values = PerProcess(object)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(values.get())) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_a_forked_child_makes_its_own() -> None:
    values = PerProcess(os.getpid)
    assert values.get() == os.getpid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"own" if values.get() == os.getpid() else b"inherited")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"own"


def test_a_value_that_was_forgotten_is_made_again() -> None:
    values = PerProcess(object)
    assert values.forget() is None
    first = values.get()
    assert values.forget() is first
    assert values.made() is None
    assert values.get() is not first


def test_the_broker_starts_with_the_first_stream_and_once(make_worker) -> None:
    broker = BrokerThatRemembers()
    node = make_worker(broker)
    assert broker.starts == 0
    node.publish(Notice("notes", "alice"))
    assert broker.starts == 0, "a process that only publishes has nobody to listen for"
    node.open(ALICE, None)
    node.open(ALICE, None)
    assert broker.starts == 1


def test_a_notice_is_delivered_here_and_passed_to_the_broker(make_worker) -> None:
    broker = BrokerThatRemembers()
    node = make_worker(broker)
    laptop, phone = node.open(ALICE, "laptop"), node.open(ALICE, "phone")
    messages: list[Message] = [Notice("notes", "alice", "laptop", 5.0, 4.0), Disconnect("notes", "alice", "phone")]
    for message in messages:
        node.publish(message)
    assert (len(laptop.pending), len(phone.pending)) == (0, 1)
    assert (laptop.end, phone.end) == (None, EndReason.REVOKED)
    assert broker.sent == messages


def test_a_message_of_another_process_is_delivered_and_not_passed_on(make_worker) -> None:
    broker = BrokerThatRemembers()
    node = make_worker(broker)
    subscriber = node.open(ALICE, None)
    node.receive(Notice("notes", "alice"))
    assert len(subscriber.pending) == 1
    assert broker.sent == []


def test_every_stream_ends_when_gunicorn_stops_the_worker(make_worker, sigterm) -> None:
    gunicorn = GunicornWorker()
    sigterm(gunicorn.handle_exit)
    node = make_worker()
    streams = [node.open(ALICE, None) for _ in range(3)]
    assert not node.draining
    gunicorn.handle_exit()
    assert until(lambda: all(stream.end is EndReason.DRAINING for stream in streams))
    late = node.open(ALICE, None)
    assert late.end is EndReason.DRAINING
    release_all(node)
    assert not running("synckit-pulse")


class TestPeriodic:
    def test_a_thread_runs_while_it_is_needed_and_starts_again(self) -> None:
        needed = threading.Event()
        runs = []
        periodic = Periodic("test", 0.01, lambda: runs.append(1), needed.is_set)
        for round_number in (1, 2):
            needed.set()
            periodic.ensure()
            assert until(lambda expected=round_number * 3: len(runs) >= expected)
            needed.clear()
            periodic.join_idle()
            assert not running("test")

    def test_one_thread_serves_many_calls(self) -> None:
        needed = threading.Event()
        needed.set()
        periodic = Periodic("test", 0.01, lambda: None, needed.is_set)
        for _ in range(100):
            periodic.ensure()
        assert len(running("test")) == 1
        needed.clear()
        periodic.join_idle()

    def test_a_failure_is_logged_and_it_goes_on(self, caplog: pytest.LogCaptureFixture) -> None:
        needed = threading.Event()
        needed.set()
        runs = []

        def fail_at_first() -> None:
            runs.append(1)
            if len(runs) == 1:
                raise RuntimeError("the database is away")

        periodic = Periodic("test", 0.01, fail_at_first, needed.is_set)
        periodic.ensure()
        assert until(lambda: len(runs) > 2)
        needed.clear()
        periodic.join_idle()
        assert "the database is away" in caplog.text


def test_if_no_thread_can_be_started_no_subscriber_is_left(make_worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sweeps: list[datetime] = []
    node = make_worker(changed_channels=lambda s: sweeps.append(s) or [], sweep_seconds=0.01)
    with monkeypatch.context() as patch, pytest.raises(TooManyStreams, match="another thread"):
        patch.setattr(threading.Thread, "start", fail)
        node.open(ALICE, None)
    assert len(node.registry) == 0
    subscriber = node.open(ALICE, None)
    assert until(lambda: len(sweeps) > 0)
    node.registry.release(subscriber)
    node.join_idle()


def test_where_threads_are_not_greenlets_a_stream_sleeps_with_a_timeout_and_no_timer_starts(make_worker) -> None:
    node = make_worker()
    ends = Deadline(time.monotonic() + 0.6, EndReason.MAX_AGE)
    stream, frames = node.begin(node.open(ALICE, None), None, keepalive=0.2, ends=ends, may_park=False)
    heard = list(frames)
    assert heard[:2] == [sse.CONNECTED, sse.KEEPALIVE]
    assert heard[-1] == b": bye max_age\n\n"
    assert running("synckit-pulse")
    assert not running("synckit-timer")
    assert until(lambda: node._report_due > ends.at), "the pulse starts none either"
    assert not running("synckit-timer")
    node.close(stream)


def test_the_flask_test_client_starts_no_timer() -> None:
    app = minimal_host.create_app(SYNCKIT_KEEPALIVE_SECONDS=0.1)
    with open_stream(app.test_client(), "notes", make_token()) as stream:
        assert [stream.next_frame() for _ in range(3)] == [CONNECTED, KEEPALIVE, KEEPALIVE]
        assert running("synckit-pulse")
        assert not running("synckit-timer")


class TestSweep:
    def test_the_sweep_asks_from_a_little_before_the_last_time(self) -> None:
        asked: list[datetime] = []

        def changed_channels(since: datetime) -> list:
            asked.append(since)
            return []

        sweep = Sweep(Registry(), changed_channels)
        began = datetime.now(UTC)
        sweep.begin()
        sweep.run()
        sweep.run()
        assert abs(asked[0] - began + timedelta(seconds=5)) < timedelta(seconds=1)
        assert timedelta() <= asked[1] - asked[0] < timedelta(seconds=1)

    def test_the_sweep_wakes_the_channels_that_the_hook_names(self) -> None:
        registry = Registry()
        alice, bob = registry.subscribe(ALICE), registry.subscribe(ChannelKey("notes", "bob"))
        Sweep(registry, lambda since: [(ALICE, None), (ChannelKey("notes", "nobody"), None)]).run()
        assert (len(alice.pending), len(bob.pending)) == (1, 0)

    def test_after_a_failure_the_sweep_asks_from_the_same_time(self) -> None:
        asked: list[datetime] = []

        def fail_once(since: datetime) -> list:
            asked.append(since)
            if len(asked) == 1:
                raise RuntimeError("the database is away")
            return []

        clock, steady_clock = iter((1001.0, 1004.0, 1007.0)), iter((1.0, 4.0, 7.0))
        sweep = Sweep(Registry(), fail_once, clock=clock.__next__, steady_clock=steady_clock.__next__)
        with pytest.raises(RuntimeError):
            sweep.run()
        sweep.run()
        assert asked[0] == asked[1]

    def test_the_sweep_runs_only_while_streams_are_open(self, make_worker) -> None:
        sweeps = []
        node = make_worker(changed_channels=lambda s: sweeps.append(s) or [], sweep_seconds=0.01)
        assert not running("synckit-sweep")
        subscriber = node.open(ALICE, None)
        assert running("synckit-sweep")
        assert until(lambda: len(sweeps) > 2)
        node.registry.release(subscriber)
        node.join_idle()
        assert not running("synckit-sweep")
