"""The complete SDK against a real gunicorn, with faults of the network and of the server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from synckit_notify.client import (
    ChangeEntry,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ServerError,
    StreamState,
    SyncKitClient,
    SyncNotification,
)

from ..support.server import ROOT, clean_environment
from ..support.service import EMAIL, PASSWORD, Service, StreamRecorder
from ..support.tcp_proxy import Proxy
from ..support.wait import until

CHANGED = SyncNotification.CHANGED


@pytest.fixture
def new_app(service: Service, request: pytest.FixtureRequest) -> Iterator[Service]:
    """The server of this file with an app of its own."""
    app = service.with_new_app(request.node.name)
    yield app
    app.close_clients()


def entry(row: str) -> ChangeEntry:
    return ChangeEntry(table="tasks", op="INSERT", row_id=row, timestamp=datetime.now(UTC), data={"title": row})


def test_a_push_is_heard_and_pulled_by_the_other_device_and_hidden_from_its_own(new_app: Service) -> None:
    laptop, phone = new_app.client(name="laptop 1"), new_app.client(name="phone 1")
    phone.pull().confirm()
    with StreamRecorder(phone) as recorder, StreamRecorder(laptop) as own_recorder:
        before, own_before = recorder.changed, own_recorder.changed
        laptop.push([entry("first")])
        assert recorder.hears(before, within=2.0)
        assert [change.row_id for change in phone.pull()] == ["first"]
        assert [change.row_id for change in laptop.pull() if change.row_id == "first"] == []
        assert until(lambda: own_recorder.keepalives > 0)
        assert own_recorder.changed == own_before


def test_the_first_connect_yields_changed(service: Service) -> None:
    with service.client().subscribe_notifications() as stream:
        assert next(stream) is CHANGED
        assert stream.state is StreamState.CONNECTED


def test_closing_from_another_thread_ends_it_within_a_tenth_of_a_second(service: Service) -> None:
    with StreamRecorder(service.client()) as recorder:
        began = time.monotonic()
        recorder.stream.close()
        recorder._thread.join(1)
        assert time.monotonic() - began < 0.5
    assert recorder.stream.state is StreamState.CLOSED


def test_a_stream_survives_its_tokens_and_misses_nothing(own_service: Callable[..., Service]) -> None:
    service = own_service(TOKEN_SECONDS="2")
    laptop, phone = service.client(name="laptop"), service.client(name="phone")
    rows: set[str] = set()
    with StreamRecorder(phone) as recorder:
        for number in range(3):
            before = recorder.changed
            laptop.push([entry(f"row {number}")])
            assert recorder.hears(before)
            rows |= {change.row_id for change in phone.pull()}
            time.sleep(1.0)
        assert rows == {f"row {number}" for number in range(3)}
        assert recorder.error is None
        assert sum(state is StreamState.CONNECTED for state, _ in recorder.states) >= 2


def test_after_a_log_out_everywhere_the_stream_needs_auth_until_the_next_log_in(
    own_service: Callable[..., Service],
) -> None:
    service = own_service(TOKEN_SECONDS="3")
    phone = service.client()
    with StreamRecorder(phone) as recorder:
        service.runner.invoke(args=["synckit", "user", "logout", EMAIL])
        assert until(lambda: recorder.error is not None)
        assert isinstance(recorder.error, NotAuthenticated)
        assert recorder.stream.state is StreamState.NEEDS_AUTH
    phone.authenticate(EMAIL, PASSWORD)
    with StreamRecorder(phone):
        pass


def test_another_app_is_refused_at_once_with_the_servers_message(service: Service) -> None:
    wrong = service.client()
    wrong._state._set(app_id="another-app")
    with pytest.raises(ServerError, match="the token is for another app") as refusal:
        next(wrong.subscribe_notifications())
    assert refusal.value.status == 403


def test_a_server_that_is_killed_and_comes_back_loses_nothing(own_service: Callable[..., Service]) -> None:
    service = own_service()
    laptop, phone = service.client(name="laptop"), service.client(name="phone")
    with StreamRecorder(phone) as recorder:
        phone.pull().confirm()
        port, before = service.server.port, recorder.changed
        for pid in service.server.workers():
            os.kill(pid, signal.SIGKILL)
        service.server.process.kill()
        service.server.process.wait()
        assert until(lambda: recorder.stream.state is not StreamState.CONNECTED)
        service.server = service.start(port)
        laptop.push([entry("while the phone was away")])
        assert recorder.hears(before, within=60.0)
        assert "while the phone was away" in {change.row_id for change in phone.pull()}


@pytest.mark.thorough
def test_a_clean_restart_sends_bye_and_devices_return_spread_out(own_service: Callable[..., Service]) -> None:
    service = own_service()
    with StreamRecorder(service.client()) as recorder:
        port, before = service.server.port, recorder.changed
        service.server.stop()
        assert until(lambda: any("draining" in reason for _, reason in recorder.states)), recorder.states
        service.server = service.start(port)
        assert recorder.hears(before, within=60.0)


@pytest.fixture
def proxied(service: Service) -> Iterator[tuple[Proxy, SyncKitClient]]:
    with Proxy(service.server.port) as proxy:
        yield proxy, service.client(proxy.url, name="behind a proxy")


def test_a_half_open_connection_is_detected_by_its_silence(proxied: tuple[Proxy, SyncKitClient]) -> None:
    proxy, phone = proxied
    with StreamRecorder(phone) as recorder:
        before = recorder.changed
        proxy.mode = "silence"
        assert until(lambda: recorder.stream.state is not StreamState.CONNECTED, 5.0), "2.5 keepalives are 1 s"
        proxy.mode = "pass"
        proxy.cut()
        assert recorder.hears(before, within=60.0)


def test_a_reset_connection_is_replaced_automatically(proxied: tuple[Proxy, SyncKitClient]) -> None:
    proxy, phone = proxied
    with StreamRecorder(phone) as recorder:
        before = recorder.changed
        proxy.cut()
        assert recorder.hears(before, within=60.0)


@pytest.mark.thorough
def test_a_proxy_that_buffers_is_detected_and_the_sdk_polls(proxied: tuple[Proxy, SyncKitClient]) -> None:
    proxy, phone = proxied
    proxy.mode = "hold"
    recorder = StreamRecorder(phone)
    recorder._thread.start()
    try:
        assert recorder.hears(0, within=60.0), "one attempt that held back its bytes is enough to look"
        assert until(lambda: recorder.stream.state is StreamState.POLLING), recorder.states
    finally:
        recorder.__exit__()


def test_a_storm_of_503_is_waited_out_as_the_server_asks(proxied: tuple[Proxy, SyncKitClient]) -> None:
    proxy, phone = proxied
    with StreamRecorder(phone) as recorder:
        before = recorder.changed
        proxy.mode = "busy"
        proxy.cut()
        assert until(lambda: recorder.stream.state is StreamState.WAITING)
        knocks = proxy.connections
        time.sleep(2.5)
        assert proxy.connections - knocks <= 3, "Retry-After is a second"
        proxy.mode = "pass"
        assert recorder.hears(before, within=60.0)


def test_a_push_whose_answer_was_lost_is_stored_once(service: Service) -> None:
    with Proxy(service.server.port) as proxy:
        laptop = service.client(proxy.url, name="laptop with a bad line")
        before = laptop.status().cursor
        proxy.swallow = b"POST /api/sync/push"
        assert laptop.push([entry("once")]) == before + 1
        assert proxy.swallowed == 1
        assert laptop.status().cursor == before + 1
        assert laptop.pending_changes == 0


def test_a_refresh_whose_answer_was_lost_logs_nobody_out(service: Service) -> None:
    with Proxy(service.server.port) as proxy:
        laptop = service.client(proxy.url, name="laptop with a worse line")
        proxy.swallow = b"POST /oauth/token"
        with pytest.raises(NetworkError):
            laptop._session.refresh()
        assert proxy.swallowed == 1
        laptop._session.refresh()
        laptop._session.refresh()
        assert laptop.status().epoch


def test_two_devices_share_what_the_server_cannot_read(service: Service, quick_passphrases: None) -> None:
    laptop, phone = (service.client(name=name, encrypt=True) for name in ("sealed laptop", "sealed phone"))
    laptop.setup_encryption("a long passphrase")
    phone.setup_encryption("a long passphrase")
    laptop.push([entry("secret row")])
    everything = service.client(name="server's view")
    sealed = everything._session.call(
        "POST",
        "/api/sync/pull",
        {"device_id": everything._state.device_id(), "cursor": laptop.status().cursor - 1},
        idempotent=True,
    )
    assert "secret row" not in sealed["changes"][0]["data"]
    position = phone._state
    position._set(cursor=laptop.status().cursor - 1, epoch=laptop.status().epoch)
    assert [change.data for change in phone.pull()] == [{"title": "secret row"}]


def test_a_rotation_reaches_the_other_device_under_gunicorn(new_app: Service, quick_passphrases: None) -> None:
    laptop, phone = (new_app.client(name=name, encrypt=True) for name in ("laptop", "phone"))
    for device in laptop, phone:
        device.setup_encryption("a long passphrase")
    laptop.push([entry("old")])
    laptop.rotate_master_key("a long passphrase", "a longer passphrase")
    with StreamRecorder(phone) as stream:
        heard = stream.changed
        laptop.push([entry("new")])
        assert stream.hears(heard)
    with pytest.raises(NoMasterKey, match="the passphrase was changed"):
        phone.pull()
    phone.push([entry("queued")])
    phone.setup_encryption("a longer passphrase")
    assert [change.row_id for change in phone.pull()] == ["old", "new"]
    assert [change.row_id for change in laptop.pull()] == ["queued"]


def command(service: Service, *words: str, **env: str) -> subprocess.Popen[str]:
    account = {"SYNCKIT_URL": service.server.url, "SYNCKIT_API_KEY": service.api_key}
    account |= {"SYNCKIT_EMAIL": EMAIL, "SYNCKIT_PASSWORD": PASSWORD}
    return subprocess.Popen(
        [sys.executable, "-m", "synckit_notify.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=clean_environment() | account | env | {"PYTHONUNBUFFERED": "1"},
        # Ctrl-C must arrive, also where the tests run as a job in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_demo_prints_how_long_five_changes_took(new_app: Service) -> None:
    shown, _ = command(new_app, "demo").communicate(timeout=60)
    lines = shown.strip().splitlines()
    assert lines[0].split() == ["change", "heard", "after", "pulled", "after"], shown
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]
    assert all(float(line.split()[1]) < 1000 for line in lines[1:]), shown


def test_the_demo_does_not_write_into_an_account_that_has_a_key(new_app: Service) -> None:
    client = new_app.client(encrypt=True)
    client.setup_encryption("a passphrase")
    demo = command(new_app, "demo")
    shown, _ = demo.communicate(timeout=60)
    assert (demo.returncode, client.status().change_count) == (1, 0)
    assert shown == (
        "Error: this account has a master key, and the demo pushes changes without encryption: use another account\n"
    )


def test_the_demo_prints_json_for_scripts(new_app: Service) -> None:
    shown, _ = command(new_app, "demo", "--json").communicate(timeout=60)
    measured = [json.loads(line) for line in shown.splitlines()]
    assert [line["change"] for line in measured] == [1, 2, 3, 4, 5]
    assert all(0 < line["heard_ms"] < line["pulled_ms"] for line in measured)


def test_listen_opens_the_key_of_an_account_and_makes_none(new_app: Service) -> None:
    words = ["listen", "--json", "--pull"]
    listening = command(new_app, *words, SYNCKIT_PASSPHRASE="a passphrase")
    shown, _ = listening.communicate(timeout=60)
    assert listening.returncode == 1
    assert shown == "Error: this account has no master key yet: leave out --passphrase\n"
    client = new_app.client(encrypt=True)
    assert client.setup_encryption("a passphrase").created
    client.push([entry("sealed")])
    listening = command(new_app, *words, SYNCKIT_PASSPHRASE="a passphrase")
    seen: list[dict[str, str]] = []
    try:
        while not seen or seen[-1]["what"] != "keepalive":
            seen.append(json.loads(listening.stdout.readline()))
    finally:
        listening.send_signal(signal.SIGINT)
        listening.communicate(timeout=60)
    assert [line["row"] for line in seen if line["what"] == "pulled"] == ["sealed"]


def test_listen_prints_json_for_scripts(new_app: Service) -> None:
    new_app.client().push([entry("seen")])
    listening = command(new_app, "listen", "--json", "--pull")
    seen: list[dict[str, str]] = []
    try:
        while not seen or seen[-1]["what"] != "keepalive":
            seen.append(json.loads(listening.stdout.readline()))
    finally:
        listening.send_signal(signal.SIGINT)
        listening.communicate(timeout=60)
    assert {"[connecting]", "[connected]", "changed"} <= {line["what"] for line in seen}
    assert [line["row"] for line in seen if line["what"] == "pulled"] == ["seen"]


@pytest.mark.thorough
def test_listen_escapes_control_characters_and_what_the_console_cannot_show(
    new_app: Service,
) -> None:
    new_app.client().push([entry("任务"), entry("\x1b[2Jrow")])
    listening = command(new_app, "listen", "--pull", PYTHONIOENCODING="cp1252:strict")
    said: list[str] = []
    try:
        while not said or "keepalive" not in said[-1]:
            said.append(listening.stdout.readline())
            assert said[-1], said
    finally:
        listening.send_signal(signal.SIGINT)
        listening.communicate(timeout=60)
    pulled = [line.rpartition(" ")[2].rstrip() for line in said if "pulled" in line]
    assert pulled == [r"\u4efb\u52a1", r"\x1b[2Jrow"]


def test_a_wrong_password_prints_one_line(service: Service) -> None:
    listening = command(service, "listen", SYNCKIT_PASSWORD="not this one")
    said, _ = listening.communicate(timeout=60)
    assert listening.returncode == 1
    assert said == "Error: the API key, the e-mail or the password is wrong\n"
