"""The promises of every broker."""

import threading
from collections.abc import Iterator

import pytest

from synckit_notify.brokers import Broker, Disconnect, Gap, Message, Notice, connect

from ..support.broker_servers import ENGINES, Server
from ..support.brokers import Process
from ..support.wait import until

MESSAGES: list[Message] = [Notice("notes", "alice", "laptop", 5.0, 4.0), Disconnect("notes", "alice", "phone"), Gap()]


@pytest.fixture(params=["memory", *ENGINES])
def any_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue(f"{request.param}_server").url
    broker = connect(url)
    yield broker
    broker.close()


def test_the_name_of_a_broker_is_its_url_scheme(any_broker: Broker) -> None:
    assert any_broker.name in ("memory", *ENGINES)


def test_a_started_broker_receives_its_own_probe_and_has_nothing_queued(any_broker: Broker) -> None:
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


def test_a_broker_publishes_without_being_started(any_broker: Broker) -> None:
    any_broker.publish(MESSAGES[0])
    assert until(lambda: any_broker.status().pending == 0)


def test_after_close_it_keeps_no_thread_and_publishes_nothing(any_broker: Broker) -> None:
    before = set(threading.enumerate())
    Process(any_broker)
    any_broker.publish(MESSAGES[0])
    any_broker.close()
    any_broker.close()
    any_broker.publish(MESSAGES[0])
    assert until(lambda: set(threading.enumerate()) <= before)
    assert any_broker.status().pending == 0


def test_a_broker_may_be_created_and_closed_unused(server: Server) -> None:
    before = set(threading.enumerate())
    for url in ("memory://", server.url):
        connect(url).close()
    assert set(threading.enumerate()) <= before
