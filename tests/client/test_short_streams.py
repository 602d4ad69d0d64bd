"""Streams that are cut again and again: the share of time that a device is connected, simulated and real."""

import random
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from synckit_notify.client import StreamState, SyncKitClient

from ..support.fake_transport import (
    CONNECTED,
    KEEPALIVE,
    BreakOff,
    Bye,
    EndCleanly,
    ScriptOver,
    Silence,
    Story,
    StreamOf,
)
from ..support.service import EMAIL, PASSWORD, Service
from ..support.tcp_proxy import Proxy

CONNECT_SECONDS = 0.05


def share_connected(moments: list[tuple[float, StreamState]], until: float) -> float:
    """Return the share of time in the state connected, from the changes of state and their times."""
    spans = pairwise([*moments, (until, StreamState.CLOSED)])
    return sum(later - at for (at, state), (later, _) in spans if state is StreamState.CONNECTED) / until


@pytest.mark.parametrize("life", [20, 30, 45, 59])
@pytest.mark.parametrize("end", [(BreakOff(),), (EndCleanly(),), (Bye("max_age"), EndCleanly())])
def test_streams_that_are_cut_early_leave_the_device_connected_95_percent_of_the_time(
    life: int, end: tuple[object, ...]
) -> None:
    cut = StreamOf(CONNECTED, *[Silence(30), KEEPALIVE] * (life // 30), Silence(life % 30), *end)
    story = Story(*[cut] * 100, draw=random.Random(life).random)
    moments: list[tuple[float, StreamState]] = []
    story.stream._on_state = lambda state, reason: moments.append((story.clock.now, state))
    connect = story.session.connect

    def takes_a_moment():
        story.clock.pass_time(CONNECT_SECONDS)
        return connect()

    story.session.connect = takes_a_moment
    with pytest.raises(ScriptOver):
        story.take(10_000)
    assert share_connected(moments, story.clock.now) >= 0.95


@pytest.mark.thorough
def test_the_same_holds_for_a_real_stream_that_is_cut_every_twenty_seconds(tmp_path: Path) -> None:
    service = Service(tmp_path)
    moments: list[tuple[float, StreamState]] = []
    try:
        with Proxy(service.server.port) as line, SyncKitClient(line.url, api_key=service.api_key) as client:
            client.authenticate(EMAIL, PASSWORD)
            began = time.monotonic()
            stream = client.subscribe_notifications(
                lambda state, reason: moments.append((time.monotonic() - began, state))
            )
            thread = threading.Thread(target=lambda: list(stream), daemon=True)
            thread.start()
            while (passed := time.monotonic() - began) < 120:
                if moments and moments[-1][1] is StreamState.CONNECTED and passed - moments[-1][0] >= 20:
                    line.cut()
                time.sleep(0.05)
            stream.close()
            thread.join(5)
    finally:
        service.close()
    assert [state for _, state in moments].count(StreamState.CONNECTED) >= 5
    assert share_connected(moments, passed) >= 0.93  # 95 % on average, and this is one sample of it
