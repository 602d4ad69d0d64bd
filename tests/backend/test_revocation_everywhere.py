"""Two real servers on one database and one broker, as on two machines, or two masters on one machine.

Who is revoked on one is gone from both.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.backend import create_app

from ..support.backend import PASSWORD, Caller, add_account, over_http, start
from ..support.raw_client import CONNECTED, Listener
from ..support.server import ROOT, Server, clean_environment
from ..support.tokens import KEY
from ..support.valkey import Valkey

pytestmark = pytest.mark.thorough

AT_ONCE = 5.0
"""Seconds; the promise is one, measured are some hundredths."""


@dataclass
class Machines:
    """Two servers, and the account of Alice."""

    here: Server
    there: Server
    settings: dict[str, str]
    clone: Path
    credentials: dict[str, str]

    def log_in(self, name: str) -> "Device":
        status, answer = over_http(self.here.url)("POST", "/auth", self.credentials, {})
        assert status == 200, answer
        return Device(self, answer, name)

    def command(self, *words: str) -> str:
        """Run one of the commands, in a process of its own, and return what it printed."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "synckit", *words]
        env = clean_environment() | self.settings | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=self.clone, env=env, check=True, timeout=60, capture_output=True, text=True)
        return done.stdout


class Device:
    """A registered device with a stream on either server."""

    def __init__(self, machines: Machines, answer: dict[str, Any], name: str) -> None:
        self._machines = machines
        self._refresh_token = answer["refresh_token"]
        self.calls = Caller(over_http(machines.here.url), answer["token"])
        self.id = self.calls.register(name)
        path = f"/api/sync/subscribe?app_id={answer['app_id']}&device_id={self.id}"
        self.streams = [Listener(server.port, path, answer["token"]) for server in (machines.here, machines.there)]
        assert [stream.next_frame() for stream in self.streams] == [CONNECTED] * 2

    def is_gone(self) -> None:
        """Wait for the end of both streams, and ask both servers with both tokens."""
        began = time.monotonic()
        for stream in self.streams:
            assert stream.read_to_end(AT_ONCE).endswith(b": bye revoked\n\n")
            stream.close()
        assert time.monotonic() - began < AT_ONCE
        for server in (self._machines.here, self._machines.there):
            send = over_http(server.url)
            assert send("GET", "/status", None, self.calls.headers)[0] == 401
            form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
            form["client_id"] = self._machines.credentials["api_key"]
            assert send("POST", "/oauth/token", form, {})[1]["error"] == "invalid_grant"

    def stays(self) -> None:
        """See that both streams are open, by a push of another device that both hear of."""
        self.calls.push(self.calls.register("another"))
        for stream in self.streams:
            assert stream.next_news() == b"event: changed\ndata:\n\n"
            stream.close()


@pytest.fixture(scope="module", params=["redis", "local"])
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    clones = [folder / "here", folder / "there"]
    for clone in clones:
        clone.mkdir()
        for name in ("wsgi.py", "gunicorn.conf.py"):
            shutil.copy(ROOT / name, clone)
    with Valkey(folder) as valkey:
        settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_DATABASE_URL": f"sqlite:///{folder / 'synckit.db'}"}
        settings |= {"SYNCKIT_ENV": "production", "SYNCKIT_BROKER_URL": valkey.url if request.param == "redis" else ""}
        backend = create_app(settings | {"SYNCKIT_BROKER_URL": "memory://"}).extensions["synckit_backend"]
        credentials = add_account(backend)
        backend.store.dispose()
        with start(clones[0], **settings) as here, start(clones[1], **settings) as there:
            yield Machines(here, there, settings, clones[0], credentials)


def delete_it(machines: Machines, phone: Device, laptop: Device) -> None:
    assert laptop.calls.delete(f"/devices/{phone.id}")[0] == 204


def log_out(machines: Machines, phone: Device, laptop: Device) -> None:
    machines.command("user", "logout", machines.credentials["email"])


def set_the_password(machines: Machines, phone: Device, laptop: Device) -> None:
    machines.command("user", "password", machines.credentials["email"], "--password", PASSWORD)


def change_the_password(machines: Machines, phone: Device, laptop: Device) -> None:
    body = {"old_password": PASSWORD, "new_password": PASSWORD}
    assert laptop.calls.post("/password", body)[0] == 200


def delete_it_by_command(machines: Machines, phone: Device, laptop: Device) -> None:
    machines.command("devices", "delete", phone.id)


def disable_for_a_while(machines: Machines, phone: Device, laptop: Device) -> None:
    machines.command("user", "disable", machines.credentials["email"])
    machines.command("user", "enable", machines.credentials["email"])


def delete_the_account(machines: Machines, phone: Device, laptop: Device) -> None:
    machines.command("user", "delete", machines.credentials["email"], "--yes")
    machines.command("user", "add", machines.credentials["email"], "--password", PASSWORD)


@pytest.mark.parametrize(
    ("revoke", "laptop_stays"),
    [
        (delete_it, True),
        (delete_it_by_command, True),
        (log_out, False),
        (set_the_password, False),
        (change_the_password, False),
        (disable_for_a_while, False),
        (delete_the_account, False),
    ],
)
def test_streams_end_in_every_process_and_neither_token_counts_any_more(
    machines: Machines, revoke: Callable[[Machines, Device, Device], None], laptop_stays: bool
) -> None:
    phone, laptop = machines.log_in("phone"), machines.log_in("laptop")
    revoke(machines, phone, laptop)
    phone.is_gone()
    if laptop_stays:
        laptop.stays()
    else:
        laptop.is_gone()
