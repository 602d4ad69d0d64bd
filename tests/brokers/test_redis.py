"""What only Redis has: its URLs, its database numbers, its users, and its outages by password and rights."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synckit_notify.brokers import Notice

from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess
from ..support.server import ROOT
from ..support.valkey import Valkey
from ..support.wait import until

ALICE = Notice("notes", "alice", "laptop", 1790000000.5, 1790000000.25)
BOB = Notice("notes", "bob")


def test_namespaces_separate_services_and_database_numbers_do_not(valkey: Valkey, process: MakeProcess) -> None:
    one, same, foreign = process(valkey.url), process(f"{valkey.url}/7"), process(valkey.url, "staging")
    one.broker.publish(ALICE)
    assert until(lambda: same.heard.messages == [ALICE])
    one.broker.publish(BOB)
    assert until(lambda: same.heard.messages == [ALICE, BOB])
    assert foreign.heard.messages == []


def test_it_reaches_the_broker_over_a_unix_socket(valkey: Valkey, process: MakeProcess) -> None:
    one, other = process(f"unix://{valkey.unix_socket}"), process(valkey.url)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


def test_a_password_with_special_characters_is_used(tmp_path: Path, process: MakeProcess) -> None:
    with Valkey(tmp_path, "--requirepass", "p@ss/word") as valkey:
        one, other = (process(f"redis://:p%40ss%2Fword@127.0.0.1:{valkey.port}") for _ in range(2))
        one.broker.publish(ALICE)
        assert until(lambda: other.heard.messages == [ALICE])


def test_a_user_that_may_do_nothing_else_is_enough(valkey: Valkey, process: MakeProcess) -> None:
    rights = ["+subscribe", "+publish", "+ping"]
    valkey.client().execute_command(
        "ACL", "SETUSER", "notify", "on", ">pw", "resetchannels", "&synckit:notices", *rights
    )
    url = f"redis://notify:pw@127.0.0.1:{valkey.port}/3?protocol=3&decode_responses=yes"
    one, other = process(url), process(url)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


def test_without_redis_py_the_error_names_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; from synckit_notify.brokers import connect; connect('redis://x')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "ConfigurationError: SYNCKIT_BROKER_URL needs redis-py" in run.stderr
    assert "pip install 'synckit-notify[redis]'" in run.stderr


@pytest.mark.thorough
def test_flushing_every_database_loses_nothing(valkey: Valkey, process: MakeProcess) -> None:
    one, other = process(valkey.url), process(valkey.url)
    valkey.client().flushall()
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])
    assert other.heard.gaps == 1


@pytest.mark.thorough
def test_a_wrong_password_is_never_shown_and_the_broker_retries_without_end(
    tmp_path: Path, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Valkey(tmp_path, "--requirepass", "right") as valkey:
        one, heard = broker(f"redis://:hunter2@127.0.0.1:{valkey.port}", timing=QUICK), Heard()
        one.start(heard)
        one.publish(ALICE)
        assert until(lambda: len(caplog.records) >= 2)
        assert not one.status().connected
        valkey.client(password="right").config_set("requirepass", "hunter2")
        assert until(lambda: one.status().echo and one.status().pending == 0)
    assert "AuthenticationError" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.thorough
def test_a_password_that_the_broker_repeats_is_not_shown_either(
    tmp_path: Path, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that does not know AUTH answers with what it was sent, as much as there is room for."""
    with Valkey(tmp_path, "--rename-command", "AUTH", "LOGIN") as valkey:
        one = broker(f"redis://:{'hunter2' * 40}@127.0.0.1:{valkey.port}", timing=QUICK)
        one.start(Heard())
        assert until(lambda: caplog.records)
    assert "unknown command 'AUTH'" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.thorough
def test_a_publisher_that_cannot_send_logs_it_and_keeps_its_subscription(
    valkey: Valkey, process: MakeProcess, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Subscribing again would help nothing, and each time it would wake every device."""
    valkey.client().execute_command("ACL", "SETUSER", "deaf", "on", ">pw", "allchannels", "+subscribe", "+ping")
    one, other = broker(f"redis://deaf:pw@127.0.0.1:{valkey.port}", timing=QUICK), process(valkey.url)
    heard = Heard()
    one.start(heard)
    one.publish(BOB)
    assert until(lambda: caplog.records)
    assert until(lambda: heard.gaps == 1), "subscribed, so that the next message is not missed"
    other.broker.publish(ALICE)
    assert until(lambda: heard.messages == [ALICE])
    time.sleep(QUICK.answer + 2 * QUICK.probe)
    assert (one.status().connected, one.status().echo, heard.gaps, one.status().pending) == (True, False, 1, 1)
