"""The included server when its clock is stepped by an hour: nobody has to log in again, nothing is lost or repeated."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from synckit_notify.backend import Backend, create_app, sessions

from ..support.backend import PASSWORD, SQLITE_ONLY, Caller, Send, add_account, over_http, start
from ..support.clock import Clock
from ..support.programs import need
from ..support.raw_client import CHANGED, CONNECTED, KEEPALIVE, Listener
from ..support.tokens import KEY

HOUR = 3600


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the clock of this process, so many seconds from the right time."""
    clock, nanoseconds = time.time, time.time_ns

    def step(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: clock() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(seconds * 1e9))

    return step


def renew(send: Send, credentials: dict[str, str], refresh_token: str) -> Any:
    body = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": credentials["api_key"]}
    status, answer = send("POST", "/oauth/token", body, {})
    assert status == 200, answer
    return answer


@SQLITE_ONLY
class TestALogInThatLiesInTheFuture:
    """The password was changed, then the clock was set back: `valid_since` and all tokens that count are ahead."""

    @pytest.fixture
    def logged_in(
        self,
        send: Send,
        log_in: Callable[..., Any],
        step: Callable[[float], None],
        app: Flask,
    ) -> Any:
        new = {"old_password": PASSWORD, "new_password": "another one"}
        token = log_in()[1]["token"]
        step(HOUR)
        status, answer = send("POST", "/password", new, {"Authorization": f"Bearer {token}"})
        assert status == 200, answer
        step(0)
        return answer

    def test_its_tokens_count(self, send: Send, logged_in: Any) -> None:
        assert Caller(send, logged_in["token"]).get("/status")[0] == 200

    def test_a_renewed_one_counts_too(self, send: Send, logged_in: Any, credentials: dict[str, str]) -> None:
        renewed = renew(send, credentials, logged_in["refresh_token"])
        assert Caller(send, renewed["access_token"]).get("/status")[0] == 200

    def test_a_new_log_in_counts_too(self, log_in: Callable[..., Any], send: Send, logged_in: Any) -> None:
        assert Caller(send, log_in(password="another one")[1]["token"]).get("/status")[0] == 200

    def test_a_token_from_beyond_that_moment_is_refused(self, logged_in: Any, send: Send, backend: Backend) -> None:
        moment = backend.store.read(lambda connection: sessions.valid_since(connection, logged_in["user_id"], None))
        assert moment is not None
        sign = backend.signer.sign
        good, late = (
            sign(logged_in["app_id"], logged_in["user_id"], valid_since=int(moment.timestamp()) + more)
            for more in (0, 1)
        )
        assert Caller(send, good).get("/status")[0] == 200
        status, answer = Caller(send, late).get("/status")
        assert (status, answer["error"]) == (401, "the token was issued in the future")


@pytest.mark.thorough
def test_gunicorn_goes_on_when_its_clock_is_stepped(clone: Path) -> None:
    """Step the wall clock of two workers; their steady clocks are left as they are."""
    need("cc")
    clock = Clock(clone)
    settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_WORKERS": "2"}
    settings |= {"SYNCKIT_SWEEP_SECONDS": "0.2", "SYNCKIT_KEEPALIVE_SECONDS": "1"}
    app = create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=clone / "instance")
    credentials = add_account(app.extensions["synckit_backend"])
    app.extensions["synckit_backend"].store.dispose()
    with start(clone, **clock.environment, **settings) as server:
        send = over_http(server.url)
        answer = send("POST", "/auth", credentials, {})[1]
        laptop = Caller(send, answer["token"])
        device = laptop.register()
        refresh_token = answer["refresh_token"]
        path = f"/api/sync/subscribe?app_id={answer['app_id']}&device_id="
        cursor = 0
        with (
            Listener(server.port, path + "phone", answer["token"]) as phone,
            Listener(server.port, path + "tablet", answer["token"]) as tablet,
        ):
            assert [stream.next_frame() for stream in (phone, tablet)] == [CONNECTED] * 2
            for seconds in (0, -HOUR, 0, HOUR, 0, -HOUR):
                clock.step(seconds)
                renewed = renew(send, credentials, refresh_token)
                refresh_token = renewed["refresh_token"]
                laptop = Caller(send, renewed["access_token"])
                assert all(changes_in(stream, 3.0) <= 1 for stream in (phone, tablet)), seconds
                cursor += 1
                assert laptop.push(device) == cursor
                assert phone.next_news(10.0) == tablet.next_news(10.0) == CHANGED
                rows = laptop.pull(device)["changes"]
                assert [row["seq"] for row in rows] == list(range(1, cursor + 1))
                assert len({row["received_at"] for row in rows}) == cursor
                assert [row["received_at"] for row in rows] == sorted(row["received_at"] for row in rows)
        assert not server.tracebacks


def changes_in(stream: Listener, seconds: float) -> int:
    """Return how many notices come within so many seconds of silence elsewhere."""
    until, frames = time.monotonic() + seconds, []
    while time.monotonic() < until:
        frames.append(stream.next_frame(5.0))
    assert set(frames) <= {KEEPALIVE, CHANGED}
    return frames.count(CHANGED)
