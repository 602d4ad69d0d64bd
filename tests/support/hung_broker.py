"""Run as a program under gevent: measures how long the hub is blocked while the broker hangs.

In: the broker's URL and the id of its process. It listens, publishes all the time, stops the broker until that is
noticed, and resumes it: then the thousands of notices that have waited arrive at once. Prints one number, in
milliseconds: the largest gap between two turns of a greenlet that only sleeps.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402

from synckit_notify.brokers import Broker, Message, Notice, connect  # noqa: E402
from synckit_notify.brokers.listener import Timing  # noqa: E402

from .hub_ticks import tick  # noqa: E402
from .server import children  # noqa: E402


def largest_gap(url: str, process_id: int) -> float:
    """Return the largest gap in seconds."""
    gaps: list[float] = []
    heard: list[Message] = []
    timing = Timing(ping=0.1, probe=0.2, answer=0.7, longest_pause=0.1)
    broker, other = (connect(url, timing=timing) for _ in range(2))
    broker.start(heard.append)
    other.start(lambda message: None)
    _until(lambda: broker.status().echo and other.status().echo)
    work = [gevent.spawn(tick, gaps), gevent.spawn(_publish, other)]
    processes = [process_id, *children(process_id)]
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    _until(lambda: not broker.status().connected)
    gevent.sleep(0.5)
    for each in processes:
        os.kill(each, signal.SIGCONT)
    _until(lambda: broker.status().connected)
    other.publish(Notice("notes", "last"))
    _until(lambda: Notice("notes", "last") in heard)
    gevent.killall(work)
    broker.close()
    other.close()
    return max(gaps)


def _publish(broker: Broker) -> None:
    number = 0
    while True:
        for _ in range(4):
            broker.publish(Notice("notes", str(number := number + 1)))
        gevent.sleep(0.001)


def _until(condition) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.002)


if __name__ == "__main__":
    print(largest_gap(sys.argv[1], int(sys.argv[2])) * 1000)
