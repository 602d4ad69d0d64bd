"""What holds for every broker, whoever is behind it."""

import threading
from collections.abc import Iterator

import pytest

from synckit_notify.brokers import Broker, Disconnect, Gap, Message, Notice, connect

from ..support.brokers import Process
from ..support.valkey import Valkey
from ..support.wait import until

MESSAGES: list[Message] = [Notice("notes", "alice", "laptop", 5.0, 4.0), Disconnect("notes", "alice", "phone"), Gap()]


@pytest.fixture(params=["memory", "redis"])
def any_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("valkey").url
    broker = connect(url)
    yield broker
    broker.close()


def test_its_name_is_that_of_its_scheme(any_broker: Broker) -> None:
    assert any_broker.name in ("memory", "redis")


def test_once_it_is_started_it_hears_itself_and_nothing_waits(any_broker: Broker) -> None:
    process = Process(any_broker)
    for message in MESSAGES:
        any_broker.publish(message)
    assert until(lambda: process.ready() and any_broker.status().pending == 0)
    assert any_broker.status().invalid == 0


def test_what_a_process_publishes_does_not_come_back_to_it(any_broker: Broker) -> None:
    process = Process(any_broker)
    assert until(process.ready)
    gaps = process.heard.gaps
    for message in MESSAGES:
        any_broker.publish(message)
    assert until(lambda: any_broker.status().pending == 0)
    any_broker.close()
    assert (process.heard.messages, process.heard.gaps) == ([], gaps)


def test_it_publishes_without_being_started(any_broker: Broker) -> None:
    any_broker.publish(MESSAGES[0])
    assert until(lambda: any_broker.status().pending == 0)


def test_after_close_it_keeps_no_thread_and_publishes_nothing(any_broker: Broker) -> None:
    before = threading.active_count()
    Process(any_broker)
    any_broker.publish(MESSAGES[0])
    any_broker.close()
    any_broker.close()
    any_broker.publish(MESSAGES[0])
    assert until(lambda: threading.active_count() == before)
    assert any_broker.status().pending == 0


def test_it_may_be_made_and_closed_without_any_use(valkey: Valkey) -> None:
    before = threading.active_count()
    for url in ("memory://", valkey.url):
        connect(url).close()
    assert threading.active_count() == before
