"""The end of the iteration, asked for by the app: from its own thread, and from another one in real time."""

import threading
import time

import pytest

from synckit_notify.client.errors import NetworkError
from synckit_notify.client.stream import StreamState, SyncNotification, SyncNotifyStream

from .transport import (
    CONNECTED,
    HaveNoToken,
    ScriptOver,
    Story,
    StreamOf,
)

QUIET = StreamOf(CONNECTED)


def test_leaving_the_with_block_closes_the_connection_and_the_iteration() -> None:
    story = Story(QUIET)
    with story.stream as stream:
        assert next(iter(stream)) is SyncNotification.CHANGED
    assert story.session.connections[0].closed
    assert list(stream) == []
    assert (stream.state, stream.reason) == ("closed", "closed by the app")


def test_closing_twice_or_before_the_start_is_fine() -> None:
    story = Story()
    story.stream.close()
    story.stream.close()
    assert list(story.stream) == []


def test_a_stream_that_is_closed_while_it_connects_raises_nothing_more() -> None:
    story = Story(HaveNoToken())
    story.stream._on_state = lambda state, reason: story.stream.close()
    assert list(story.stream) == []


class BlockingConnection:
    """A read that waits for real, until another thread closes."""

    status = 200
    headers = {"content-type": "text/event-stream"}  # noqa: RUF012

    def __init__(self) -> None:
        self._coming = [CONNECTED]
        self._shut = threading.Event()

    def read(self, timeout: float) -> bytes:
        if self._coming:
            return self._coming.pop()
        if self._shut.wait(timeout):
            raise NetworkError("shut down")
        raise TimeoutError

    def text(self) -> str:
        return ""

    def close(self) -> None:
        self._shut.set()


class RealSession:
    """A connect that takes a moment, and then gives what it was made with."""

    def __init__(self, outcome: BlockingConnection | NetworkError, *, takes: float = 0.0) -> None:
        self._outcome = outcome
        self._takes = takes

    def connect(self) -> BlockingConnection:
        time.sleep(self._takes)
        if isinstance(self._outcome, NetworkError):
            raise self._outcome
        return self._outcome

    def refresh(self) -> None:
        raise ScriptOver

    position = None


def close_while_iterating(session: RealSession, *, after: float = 0.2) -> float:
    """Iterate in a thread, close from this one, and return how long the thread lived on."""
    stream = SyncNotifyStream(session, random=lambda: 1.0)
    thread = threading.Thread(target=lambda: list(stream), daemon=True)
    thread.start()
    time.sleep(after)
    closed_at = time.monotonic()
    stream.close()
    thread.join(5)
    assert not thread.is_alive()
    assert stream.state is StreamState.CLOSED
    return time.monotonic() - closed_at


def test_closing_ends_a_read_in_another_thread_within_a_tenth_of_a_second() -> None:
    assert close_while_iterating(RealSession(BlockingConnection())) < 0.5


def test_closing_ends_a_wait_in_another_thread_within_a_tenth_of_a_second() -> None:
    assert close_while_iterating(RealSession(NetworkError("refused"))) < 0.5


def test_closing_while_connecting_closes_the_connection_that_comes_of_it() -> None:
    connection = BlockingConnection()
    assert close_while_iterating(RealSession(connection, takes=0.3)) < 0.3
    with pytest.raises(NetworkError):
        connection._coming.clear() or connection.read(0)
