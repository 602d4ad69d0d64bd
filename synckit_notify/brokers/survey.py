"""Ask the processes that share a broker for their open streams: a Question out, a Report of each process back.

Only for commands: it waits. A process listens from its first stream on, so one that never had a stream does not answer.
"""

import secrets
import time
from typing import NamedTuple

from .base import Broker, BrokerStatus, Message, Question, Report

CONNECT_SECONDS = 8.0
"""How long the broker may take to accept the subscription and return a probe."""

ANSWER_SECONDS = 1.0
"""How long to wait for answers: nobody knows how many will come."""

STEP_SECONDS = 0.01


class Survey(NamedTuple):
    """What a command learned through the broker."""

    status: BrokerStatus
    echo_seconds: float
    """How long it took to connect, subscribe and get a probe back."""
    reports: list[Report]
    """Ordered by machine and process."""

    @property
    def connected(self) -> bool:
        """Return whether the broker works in both directions, so that the question was sent."""
        return _works(self.status)


def ask(broker: Broker, seconds: float = ANSWER_SECONDS) -> Survey:
    """Start a broker that was made for this question, ask, and return the answers. The caller closes the broker."""
    question = secrets.token_hex(8)
    found: dict[tuple[str, int, str], Report] = {}  # an answer may arrive twice

    def receive(message: Message) -> None:
        if isinstance(message, Report) and message.question == question:
            found[message.host, message.pid, message.node] = message

    began = time.monotonic()
    broker.start(receive)
    while not _works(broker.status()) and time.monotonic() - began < CONNECT_SECONDS:
        time.sleep(STEP_SECONDS)
    echo_seconds = time.monotonic() - began
    if _works(broker.status()):
        broker.publish(Question(question))
        broker.flush(CONNECT_SECONDS)
        time.sleep(seconds)
    return Survey(broker.status(), echo_seconds, [found[key] for key in sorted(found)])


def _works(status: BrokerStatus) -> bool:
    return status.connected and status.echo
