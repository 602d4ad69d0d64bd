"""The brokers between processes while all is well: every process hears every other, once, and no stranger."""

import logging
import time

import pytest

from synckit_notify.brokers import Disconnect, Gap, Message, Notice, connect
from synckit_notify.brokers.messages import MAX_ID_LENGTH
from synckit_notify.errors import ConfigurationError

from ..support.broker_servers import Server
from ..support.brokers import QUICK, Heard, MakeBroker, MakeProcess
from ..support.threads import package_threads
from ..support.wait import until

ALICE = Notice("notes", "alice", "laptop", 1790000000.5, 1790000000.25)
BOB = Notice("notes", "bob")


def test_every_kind_of_message_arrives_once_in_every_other_process(server: Server, process: MakeProcess) -> None:
    laptop, others = process(server.url), [process(server.url), process(server.url)]
    sent: list[Message] = [ALICE, Disconnect("notes", "alice"), Disconnect("notes", "alice", "phone"), BOB]
    for message in sent:
        laptop.broker.publish(message)
    assert until(lambda: all(len(other.heard.messages) == len(sent) for other in others))
    assert [other.heard.messages for other in others] == [sent, sent]
    assert laptop.heard.messages == []


def test_messages_and_gaps_come_from_the_listeners_thread(server: Server, process: MakeProcess) -> None:
    one, other = process(server.url), process(server.url)
    assert (one.heard.gaps, one.broker.status().gaps) == (server.first_gaps, server.first_gaps)
    other.broker.publish(ALICE)
    assert until(lambda: one.heard.messages == [ALICE])
    assert one.heard.threads == {"synckit-listen"}


def test_a_gap_of_another_process_is_one_here(server: Server, process: MakeProcess) -> None:
    one, other = process(server.url), process(server.url)
    other.broker.publish(Gap())
    assert until(lambda: one.heard.gaps == server.first_gaps + 1)
    assert one.broker.status().gaps == one.heard.gaps


def test_namespaces_separate_services(server: Server, process: MakeProcess) -> None:
    one, same, foreign = process(server.url), process(server.url), process(server.url, "staging")
    one.broker.publish(ALICE)
    assert until(lambda: same.heard.messages == [ALICE])
    one.broker.publish(BOB)
    assert until(lambda: same.heard.messages == [ALICE, BOB])
    assert foreign.heard.messages == []


@pytest.mark.parametrize("namespace", ['a "quoted" name', "l\u00e4ngst", "n" * 200])
def test_any_printable_namespace_is_used(namespace: str, server: Server, process: MakeProcess) -> None:
    one, same = process(server.url, namespace), process(server.url, namespace)
    foreign = process(server.url, namespace + "2")
    one.broker.publish(ALICE)
    assert until(lambda: same.heard.messages == [ALICE])
    assert foreign.heard.messages == []


def test_the_longest_ids_arrive(server: Server, process: MakeProcess) -> None:
    """Each character takes twelve bytes in JSON."""
    one, other = process(server.url), process(server.url)
    longest = "\U0001f600" * MAX_ID_LENGTH
    sent = Notice(longest, longest, longest, 1790000000.123456, 1790000000.123456)
    one.broker.publish(sent)
    assert until(lambda: other.heard.messages == [sent])


def test_a_process_has_no_connection_before_its_first_use_and_few_afterwards(
    server: Server, broker: MakeBroker
) -> None:
    one = broker(server.url)
    assert server.connections() == 0
    one.publish(ALICE)
    assert until(lambda: one.status().pending == 0)
    one.start(Heard())
    assert until(lambda: one.status().echo)
    for number in range(20):
        one.publish(Notice("notes", str(number)))
        assert until(lambda: one.status().pending == 0)
    assert server.connections() == server.connections_each
    one.close()
    assert until(lambda: server.connections() == 0)


def test_there_is_a_sending_thread_only_while_something_waits(server: Server, broker: MakeBroker) -> None:
    before, one = package_threads(), broker(server.url)
    one.publish(ALICE)
    assert until(lambda: one.status().pending == 0)
    assert until(lambda: "synckit-send" not in [thread.name for thread in package_threads() - before])


def test_an_invalid_message_is_dropped_counted_and_logged_once(
    server: Server, process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = process(server.url), process(server.url)
    for data in server.malformed:
        server.publish_raw(data)
    other.broker.publish(ALICE)
    count = len(server.malformed)
    assert until(lambda: one.heard.messages == [ALICE] and other.broker.status().invalid == count)
    assert (one.broker.status().invalid, one.broker.status().gaps) == (count, server.first_gaps)
    assert len([record for record in caplog.records if "dropped" in record.message]) == 2  # one of each process


def test_a_receiver_that_raises_does_not_stop_the_listening(
    server: Server, broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Message] = []

    def receive(message: Message) -> None:
        seen.append(message)
        raise RuntimeError("a mistake")

    one, other = broker(server.url), broker(server.url)
    one.start(receive)
    assert until(lambda: one.status().connected)
    other.publish(ALICE)
    other.publish(BOB)
    assert until(lambda: BOB in seen)
    assert one.status().connected
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_slow_receiver_does_not_lose_the_connection(server: Server, broker: MakeBroker) -> None:
    """The lateness is ours: a PONG that has come is not looked for in vain."""
    one, other, seen = broker(server.url, timing=QUICK._replace(answer=0.3)), broker(server.url), Heard()

    def receive(message: Message) -> None:
        seen(message)
        time.sleep(0.0 if isinstance(message, Gap) else 0.4)

    one.start(receive)
    assert until(lambda: one.status().echo)
    for number in range(3):
        other.publish(Notice("notes", str(number)))
    assert until(lambda: len(seen.messages) == 3)
    assert until(lambda: one.status().echo)
    assert one.status().gaps == server.first_gaps


def test_an_id_that_receivers_refuse_wakes_every_device_instead(
    server: Server, process: MakeProcess, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = process(server.url), process(server.url)
    one.broker.publish(Notice("notes", "x" * 129))
    assert until(lambda: other.heard.gaps == server.first_gaps + 1)
    one.broker.publish(Notice("notes", "y" * 129))
    assert until(lambda: other.heard.gaps == server.first_gaps + 2)
    assert len([record for record in caplog.records if "128 characters" in record.message]) == 1


def test_a_url_of_another_scheme_is_refused() -> None:
    for url in ("amqp://localhost", "localhost:6379", "redis:localhost", ""):
        with pytest.raises(ConfigurationError, match="SYNCKIT_BROKER_URL"):
            connect(url)
