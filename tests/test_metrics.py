"""The metrics of one worker and of several, and the log lines of ended streams and refusals."""

import logging
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from synckit_notify.runtime.logs import RateLimitedLog, log
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from .support import minimal_host
from .support.raw_client import Listener
from .support.server import Server, gunicorn
from .support.tokens import make_token
from .support.wait import until

SUBSCRIBE = "/api/sync/subscribe?app_id=notes"


def samples(text: str) -> dict[str, float]:
    """The lines of an exposition as name (with labels) and value; `_created` and the like left out."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("synckit_")]
    return {name: float(value) for name, value in lines if "_created" not in name}


def scrape(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(f"{server.url}/api/sync/metrics", timeout=60) as answer:
        return samples(answer.read().decode())


def ended(told: dict[str, float]) -> float:
    """Streams that ended, whatever the reason."""
    return sum(value for name, value in told.items() if name.startswith("synckit_streams_ended_total"))


class Scrapes:
    """The difference between two readings of one application's metrics, without other tests of the process."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()
        self._before = self._look()

    def _look(self) -> dict[str, float]:
        return samples(self._client.get("/api/sync/metrics").text)

    def news(self) -> dict[str, float]:
        before, self._before = self._before, self._look()
        changes = {name: value - before.get(name, 0.0) for name, value in self._before.items()}
        return {name: change for name, change in changes.items() if change}


@pytest.fixture
def app() -> Flask:
    return minimal_host.create_app(SYNCKIT_METRICS="1")


def test_every_metric_counts_its_event(app: Flask) -> None:
    scrapes = Scrapes(app)
    client = app.test_client()
    with open_stream(client, "notes", make_token(), device_id="phone") as stream:
        assert stream.next_frame() == CONNECTED
        client.post("/push/notes/alice?times=20")
        for _ in range(16):
            assert stream.next_frame() == CHANGED
        assert client.get(SUBSCRIBE).status_code == 401
        news = scrapes.news()
        told = {name: value for name, value in news.items() if "hub_delay" not in name and "_bucket" not in name}
        assert told.pop("synckit_publish_seconds_sum") > 0
        assert told == {
            "synckit_streams_open": 1,
            "synckit_streams_opened_total": 1,
            "synckit_frames_total": 16,
            "synckit_frames_dropped_total": 4,
            "synckit_publish_seconds_count": 20,
            'synckit_subscribes_refused_total{status="401"}': 1,
        }
    gone = scrapes.news()
    assert gone["synckit_streams_open"] == -1
    assert gone['synckit_streams_ended_total{reason="closed"}'] == 1


def test_without_the_setting_there_is_no_route() -> None:
    assert minimal_host.create_app().test_client().get("/api/sync/metrics").status_code == 404


@pytest.mark.thorough
def test_either_of_two_workers_answers_with_the_metrics_of_both(tmp_path: Path) -> None:
    (tmp_path / "prometheus").mkdir()
    env = {"SYNCKIT_METRICS": "1", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "prometheus")}
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path, workers=2, env=env) as server:
        listeners = [Listener(server.port, SUBSCRIBE, make_token(str(number))) for number in range(20)]
        try:
            assert until(lambda: scrape(server)["synckit_streams_open"] == 20, 6.0)
            assert {scrape(server)["synckit_streams_opened_total"] for _ in range(10)} == {20.0}
            for listener in listeners[:10]:
                listener.close()
            assert until(lambda: scrape(server)["synckit_streams_open"] == 10, 6.0)
            assert until(lambda: ended(scrape(server)) == 10, 6.0)
        finally:
            for listener in listeners:
                listener.close()


class TestLines:
    @pytest.fixture
    def lines(self, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
        with caplog.at_level(logging.INFO, logger=log.name):
            yield caplog

    def test_the_line_of_an_ended_stream_has_reason_age_and_app_but_no_user(self, lines) -> None:
        app, token = minimal_host.create_app(), make_token("alice@example.org", "tracker")
        with open_stream(app.test_client(), "tracker", token) as stream:
            stream.next_frame()
        [line] = [record.getMessage() for record in lines.records]
        assert re.fullmatch(r"stream ended reason=closed age=\d+\.\d app=tracker", line)

    def test_the_line_of_a_refusal_has_status_and_reason(self, lines) -> None:
        token = make_token(life=-1)
        minimal_host.create_app().test_client().get(SUBSCRIBE, headers={"Authorization": f"Bearer {token}"})
        [line] = [record.getMessage() for record in lines.records]
        assert line == "subscribe refused status=401: the token has expired"

    def test_a_flood_of_lines_is_limited_and_the_omitted_ones_are_counted(self, lines) -> None:
        now = [100.0]
        sparing = RateLimitedLog(3, seconds=1.0, clock=lambda: now[0])
        for number in range(10):
            sparing.info("line %d", number)
        now[0] = 101.0
        sparing.info("line %d", 10)
        sparing.info("line %d", 11)
        assert [record.getMessage() for record in lines.records] == [
            *("line 0", "line 1", "line 2"),
            "line 10 (7 more like this since the last line)",
            "line 11",
        ]
