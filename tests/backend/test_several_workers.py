"""Several workers of a fresh clone, without any setting of a broker: local:// carries the notices."""

import os
import signal
import time
from pathlib import Path

import pytest

from synckit_notify.backend import create_app

from ..support.backend import PASSWORD, Caller, add_account, make_clone, over_http, start
from ..support.raw_client import CHANGED, CONNECTED, Listener
from ..support.server import Server
from ..support.tokens import KEY
from ..support.wait import until

AN_HOUR = "3600"
"""Between two sweeps, so that none helps."""

AT_ONCE = 5.0
"""Seconds: five times the promise for a revocation."""

STREAMS = 12


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {
        "SYNCKIT_JWT_KEY": KEY,
        "SYNCKIT_ENV": "production",
        "SYNCKIT_WORKERS": "2",
        "SYNCKIT_SWEEP_SECONDS": AN_HOUR,
        "SYNCKIT_DATABASE_URL": f"sqlite:///{tmp_path / 'synckit.db'}",
    }


@pytest.fixture
def credentials(settings: dict[str, str]) -> dict[str, str]:
    """What Alice logs in with."""
    backend = create_app(settings).extensions["synckit_backend"]
    credentials = add_account(backend)
    backend.store.dispose()
    return credentials


def hear_every_push(server: Server, credentials: dict[str, str]) -> tuple[Caller, list[Listener]]:
    """Open streams in the workers and push through any of them; return the pusher and the streams that heard it all."""
    send = over_http(server.url)
    status, answer = send("POST", "/auth", credentials, {})
    assert status == 200, answer
    laptop = Caller(send, answer["token"])
    pusher = laptop.register("laptop")
    path = f"/api/sync/subscribe?app_id={answer['app_id']}&device_id=phone"
    streams = [Listener(server.port, path, answer["token"]) for _ in range(STREAMS)]
    assert [stream.next_frame() for stream in streams] == [CONNECTED] * STREAMS
    for _ in range(8):
        laptop.push(pusher)
        assert [stream.next_news() for stream in streams] == [CHANGED] * STREAMS
    return laptop, streams


def test_a_push_through_any_worker_is_heard_by_all_and_a_new_password_ends_every_stream(
    tmp_path: Path, settings: dict[str, str], credentials: dict[str, str]
) -> None:
    with start(make_clone(tmp_path), **settings) as server:
        laptop, streams = hear_every_push(server, credentials)
        began = time.monotonic()
        change = {"old_password": PASSWORD, "new_password": "a new password"}
        assert laptop.post("/password", change)[0] == 200
        assert all(stream.read_to_end(AT_ONCE).endswith(b": bye revoked\n\n") for stream in streams)
        assert time.monotonic() - began < AT_ONCE
        for stream in streams:
            stream.close()


@pytest.mark.thorough
def test_after_a_reload_and_a_killed_worker_the_new_ones_hear_each_other(
    tmp_path: Path, settings: dict[str, str], credentials: dict[str, str]
) -> None:
    with start(make_clone(tmp_path), **settings) as server:
        old = server.workers()
        server.process.send_signal(signal.SIGHUP)
        assert until(lambda: len(server.workers()) == 2 and not set(old) & set(server.workers()), 60.0)
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        assert until(lambda: len(server.workers()) == 2 and killed not in server.workers(), 60.0)
        _, streams = hear_every_push(server, credentials)
        for stream in streams:
            stream.close()
