"""For the tests of an app: a SyncKit server in memory, with faults on demand. It opens no socket and needs no Flask.

    from synckit_notify.client.testing import FakeServer, LoseAnswer

    server = FakeServer()
    laptop, phone = server.client("Laptop", encrypt=False), server.client("Phone", encrypt=False)
    server.next(LoseAnswer(), path="/api/sync/push")
    laptop.push([...])                       # repeated by the SDK, and stored once
    assert [change.row_id for change in phone.pull()] == ["task-1"]

Status codes, bodies and error messages are those of the included backend: docs/vectors/ has the exchanges that the
tests run against both. It has no limits of rate and of open streams, and no log modes: every log serves `latest`.
"""

from .clock import FakeClock
from .faults import Delay, DropConnection, Fault, LoseAnswer, Refuse
from .server import API_KEY, EMAIL, PASSWORD, URL, ClientArguments, FakeServer

__all__ = [
    "API_KEY",
    "EMAIL",
    "PASSWORD",
    "URL",
    "ClientArguments",
    "Delay",
    "DropConnection",
    "FakeClock",
    "FakeServer",
    "Fault",
    "LoseAnswer",
    "Refuse",
]
