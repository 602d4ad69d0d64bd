"""Whatever happens to the broker: nobody waits for it, it is noticed, and afterwards everybody is told to look."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synckit_notify.brokers import Disconnect, Notice
from synckit_notify.brokers.sender import BATCH

from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess, Process
from ..support.tcp_proxy import Proxy
from ..support.valkey import Valkey
from ..support.wait import until

pytestmark = pytest.mark.thorough

ALICE, BOB = Notice("notes", "alice"), Notice("notes", "bob")
AT_ONCE = 0.05
"""Seconds; a publish that waited for the broker in any way would take an answer's time, which is twenty times that."""


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    with Proxy(valkey.port) as proxy:
        yield proxy


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


def publishes_at_once(process: Process, count: int = 50) -> bool:
    """Whether no single publish takes long; the third longest counts, since the machine is busy with other tests."""
    taken = []
    for number in range(count):
        started = time.monotonic()
        process.broker.publish(Notice("notes", str(number)))
        taken.append(time.monotonic() - started)
        time.sleep(0.002)
    return sorted(taken)[-3] < AT_ONCE


def killed_and_started_again(valkey: Valkey, lost: Callable[[], bool]) -> None:
    valkey.kill()
    assert until(lost)
    valkey.start()


def hung_and_resumed(valkey: Valkey, lost: Callable[[], bool]) -> None:
    valkey.pause()
    assert until(lost)
    valkey.resume()


def subscribers_killed(valkey: Valkey, lost: Callable[[], bool]) -> None:
    valkey.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert until(lost)


def everybody_killed(valkey: Valkey, lost: Callable[[], bool]) -> None:
    for kind in ("normal", "pubsub"):
        valkey.client().execute_command("CLIENT", "KILL", "TYPE", kind)
    assert until(lost)


OUTAGES = [killed_and_started_again, hung_and_resumed, subscribers_killed, everybody_killed]


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
def test_after_an_outage_every_stream_is_woken_and_receives_again(outage, valkey: Valkey, process: MakeProcess) -> None:
    one, other = process(valkey.url, timing=QUICK), process(valkey.url, timing=QUICK)
    both = (one, other)
    outage(valkey, lambda: all(each.heard.gaps > 1 or not each.broker.status().connected for each in both))
    assert until(lambda: all(each.heard.gaps > 1 and each.ready() for each in both))
    assert [each.broker.status().gaps for each in both] == [each.heard.gaps for each in both]
    one.broker.publish(ALICE)
    assert until(lambda: ALICE in other.heard.messages)
    assert one.heard.messages == []


def test_notices_during_an_outage_are_merged_and_sent_afterwards(valkey: Valkey, process: MakeProcess) -> None:
    one = process(valkey.url, timing=QUICK)
    valkey.kill()
    assert until(lambda: not one.broker.status().connected)
    assert (one.broker.status().echo, one.heard.gaps) == (False, 1)
    one.broker.publish(ALICE)
    one.broker.publish(Disconnect("notes", "bob", "phone"))
    one.broker.publish(ALICE)
    assert until(lambda: one.broker.status().pending == 2)
    valkey.start()
    assert until(lambda: one.ready() and one.broker.status().pending == 0)


def test_a_process_that_only_publishes_sends_after_the_outage(
    valkey: Valkey, broker: MakeBroker, process: MakeProcess, proxy: Proxy
) -> None:
    publisher, other = broker(url_of(proxy), timing=QUICK), process(valkey.url)
    publisher.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE] and publisher.status().pending == 0)
    proxy.mode = "refuse"
    proxy.cut()
    publisher.publish(BOB)
    time.sleep(0.3)
    assert (publisher.status().pending, other.heard.messages) == (1, [ALICE])
    proxy.mode = "pass"
    assert until(lambda: other.heard.messages == [ALICE, BOB])
    assert until(lambda: publisher.status().pending == 0)


@pytest.mark.parametrize("outage", ["killed", "hung", "slow"])
def test_publishing_never_waits(outage: str, valkey: Valkey, process: MakeProcess, proxy: Proxy) -> None:
    one = process(url_of(proxy), timing=QUICK)
    if outage == "killed":
        valkey.kill()
    if outage == "hung":
        valkey.pause()
    if outage == "slow":
        proxy.delay = 2.0
    assert publishes_at_once(one)
    assert one.broker.status().pending > 0


def test_a_slow_connection_does_not_count_as_lost(valkey: Valkey, process: MakeProcess, proxy: Proxy) -> None:
    """A PONG takes longer than we wait for one, but as long as anything comes there is somebody."""
    one, other = process(url_of(proxy), timing=QUICK), process(valkey.url)
    proxy.delay = 0.6
    one.broker.publish(ALICE)
    for _ in range(40):
        other.broker.publish(BOB)
        time.sleep(0.05)
        assert one.broker.status().connected
    assert until(lambda: ALICE in other.heard.messages)
    assert BOB in one.heard.messages
    assert one.broker.status().gaps == other.broker.status().gaps == 1


def test_a_message_cut_in_the_middle_is_a_gap_and_no_part_is_delivered(
    valkey: Valkey, process: MakeProcess, proxy: Proxy
) -> None:
    one, other = process(url_of(proxy), timing=QUICK), process(valkey.url)
    proxy.cut_in = b'"user":"alice"'
    other.broker.publish(ALICE)
    assert until(lambda: one.heard.gaps == 2 and one.ready())
    other.broker.publish(BOB)
    assert until(lambda: one.heard.messages == [BOB])
    assert one.broker.status().invalid == 0


def test_flushing_every_database_loses_nothing(valkey: Valkey, process: MakeProcess) -> None:
    one, other = process(valkey.url), process(valkey.url)
    valkey.client().flushall()
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])
    assert other.heard.gaps == 1


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


def test_more_messages_than_can_be_queued_become_one_gap(valkey: Valkey, process: MakeProcess, proxy: Proxy) -> None:
    one, other = process(url_of(proxy), timing=QUICK, limit=100), process(valkey.url)
    proxy.mode = "refuse"
    proxy.cut()
    assert until(lambda: not one.broker.status().connected)
    for number in range(1000):
        one.broker.publish(Notice("notes", str(number)))
        assert one.broker.status().pending <= 100 + BATCH  # one batch may be on its way
    proxy.mode = "pass"
    assert until(lambda: other.heard.gaps == 2)
    assert until(lambda: one.broker.status().pending == 0)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages[-1:] == [ALICE])
    assert len(other.heard.messages) <= 100


def test_a_stale_subscription_after_a_failover_is_detected_by_the_missing_echo(
    valkey: Valkey, tmp_path: Path, process: MakeProcess, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The old server still answers every PING of the listener, while everybody else has moved to the new one."""
    (tmp_path / "new").mkdir()
    with Valkey(tmp_path / "new") as new:
        one, other = process(url_of(proxy), timing=QUICK._replace(answer=0.5)), process(new.url)
        proxy.to_port = new.port
        valkey.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert until(lambda: not one.broker.status().echo)
        assert until(lambda: one.heard.gaps == 2 and one.ready())
        other.broker.publish(ALICE)
        assert until(lambda: one.heard.messages == [ALICE])
    assert len([record for record in caplog.records if "do not come back" in record.message]) == 1


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


def test_a_broker_that_closes_every_connection_is_retried_with_backoff(valkey: Valkey, process: MakeProcess) -> None:
    """Each new subscription wakes every device, so the pauses grow even though every single one succeeds."""
    one = process(valkey.url)
    operator = valkey.client()

    def killing() -> bool:
        operator.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        return one.heard.gaps >= 4

    assert until(killing)
    first, second, third, fourth = one.heard.gap_times[:4]
    assert fourth - third > second - first


def test_a_server_that_is_not_a_broker_counts_as_lost(broker: MakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = broker(f"redis://127.0.0.1:{listener.getsockname()[1]}", timing=QUICK)
        one.start(Heard())
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert until(lambda: caplog.records)
    assert not one.status().connected
    assert "InvalidResponse" in caplog.text


def test_with_the_real_periods_a_broker_that_hangs_is_lost_within_ten_seconds(
    valkey: Valkey, process: MakeProcess
) -> None:
    one = process(valkey.url)
    valkey.pause()
    started = time.monotonic()
    assert until(lambda: not one.broker.status().connected, 12.0)
    assert time.monotonic() - started < 10.0
    valkey.resume()
    assert until(lambda: one.heard.gaps == 2, 12.0)
