"""The app closes a stream: from its own thread, and from another one in real time."""

import socket
import threading
import time

import pytest

from synckit_notify.client.errors import NetworkError, ServerError
from synckit_notify.client.models import Account
from synckit_notify.client.session import Session
from synckit_notify.client.state import State, Tokens
from synckit_notify.client.stream import StreamState, SyncNotification, SyncNotifyStream

from ..support.blocking_session import BlockingConnection, RealSession
from ..support.fake_transport import CONNECTED, HaveNoToken, Story, StreamOf

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


class ExpiredSession(RealSession):
    """The token is refused, and its renewal blocks."""

    def connect(self) -> BlockingConnection:
        refused = BlockingConnection()
        refused.status = 401
        return refused


def close_while_iterating(session: RealSession, *, after: float = 0.2) -> float:
    """Iterate in a thread, close from this one, and return how many seconds later the thread ended."""
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


@pytest.mark.parametrize("kind", [RealSession, ExpiredSession])
def test_closing_does_not_wait_for_a_connect_or_a_refresh(kind: type[RealSession]) -> None:
    session = kind(BlockingConnection(), blocks=True)
    assert close_while_iterating(session) < 0.5
    session.release()


def test_a_connection_that_arrives_after_closing_is_closed() -> None:
    connection = BlockingConnection()
    session = RealSession(connection, blocks=True)
    close_while_iterating(session)
    session.release()
    assert connection.shut.wait(5)


def test_an_error_after_closing_is_discarded() -> None:
    session = RealSession(ServerError("no such app", status=403), blocks=True)
    close_while_iterating(session)
    session.release()


def test_closing_a_client_ends_its_calls_and_its_stream_where_a_server_accepts_and_never_answers() -> None:
    """A machine that swaps behaves like this, or a firewall that accepts connections for it."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        state = State.open(None)
        session = Session(f"http://127.0.0.1:{deaf.getsockname()[1]}", "the-api-key", state)
        state.log_in(Account("alice", "notes"), Tokens("access", "refresh", 3600.0, time.time()))
        errors: list[Exception] = []

        def call() -> None:
            try:
                session.call("GET", "/api/sync/status", idempotent=True)
            except NetworkError as error:
                errors.append(error)

        stream = SyncNotifyStream(session)
        threads = [threading.Thread(target=work, daemon=True) for work in (call, lambda: list(stream))]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        closed_at = time.monotonic()
        stream.close()
        threads[1].join(5)
        stream_ended = time.monotonic() - closed_at
        session.close()
        threads[0].join(5)
        assert not any(thread.is_alive() for thread in threads)
        assert stream_ended < 0.5
        assert time.monotonic() - closed_at < 1.0
        assert [str(error) for error in errors] == ["the client is closed"]
        state.close()
