"""The timer under gevent: it wakes the streams that are due and no others; keepalives go on in time when it fails."""

import time
from pathlib import Path

import httpx2
import pytest

from .support.gevent_script import under_gevent
from .support.raw_client import CONNECTED, KEEPALIVE, Listener
from .support.server import gunicorn
from .support.tokens import make_token
from .support.wait import wait_until

APP = "tests.support.killing_host:create_app()"
SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
PERIOD = 1.0
FAILED = "the timer of the streams failed; each stream waits with a timeout of its own until it runs again"


@pytest.mark.parametrize("parking", ["0", "1"], ids=["generator", "parked"])
@pytest.mark.parametrize("by", ["GreenletExit", pytest.param("Unexpected", marks=pytest.mark.thorough)])
def test_keepalives_and_ends_go_on_when_the_timer_is_killed(tmp_path: Path, parking: str, by: str) -> None:
    env = {"SYNCKIT_KEEPALIVE_SECONDS": str(PERIOD), "SYNCKIT_PARKING": parking}
    with gunicorn(APP, tmp_path, env=env) as server, httpx2.Client(base_url=server.url, timeout=20.0) as http:
        streams = [Listener(server.port, SUBSCRIBE, make_token(f"user-{number % 2}")) for number in range(4)]
        assert [stream.next_frame() for stream in streams] == [CONNECTED] * 4
        assert [stream.next_frame() for stream in streams] == [KEEPALIVE] * 4
        began = time.monotonic()
        http.post("/kill", params={"by": by})
        wait_until(lambda: FAILED in server.log)
        wait_until(lambda: http.get("/timers").json() == ["synckit-timer"])
        for stream in streams:
            assert [stream.next_frame(10.0) for _ in range(4)] == [KEEPALIVE] * 4
        assert time.monotonic() - began < 4 * PERIOD + 10.0
        http.post("/push/notes/user-0")
        assert b"changed" in streams[0].next_news()
        http.post("/disconnect/notes/user-1")
        assert streams[1].read_to_end().endswith(b": bye revoked\n\n")
        for stream in streams:
            stream.close()
        assert server.log.count(FAILED) == 1


def test_without_a_thread_for_the_timer_streams_wait_by_themselves_and_use_it_when_it_can_start() -> None:
    done = under_gevent("""
        import logging
        import sys
        import threading
        import time

        import gevent

        from synckit_notify.brokers.memory import MemoryBroker
        from synckit_notify.node import Node
        from synckit_notify.streams.channel import ChannelKey, EndReason
        from synckit_notify.streams.registry import Registry
        from synckit_notify.streams.stream import Deadline

        logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.ERROR)
        start, tries = threading.Thread.start, []

        def start_no_timer(thread):
            if thread.name == "synckit-timer":
                tries.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        threading.Thread.start = start_no_timer
        node = Node(Registry(), MemoryBroker())
        never = Deadline(float("inf"), EndReason.MAX_AGE)
        heard = {}

        def open_stream(number):
            subscriber = node.open(ChannelKey("notes", str(number % 3)), None)
            stream, frames = node.begin(subscriber, None, keepalive=0.5, ends=never, may_park=False)
            heard[number] = []
            for frame in frames:
                heard[number].append(frame)
            node.close(stream)

        def until(condition):
            end = time.monotonic() + 20.0
            while not condition() and time.monotonic() < end:
                gevent.sleep(0.01)
            return condition()

        streams = [gevent.spawn(open_stream, number) for number in range(20)]
        print(until(lambda: len(heard) == 20 and all(len(frames) > 4 for frames in heard.values())))
        print(len(tries) > 20, node.registry.timer.runs, node.registry.timer._wheel.next_due)
        threading.Thread.start = start
        print(until(lambda: node.registry.timer.runs and node.registry.timer._wheel.next_due < float("inf")))
        counts = {number: len(frames) for number, frames in heard.items()}
        print(until(lambda: all(len(frames) > counts[number] + 3 for number, frames in heard.items())))
        node.registry.end_all(EndReason.REVOKED)
        gevent.joinall(streams)
        node.join_idle()
    """)
    first, *lines = [
        line for line in done.stdout.splitlines() if not line.startswith((" ", "Traceback", "RuntimeError"))
    ]
    assert [first, *lines] == [FAILED, "True", "True False inf", "True", "True"], done.stdout + done.stderr


def test_a_thousand_keepalives_out_of_step_in_one_channel_wake_each_due_stream_once_and_no_other() -> None:
    done = under_gevent("""
        import time
        from collections import Counter

        import gevent

        from synckit_notify import sse
        from synckit_notify.brokers.memory import MemoryBroker
        from synckit_notify.node import Node
        from synckit_notify.streams.channel import ChannelKey, EndReason
        from synckit_notify.streams.registry import Registry
        from synckit_notify.streams.stream import Deadline, Stream

        STREAMS, PERIOD, ROUNDS = 1000, 2.0, 2
        node, alice = Node(Registry(), MemoryBroker()), ChannelKey("notes", "alice")
        never = Deadline(float("inf"), EndReason.MAX_AGE)
        woken, keepalives, changes = Counter(), Counter(), Counter()
        wait = Stream.wait

        def counted_wait(stream):
            wait(stream)
            woken[stream] += 1

        Stream.wait = counted_wait

        def listen(number):
            gevent.sleep(PERIOD * number / STREAMS)
            stream, frames = node.begin(node.open(alice, None), None, keepalive=PERIOD, ends=never, may_park=False)
            for frame in frames:
                keepalives[stream] += frame == sse.KEEPALIVE
                changes[stream] += frame == sse.CHANGED
            node.close(stream)

        def until(condition):
            end = time.monotonic() + 50.0
            while not condition() and time.monotonic() < end:
                gevent.sleep(0.05)

        streams = [gevent.spawn(listen, number) for number in range(STREAMS)]
        until(lambda: len(keepalives) == STREAMS and min(keepalives.values()) >= ROUNDS)
        print("streams", len(woken), "keepalives", keepalives.total(), "wake-ups", woken.total())
        print(woken == keepalives, min(keepalives.values()) >= ROUNDS, node.registry.timer.runs)
        woken.clear()
        node.registry.deliver(alice)
        until(lambda: len(+changes) == STREAMS)
        print(changes.total(), set(changes.values()))
        node.registry.end_all(EndReason.REVOKED)
        gevent.joinall(streams)
        node.join_idle()
    """)
    counts, *rest = done.stdout.splitlines() or [""]
    print(counts)
    assert rest == ["True True True", "1000 {1}"], done.stdout + done.stderr


def test_each_step_of_a_clock_wakes_the_streams_that_are_due_and_no_others() -> None:
    """A thousand streams of one channel, 30 ms apart, and a clock that advances by 20 ms for a minute."""
    done = under_gevent("""
        import gevent

        from synckit_notify import sse
        from synckit_notify.streams.channel import ChannelKey, EndReason
        from synckit_notify.streams.registry import Registry
        from synckit_notify.streams.stream import Deadline, Stream, frames

        registry, alice, now = Registry(), ChannelKey("notes", "alice"), [1000.0]
        registry.timer.clock = lambda: now[0]
        registry.timer.runs = True
        never = Deadline(float("inf"), EndReason.MAX_AGE)
        wakes, late = [], []
        wait = Stream.wait

        def counted_wait(stream):
            wait(stream)
            wakes.append(stream)

        Stream.wait = counted_wait

        def listen():
            last = 0.0
            for frame in frames(Stream(registry.subscribe(alice), keepalive=30.0, ends=never), lambda: now[0]):
                if frame == sse.KEEPALIVE:
                    late.append(now[0] - last - 30.0)
                last = now[0]

        streams = []
        for _ in range(1000):
            now[0] += 0.03
            streams.append(gevent.spawn(listen))
            gevent.sleep(0)
        most = 0
        for _ in range(3000):
            now[0] += 0.02
            before = len(wakes)
            registry.timer.turn()
            gevent.sleep(1e-6)  # until the loop has looked at its timers
            most = max(most, len(wakes) - before)
        print(len(wakes), len(late), most, -1e-6 < min(late), max(late) < 0.041)
        gevent.killall(streams)
    """)
    wakes, keepalives, most, *in_time = done.stdout.split() or [0, 0, 0]
    assert wakes == keepalives, done.stdout + done.stderr
    assert int(keepalives) in range(1990, 2001)
    assert int(most) <= 2
    assert in_time == ["True", "True"], done.stdout


def test_a_due_stream_comes_before_everything_that_is_ready_to_run() -> None:
    """In a worker that clients keep busy, thousands of greenlets are ready, and some of them work for milliseconds."""
    done = under_gevent("""
        import statistics
        import time

        import gevent

        from synckit_notify.brokers.memory import MemoryBroker
        from synckit_notify.node import Node
        from synckit_notify.streams.channel import ChannelKey, EndReason
        from synckit_notify.streams.registry import Registry
        from synckit_notify.streams.stream import Deadline

        def request():
            while True:
                began = time.monotonic()
                gevent.sleep(0)
                rounds.append(time.monotonic() - began)
                end = time.monotonic() + 0.001
                while time.monotonic() < end:
                    pass

        node = Node(Registry(), MemoryBroker())
        never = Deadline(float("inf"), EndReason.MAX_AGE)
        late, rounds = [], []

        def listen():
            subscriber = node.open(ChannelKey("notes", "alice"), None)
            stream, frames = node.begin(subscriber, None, keepalive=0.2, ends=never, may_park=False)
            next(frames)
            last = time.monotonic()
            for frame in frames:
                now = time.monotonic()
                late.append(now - last - 0.2)
                last = now

        gevent.spawn(listen)
        gevent.sleep(0.05)
        flood = [gevent.spawn(request) for _ in range(500)]
        gevent.sleep(5.0)
        print(len(late), statistics.median(late) / statistics.median(rounds))
    """)
    keepalives, share = done.stdout.split() or ["0", "9"]
    assert int(keepalives) >= 4, done.stdout + done.stderr
    assert float(share) < 1.0, "of a round of all that are ready; it is 0.7, and 1.6 with gevent's own Event"
