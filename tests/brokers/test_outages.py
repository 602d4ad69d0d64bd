"""Whatever happens to a broker: nobody waits for it, it is noticed, and afterwards every stream is woken."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from synckit_notify.brokers import Disconnect, Notice
from synckit_notify.brokers.sender import BATCH

from ..support.broker_servers import RemoteServer, Server
from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess, Process
from ..support.tcp_proxy import Proxy
from ..support.wait import until

pytestmark = pytest.mark.thorough

ALICE, BOB = Notice("notes", "alice"), Notice("notes", "bob")
AT_ONCE = 0.05
"""Seconds; a publish that waited for the broker in any way would take an answer's time, which is twenty times that."""


def publishes_at_once(process: Process, count: int = 50) -> bool:
    """Whether no single publish takes long; the third longest counts, since the machine is busy with other tests."""
    taken = []
    for number in range(count):
        started = time.monotonic()
        process.broker.publish(Notice("notes", str(number)))
        taken.append(time.monotonic() - started)
        time.sleep(0.002)
    return sorted(taken)[-3] < AT_ONCE


S = TypeVar("S", bound=Server)
Outage = Callable[[S, Callable[[], bool]], None]
"""Let a server fail and return, given what tells whether both processes have noticed."""


def killed_and_started_again(server: Server, lost: Callable[[], bool]) -> None:
    server.kill()
    assert until(lost)
    server.start()


def hung_and_resumed(server: RemoteServer, lost: Callable[[], bool]) -> None:
    server.pause()
    assert until(lost)
    server.resume()


def subscribers_killed(server: Server, lost: Callable[[], bool]) -> None:
    server.cut_listeners()
    assert until(lost)


def everybody_killed(server: Server, lost: Callable[[], bool]) -> None:
    server.cut_senders()
    server.cut_listeners()
    assert until(lost)


def assert_recovers(outage: Outage[S], server: S, process: MakeProcess) -> None:
    one, other = process(server.url, timing=QUICK), process(server.url, timing=QUICK)
    both, before = (one, other), server.first_gaps
    outage(server, lambda: all(each.heard.gaps > before or not each.broker.status().connected for each in both))
    assert until(lambda: all(each.heard.gaps > before and each.ready() for each in both))
    assert [each.broker.status().gaps for each in both] == [each.heard.gaps for each in both]
    one.broker.publish(ALICE)
    assert until(lambda: ALICE in other.heard.messages)
    assert one.heard.messages == []


OUTAGES = [killed_and_started_again, subscribers_killed, everybody_killed]


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.__name__)
def test_after_an_outage_every_stream_is_woken_and_receives_again(
    outage: Outage[Server], server: Server, process: MakeProcess
) -> None:
    assert_recovers(outage, server, process)


def test_after_a_server_hung_every_stream_is_woken_and_receives_again(
    remote_server: RemoteServer, process: MakeProcess
) -> None:
    assert_recovers(hung_and_resumed, remote_server, process)


@pytest.mark.parametrize("publisher", ["listens", "only publishes"])
def test_a_notice_of_an_outage_wakes_its_device_afterwards(
    publisher: str, server: Server, broker: MakeBroker, process: MakeProcess
) -> None:
    """By the notice or by a gap, also if the outage was too short for the receiver to notice it."""
    other = process(server.url)
    one = process(server.url).broker if publisher == "listens" else broker(server.url)
    server.kill()
    one.publish(ALICE)
    assert until(lambda: one.status().pending == 1)
    server.start()
    assert until(lambda: other.heard.messages == [ALICE] or other.heard.gaps > server.first_gaps)
    assert until(lambda: one.status().pending == 0)


def test_notices_during_an_outage_are_merged_and_sent_afterwards(
    remote_server: RemoteServer, process: MakeProcess
) -> None:
    one = process(remote_server.url, timing=QUICK)
    remote_server.kill()
    assert until(lambda: not one.broker.status().connected)
    assert (one.broker.status().echo, one.heard.gaps) == (False, 1)
    one.broker.publish(ALICE)
    one.broker.publish(Disconnect("notes", "bob", "phone"))
    one.broker.publish(ALICE)
    assert until(lambda: one.broker.status().pending == 2)
    remote_server.start()
    assert until(lambda: one.ready() and one.broker.status().pending == 0)


def test_a_process_that_only_publishes_sends_after_the_outage(
    remote_server: RemoteServer, broker: MakeBroker, process: MakeProcess, proxy: Proxy
) -> None:
    publisher, other = broker(remote_server.url_at(proxy.port), timing=QUICK), process(remote_server.url)
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


@pytest.mark.parametrize("outage", ["hung", "slow"])
def test_publishing_never_waits(outage: str, remote_server: RemoteServer, process: MakeProcess, proxy: Proxy) -> None:
    one = process(remote_server.url_at(proxy.port), timing=QUICK)
    if outage == "hung":
        remote_server.pause()
    if outage == "slow":
        proxy.delay = 2.0
    assert publishes_at_once(one)
    assert one.broker.status().pending > 0


def test_publishing_never_waits_for_a_server_that_is_gone(server: Server, process: MakeProcess) -> None:
    one = process(server.url, timing=QUICK)
    server.kill()
    assert publishes_at_once(one)
    assert one.broker.status().pending > 0


def test_a_slow_connection_does_not_count_as_lost(
    remote_server: RemoteServer, process: MakeProcess, proxy: Proxy
) -> None:
    """A PONG takes longer than we wait for one, but as long as anything comes there is somebody."""
    one, other = process(remote_server.url_at(proxy.port), timing=QUICK), process(remote_server.url)
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
    remote_server: RemoteServer, process: MakeProcess, proxy: Proxy
) -> None:
    one, other = process(remote_server.url_at(proxy.port), timing=QUICK), process(remote_server.url)
    proxy.cut_in = b'"user":"alice"'
    other.broker.publish(ALICE)
    assert until(lambda: one.heard.gaps == 2 and one.ready())
    other.broker.publish(BOB)
    assert until(lambda: one.heard.messages == [BOB])
    assert one.broker.status().invalid == 0


def test_more_messages_than_can_be_queued_become_one_gap(
    remote_server: RemoteServer, process: MakeProcess, proxy: Proxy
) -> None:
    one, other = process(remote_server.url_at(proxy.port), timing=QUICK, limit=100), process(remote_server.url)
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
    remote_server: RemoteServer,
    second_server: RemoteServer,
    process: MakeProcess,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The old server still answers every ping of the listener, while everybody else has moved to the new one."""
    timing = QUICK._replace(answer=0.5)
    one, other = process(remote_server.url_at(proxy.port), timing=timing), process(second_server.url)
    proxy.to_port = second_server.port
    remote_server.cut_senders()
    assert until(lambda: not one.broker.status().echo)
    assert until(lambda: one.heard.gaps >= 2 and one.ready())
    other.broker.publish(ALICE)
    assert until(lambda: one.heard.messages == [ALICE])
    assert len([record for record in caplog.records if "do not come back" in record.message]) == 1


def test_a_stale_sender_after_a_failover_connects_anew(
    remote_server: RemoteServer, second_server: RemoteServer, process: MakeProcess, proxy: Proxy
) -> None:
    """The listener has moved to the new server; the old one still accepts what this process sends."""
    one, other = process(remote_server.url_at(proxy.port), timing=QUICK), process(second_server.url)
    proxy.to_port = second_server.port
    remote_server.cut_listeners()
    assert until(lambda: not one.broker.status().connected)
    assert until(one.ready)
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


def test_a_server_of_another_kind_counts_as_lost(
    remote_server: RemoteServer, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one, heard = broker(remote_server.url_at(listener.getsockname()[1]), timing=QUICK), Heard()
        one.start(heard)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert until(lambda: "the connection to the broker is lost" in caplog.text)
    assert (one.status().connected, heard.gaps) == (False, 0)


def test_a_broker_that_closes_every_connection_is_retried_with_backoff(
    remote_server: RemoteServer, process: MakeProcess
) -> None:
    """Each new subscription wakes every device, so the pauses grow even though every single one succeeds."""
    one = process(remote_server.url)
    for gaps in (1, 2, 3):
        assert until(lambda gaps=gaps: one.heard.gaps > gaps - 1)
        remote_server.cut_listeners()
    assert until(lambda: one.heard.gaps >= 4)
    first, second, third, fourth = one.heard.gap_times[:4]
    assert fourth - third > second - first


def test_with_the_real_periods_a_broker_that_hangs_is_lost_within_ten_seconds(
    remote_server: RemoteServer, process: MakeProcess
) -> None:
    one = process(remote_server.url)
    remote_server.pause()
    started = time.monotonic()
    assert until(lambda: not one.broker.status().connected, 12.0)
    assert time.monotonic() - started < 10.0
    remote_server.resume()
    assert until(lambda: one.heard.gaps == 2, 12.0)
