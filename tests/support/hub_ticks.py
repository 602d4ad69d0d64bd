"""Measures how long gevent's hub was blocked, for test programs that have patched themselves."""

import time

import gevent


def tick(gaps: list[float]) -> None:
    """Record the time between two turns of this greenlet, without end."""
    last = time.perf_counter()
    while True:
        gevent.sleep(0.001)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
