"""A publisher that dies between commit and publish: the sweep finds the change in the database."""

import http.client
import json
import time
from pathlib import Path

import pytest

from .support.raw_client import CHANGED, Listener
from .support.server import Server, gunicorn
from .support.tokens import KEY, make_token

HEARD_WITHIN = 5.0  # what docs/protocol.md promises


def start(tmp_path: Path, name: str, **settings: str) -> Server:
    """One server; all of a test's servers share one database."""
    env = {"SYNCKIT_JWT_KEY": KEY, "INSTANCE": str(tmp_path / "instance")} | settings
    return gunicorn("tests.support.crashing_backend:create_app()", tmp_path / name, env=env)


def post(server: Server, path: str, body: dict, **headers: str) -> dict:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        authorization = {"Authorization": f"Bearer {make_token()}"}
        connection.request("POST", f"/api/sync/{path}", json.dumps(body), headers | authorization)
        answer = connection.getresponse()
        assert answer.status == 200
        return json.load(answer)
    finally:
        connection.close()


def push(server: Server, device: str, row: str, **headers: str) -> dict:
    change = {"table": "notes", "op": "INSERT", "row_id": row, "timestamp": "2026-11-23T12:00:00Z", "data": "x"}
    return post(server, "push", {"device_id": device, "changes": [change]}, **headers)


def test_a_device_hears_within_five_seconds_of_a_push_whose_process_died_before_it_published(tmp_path: Path) -> None:
    with start(tmp_path, "listening") as listening, start(tmp_path, "dying") as dying:
        laptop = post(dying, "devices", {"device_name": "laptop", "platform": "linux"})["id"]
        with Listener(listening.port, "/api/sync/subscribe?app_id=notes&device_id=phone", make_token()) as phone:
            phone.next_frame()
            time.sleep(1.5)  # so that the push falls between two sweeps, not into the first
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                push(dying, laptop, "the last one", **{"X-Die": "now"})
            began = time.monotonic()
            assert phone.next_news(HEARD_WITHIN) == CHANGED
            assert time.monotonic() - began < HEARD_WITHIN
        pulled = post(listening, "pull", {"device_id": laptop, "cursor": 0})["changes"]
        assert [change["row_id"] for change in pulled] == ["the last one"]


def test_without_a_crash_the_sweep_repeats_nothing_and_the_pusher_gets_nothing(tmp_path: Path) -> None:
    with start(tmp_path, "server", SYNCKIT_SWEEP_SECONDS="0.2") as server:
        laptop, phone = (
            post(server, "devices", {"device_name": name, "platform": "linux"})["id"] for name in ("laptop", "phone")
        )
        path = "/api/sync/subscribe?app_id=notes&device_id="
        with (
            Listener(server.port, path + laptop, make_token()) as on_laptop,
            Listener(server.port, path + phone, make_token()) as on_phone,
        ):
            for row in range(3):
                push(server, laptop, f"row {row}")
                time.sleep(0.3)
            time.sleep(0.5)
            server.process.terminate()
            # Seven sweeps have seen each change. One of them may fall between a commit and its publish.
            assert on_laptop.read_to_end().count(CHANGED) <= 1
            assert on_phone.read_to_end().count(CHANGED) in (3, 4)
