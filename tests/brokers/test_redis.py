"""The broker over Redis while all is well: every process hears every other, once, and nothing that is none of ours."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from synckit_notify.brokers import Disconnect, Gap, Message, Notice, connect
from synckit_notify.errors import ConfigurationError

from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess
from ..support.server import ROOT
from ..support.valkey import Valkey
from ..support.wait import until

ALICE = Notice("notes", "alice", "laptop", 1790000000.5, 1790000000.25)
BOB = Notice("notes", "bob")


def test_every_kind_of_message_arrives_once_in_every_other_process(valkey: Valkey, process: MakeProcess) -> None:
    laptop, others = process(valkey.url), [process(valkey.url), process(valkey.url)]
    sent: list[Message] = [ALICE, Disconnect("notes", "alice"), Disconnect("notes", "alice", "phone"), BOB]
    for message in sent:
        laptop.broker.publish(message)
    assert until(lambda: all(len(other.heard.messages) == len(sent) for other in others))
    assert [other.heard.messages for other in others] == [sent, sent]
    assert laptop.heard.messages == []


def test_the_subscription_begins_with_a_gap_from_the_listeners_thread(valkey: Valkey, process: MakeProcess) -> None:
    one = process(valkey.url)
    assert (one.heard.gaps, one.broker.status().gaps) == (1, 1)
    assert one.heard.threads == {"synckit-listen"}


def test_a_gap_of_another_process_is_one_here(valkey: Valkey, process: MakeProcess) -> None:
    one, other = process(valkey.url), process(valkey.url)
    other.broker.publish(Gap())
    assert until(lambda: one.heard.gaps == 2)
    assert one.broker.status().gaps == 2


def test_namespaces_separate_services_and_database_numbers_do_not(valkey: Valkey, process: MakeProcess) -> None:
    one, same, foreign = process(valkey.url), process(f"{valkey.url}/7"), process(valkey.url, "staging")
    one.broker.publish(ALICE)
    assert until(lambda: same.heard.messages == [ALICE])
    one.broker.publish(BOB)
    assert until(lambda: same.heard.messages == [ALICE, BOB])
    assert foreign.heard.messages == []


def test_a_process_has_no_connection_before_its_first_use_and_two_at_most(valkey: Valkey, broker: MakeBroker) -> None:
    operator = valkey.client()
    before = len(operator.client_list())
    one = broker(valkey.url)
    assert len(operator.client_list()) == before
    one.publish(ALICE)
    assert until(lambda: one.status().pending == 0)
    one.start(Heard())
    assert until(lambda: one.status().echo)
    for number in range(20):
        one.publish(Notice("notes", str(number)))
        assert until(lambda: one.status().pending == 0)
    assert len(operator.client_list()) == before + 2
    assert len(operator.client_list(_type="pubsub")) == 1
    one.close()
    assert until(lambda: len(operator.client_list()) == before)


def test_there_is_a_sending_thread_only_while_something_waits(valkey: Valkey, broker: MakeBroker) -> None:
    one = broker(valkey.url)
    one.publish(ALICE)
    assert until(lambda: one.status().pending == 0)
    assert until(lambda: "synckit-send" not in [thread.name for thread in threading.enumerate()])


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


def test_an_invalid_message_is_dropped_counted_and_logged_once(
    valkey: Valkey, process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = process(valkey.url), process(valkey.url)
    stranger = valkey.client()
    for data in (b"", b"\x00\xff", b"hello", b'{"v":2,"by":"x","is":"gap"}', b"9" * 1_000_000):
        stranger.publish("synckit:notices", data)
    other.broker.publish(ALICE)
    assert until(lambda: one.heard.messages == [ALICE] and other.broker.status().invalid == 5)
    assert (one.broker.status().invalid, one.broker.status().gaps) == (5, 1)
    assert len([record for record in caplog.records if "dropped" in record.message]) == 2  # one of each process


def test_a_receiver_that_raises_does_not_stop_the_listening(
    valkey: Valkey, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Message] = []

    def receive(message: Message) -> None:
        seen.append(message)
        raise RuntimeError("a mistake")

    one, other = broker(valkey.url), broker(valkey.url)
    one.start(receive)
    assert until(lambda: one.status().connected)
    other.publish(ALICE)
    other.publish(BOB)
    assert until(lambda: BOB in seen)
    assert one.status().connected
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_slow_receiver_does_not_lose_the_connection(valkey: Valkey, broker: MakeBroker) -> None:
    """The lateness is ours: a PONG that has come is not looked for in vain."""
    one, other, seen = broker(valkey.url, timing=QUICK._replace(answer=0.3)), broker(valkey.url), Heard()

    def receive(message: Message) -> None:
        seen(message)
        time.sleep(0.0 if isinstance(message, Gap) else 0.4)

    one.start(receive)
    assert until(lambda: one.status().echo)
    for number in range(3):
        other.publish(Notice("notes", str(number)))
    assert until(lambda: len(seen.messages) == 3)
    assert until(lambda: one.status().echo)
    assert one.status().gaps == 1


def test_an_id_that_receivers_refuse_wakes_every_device_instead(
    valkey: Valkey, process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = process(valkey.url), process(valkey.url)
    one.broker.publish(Notice("notes", "x" * 129))
    assert until(lambda: other.heard.gaps == 2)
    one.broker.publish(Notice("notes", "y" * 129))
    assert until(lambda: other.heard.gaps == 3)
    assert len([record for record in caplog.records if "128 characters" in record.message]) == 1


def test_without_redis_py_the_error_names_what_to_install() -> None:
    code = "import sys; sys.modules['redis'] = None; from synckit_notify.brokers import connect; connect('redis://x')"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "ConfigurationError: SYNCKIT_BROKER_URL needs redis-py" in run.stderr
    assert "pip install 'synckit-notify[redis]'" in run.stderr


def test_a_url_of_another_scheme_is_refused() -> None:
    for url in ("amqp://localhost", "localhost:6379", "redis:localhost", ""):
        with pytest.raises(ConfigurationError, match="SYNCKIT_BROKER_URL"):
            connect(url)
