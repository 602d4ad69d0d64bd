"""How long gevent's hub was kept from its greenlets: for programs of the tests that have patched themselves."""

import time

import gevent


def tick(gaps: list[float]) -> None:
    """Note the time between two turns of this greenlet, for ever."""
    last = time.perf_counter()
    while True:
        gevent.sleep(0.001)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
