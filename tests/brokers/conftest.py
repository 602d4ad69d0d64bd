"""Brokers on a real server, and what they heard."""

from collections.abc import Iterator
from typing import Any

import pytest

from synckit_notify.brokers import Broker, connect

from ..support.brokers import MakeBroker, MakeProcess, Process
from ..support.wait import until


@pytest.fixture
def broker() -> Iterator[MakeBroker]:
    """Make brokers that are closed after the test."""
    made: list[Broker] = []

    def make(url: str, namespace: str = "synckit", **options: Any) -> Broker:
        made.append(connect(url, namespace, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def process(broker: MakeBroker) -> MakeProcess:
    """Make brokers that listen, as if in processes of their own, ready to hear each other."""

    def make(url: str, namespace: str = "synckit", **options: Any) -> Process:
        process = Process(broker(url, namespace, **options))
        assert until(process.ready)
        return process

    return make
