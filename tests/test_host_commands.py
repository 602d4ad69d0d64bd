"""`flask synckit publish`, `streams` and `doctor` of a host that only mounts the Notifier, beside running servers."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import click
import pytest
from click.testing import Result
from flask import Flask
from flask.cli import AppGroup

from synckit_notify import Notifier, Principal
from synckit_notify.backend import create_app
from synckit_notify.brokers import Message, Question, Report
from synckit_notify.brokers.local_folder import default_folder

from .support import minimal_host
from .support.command_runner import run_apart
from .support.identity_provider import IdentityProvider, SigningKey, config_of
from .support.raw_client import CHANGED, CONNECTED, KEEPALIVE, Listener
from .support.server import ROOT, Server, clean_environment, free_port, gunicorn
from .support.tokens import KEY, make_token
from .support.valkey import Valkey
from .support.wait import until

HOST = "tests.support.minimal_host:create_app()"


class Running(NamedTuple):
    """Two servers of one application: one with streams, one that never had any."""

    busy: Server
    idle: Server
    broker_url: str

    def run(self, *words: str, **config: object) -> Result:
        return run(host(SYNCKIT_BROKER_URL=self.broker_url, **config), *words)

    def run_apart(self, *words: str) -> Result:
        return run_apart(host(SYNCKIT_BROKER_URL=self.broker_url), *words)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("running")
    with Valkey(folder) as valkey:
        env = {"SYNCKIT_BROKER_URL": valkey.url, "SYNCKIT_PARKING": "1"}
        with gunicorn(HOST, folder / "busy", env=env) as busy, gunicorn(HOST, folder / "idle", env=env) as idle:
            yield Running(busy, idle, valkey.url)


def host(**config: object) -> Flask:
    return minimal_host.create_app(**config)


def run(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=["synckit", *words])


def listen(server: Server, user: str = "alice", app: str = "notes", device: str = "phone") -> Listener:
    listener = Listener(server.port, f"/api/sync/subscribe?app_id={app}", make_token(user, app, device=device))
    assert listener.next_frame() == CONNECTED
    return listener


def connected(server: Server) -> bool:
    with Listener(server.port, "/api/sync/ready", None) as answer:
        return bool(answer.json()["connected"])


def verdicts(result: Result) -> dict[str, str]:
    """Return the verdict of each line of the doctor by the words in front of its first colon."""
    return {what: verdict for verdict, what in re.findall(r"^(ok|warn|FAIL) +([^:\n]+)", result.output, re.MULTILINE)}


def test_streams_of_a_service_without_streams_says_so(tmp_path: Path, valkey: Valkey) -> None:
    with gunicorn(HOST, tmp_path / "idle", env={"SYNCKIT_BROKER_URL": valkey.url}):
        result = run(host(SYNCKIT_BROKER_URL=valkey.url), "streams", "--seconds", "0.1")
    assert (result.exit_code, result.output.partition(":")[0]) == (0, "no streams")


def test_streams_prints_each_process_and_the_total(running: Running) -> None:
    listeners = [listen(running.busy), listen(running.busy, device="tablet"), listen(running.busy, app="tasks")]
    assert until(lambda: connected(running.busy))

    def counts() -> list[tuple[int, int]]:
        lines = map(json.loads, running.run_apart("streams", "--json").stdout.splitlines())
        return [(process["streams"], process["parked"]) for process in lines]

    assert until(lambda: counts() == [(3, 3)])
    answered = running.run_apart("streams", "--json")
    [process] = map(json.loads, answered.stdout.splitlines())
    assert answered.stderr == "3 streams in 1 process\n"
    assert (process["pid"], process["server"]) == (running.busy.workers()[0], "gunicorn gevent")
    assert process["apps"] == {"notes": 2, "tasks": 1}
    printed = running.run("streams").output
    assert re.search(rf"pid {process['pid']}  gunicorn gevent  3 streams \(3 parked\)  notes 2, tasks 1\n", printed)
    assert printed.endswith("3 streams in 1 process\n")
    for listener in listeners:
        listener.close()
    assert until(lambda: counts() == [(0, 0)]), "a process that had streams goes on listening"
    assert running.run("streams").output.endswith("0 streams in 1 process\n")


def test_publish_reaches_the_streams_of_a_server_except_those_of_the_device(running: Running) -> None:
    with listen(running.busy) as phone, listen(running.busy, device="laptop") as laptop:
        assert until(lambda: connected(running.busy))
        result = running.run("publish", "notes", "alice", "--device", "laptop")
        assert result.exit_code == 0
        assert result.output.startswith("The broker accepted the notice (redis at 127.0.0.1:")
        assert phone.next_news() == CHANGED
        assert running.run("publish", "notes", "alice").exit_code == 0
        assert laptop.next_news() == CHANGED
        assert laptop.body.replace(KEEPALIVE, b"").count(CHANGED) == 1


def test_a_command_from_the_shell_prints_nothing_else(running: Running) -> None:
    command = [sys.executable, "-m", "flask", "--app", HOST, "synckit", "publish", "notes", "alice"]
    env = clean_environment() | {"PYTHONPATH": str(ROOT), "SYNCKIT_BROKER_URL": running.broker_url}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr, len(ended.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize("words", [("publish", "notes", "alice"), ("streams",)])
def test_over_memory_a_command_reaches_no_process_and_says_what_to_do(words: tuple[str, ...]) -> None:
    result = run(host(SYNCKIT_BROKER_URL="memory://"), *words)
    assert result.exit_code == 1
    assert "set SYNCKIT_BROKER_URL" in result.output


@pytest.mark.parametrize("words", [("publish", "notes", "alice"), ("streams",), ("doctor",)])
def test_a_broker_that_is_away_is_a_failure_without_its_password(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synckit_notify.host_commands.FLUSH_SECONDS", 0.5)
    monkeypatch.setattr("synckit_notify.brokers.survey.CONNECT_SECONDS", 0.5)
    port = free_port()
    result = run(host(SYNCKIT_BROKER_URL=f"redis://:secret@127.0.0.1:{port}"), *words)
    assert result.exit_code == 1
    assert f"redis at 127.0.0.1:{port}, namespace synckit" in result.output
    assert "check that the broker runs" in result.output.lower()
    assert "secret" not in result.output


@pytest.mark.parametrize("words", [("publish", "notes", "alice"), ("streams",), ("doctor",)])
def test_a_folder_of_local_that_cannot_be_used_is_a_failure_that_says_what_to_do(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("synckit_notify.host_commands.FLUSH_SECONDS", 0.5)
    monkeypatch.setattr("synckit_notify.brokers.survey.CONNECT_SECONDS", 0.5)
    with tempfile.TemporaryDirectory(prefix="sk") as folder:
        Path(folder).chmod(0o755)
        result = run(host(SYNCKIT_BROKER_URL=f"local://{folder}"), *words)
    assert result.exit_code == 1
    assert f"local sockets in {folder}, namespace synckit-" in result.output
    assert "set SYNCKIT_BROKER_URL to another broker" in result.output
    assert "with mode 0700" in caplog.text


def test_over_local_the_doctor_names_the_folder_and_each_process(tmp_path: Path) -> None:
    with gunicorn(HOST, tmp_path) as server, listen(server):
        result = run(host(SYNCKIT_BROKER_URL="local://", SYNCKIT_BROKER_NAMESPACE=str(tmp_path)), "doctor")
        [worker] = server.workers()
    assert result.exit_code == 0
    assert f"local sockets in {default_folder()}, namespace {tmp_path}: a message came back" in result.output
    assert re.search(rf"ok +process {worker} on .+: streams open: 1, gunicorn gevent\n", result.output)


@pytest.mark.parametrize("ids", [("", "alice"), ("notes", "x" * 129), ("notes", "alice", "--device", "")])
def test_an_id_that_no_stream_can_have_is_refused(ids: tuple[str, ...]) -> None:
    result = run(host(), "publish", *ids)
    assert (result.exit_code, "1 to 128 characters" in result.output) == (2, True)


def test_questions_in_a_flood_are_answered_ten_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    node = host().extensions["synckit_notify"].node()
    told: list[Message] = []
    monkeypatch.setattr(node.broker, "publish", told.append)
    now = [1000.0]
    monkeypatch.setattr("synckit_notify.node.time", SimpleNamespace(monotonic=lambda: now[0]))
    for now[0] in (1000.0, 1000.9, 1001.0):
        for number in range(1000):
            node.receive(Question(str(number)))
    assert [type(message) for message in told] == [Report] * 20


class TestDoctor:
    def complete_host(self, **config: object) -> Flask:
        """A host with all hooks."""
        app = Flask("host")
        app.config.update(SYNCKIT_JWT_KEYS={"2026-11": KEY}, SYNCKIT_JWT_ISSUER="https://id.example.org", **config)
        notifier = Notifier(app)

        @notifier.valid_since
        def valid_since(principal: Principal) -> None:
            return None

        @notifier.changed_channels
        def changed_channels(since: datetime) -> list[tuple[str, str]]:
            return [("notes", "alice")]

        @notifier.ready_check
        def ready() -> bool:
            return True

        return app

    def test_finds_nothing_wrong_with_a_complete_host_and_its_server(self, running: Running) -> None:
        with listen(running.busy):
            assert until(lambda: connected(running.busy))
            result = run(self.complete_host(SYNCKIT_BROKER_URL=running.broker_url), "doctor")
        assert (result.exit_code, set(verdicts(result).values())) == (0, {"ok"}), result.output
        assert re.search(r"ok +process \d+ on .+: streams open: 1, gunicorn gevent\n", result.output)
        assert "tokens: HS256, keys '2026-11', issuer 'https://id.example.org', any audience" in result.output
        assert "hook changed_channels: called" in result.output
        assert KEY not in result.output

    def test_says_what_a_missing_hook_and_a_broker_for_one_process_mean(self) -> None:
        result = run(host(SYNCKIT_BROKER_URL="memory://"), "doctor")
        assert result.exit_code == 0
        wanted = {"hook valid_since", "hook changed_channels", "broker"}
        assert {what for what, verdict in verdicts(result).items() if verdict == "warn"} == wanted
        assert "devices learn of the change only with the next one" in result.output

    @pytest.mark.parametrize("hook", ["changed_channels", "ready_check"])
    def test_fails_if_a_hook_does(self, hook: str) -> None:
        app = self.complete_host()
        setattr(app.extensions["synckit_notify"].hooks, hook, lambda *_: 1 / 0)
        result = run(app, "doctor")
        assert (result.exit_code, verdicts(result)[f"hook {hook}"]) == (1, "FAIL")

    def test_fetches_the_keys_of_an_identity_provider(self, caplog: pytest.LogCaptureFixture) -> None:
        with IdentityProvider(SigningKey()) as provider:
            config = config_of(provider, SYNCKIT_JWT_KEY="", SYNCKIT_BROKER_URL="memory://")
            found = run(host(**config), "doctor")
            assert (found.exit_code, provider.fetches) == (0, 1), found.output
            assert f"ok    tokens: RS256, keys from {provider.url}" in found.output
        failed = run(host(**config), "doctor")
        assert (failed.exit_code, verdicts(failed)["tokens"]) == (1, "FAIL")
        assert f"keys from {provider.url}" in failed.output
        assert "no keys\n      Servers that have no keys yet answer 503." in failed.output
        assert "cannot be used" in caplog.text

    def test_shows_nobody_a_key(self) -> None:
        app = Flask("host")
        app.config.update(SYNCKIT_JWT_KEY=KEY)
        Notifier(app)
        assert KEY not in run(app, "doctor").output

    def test_names_a_check_of_the_hosts_own(self) -> None:
        app = Flask("host")
        Notifier(app, authenticate=lambda request: Principal(app="notes", user="alice"))
        assert "tokens: checked by the hook authenticate" in run(app, "doctor").output


def test_the_included_backend_has_its_own_commands_and_those_of_the_notifier(tmp_path: Path) -> None:
    app = create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=tmp_path)
    group = app.cli.commands["synckit"]
    assert isinstance(group, click.Group)
    assert {"app", "user", "token", "publish", "streams", "doctor"} <= group.commands.keys()
    assert "APP is an id or a name" in run(app, "publish", "--help").output, "the backend's, which marks the channel"
    assert "user" not in host().cli.commands["synckit"].commands  # type: ignore[attr-defined]
    result = run(app, "doctor")
    assert (result.exit_code, verdicts(result)["hook changed_channels"]) == (0, "ok")
    app.extensions["synckit_backend"].store.dispose()


def test_a_group_and_a_command_of_the_host_stay() -> None:
    app = Flask("host")
    app.config.update(SYNCKIT_JWT_KEY=KEY)
    group = AppGroup("synckit")
    group.command("doctor")(lambda: click.echo("the host's own"))
    app.cli.add_command(group)
    Notifier(app)
    assert run(app, "doctor").output == "the host's own\n"
    assert set(group.commands) == {"doctor", "publish", "streams"}
