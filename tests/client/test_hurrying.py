"""What shortens a wait: another request that was answered, and an app that knows that the network is back.

The rules are told by a Lifecycle alone; that a thread which waits hears of it, by a real one.
"""

import contextlib
import threading
import time
from collections.abc import Callable

import httpx2
import pytest

from synckit_notify import sse
from synckit_notify.client.errors import NetworkError, ServerError, SyncKitError
from synckit_notify.client.lifecycle import Action, Lifecycle
from synckit_notify.client.schedule import MAX_HURRIED_SECONDS, RetryPolicy
from synckit_notify.client.session import Session
from synckit_notify.client.state import State
from synckit_notify.client.stream import StreamState, SyncNotifyStream

from ..support.fake_transport import EVENT_STREAM
from ..support.scripted_server import STATUS, Answer, Busy, FakeClock, LoseAnswer, Refuse, Script, logged_in

NOW = 1000.0


class Rules(Lifecycle):
    """A lifecycle whose next draw is set by the test."""

    def __init__(self) -> None:
        self.draw = 1.0
        self.states: list[tuple[str, str]] = []
        super().__init__(
            lambda state, reason: self.states.append((str(state), reason)),
            policy=RetryPolicy(),
            random=lambda: self.draw,
        )

    def refuse(self, status: int, retry_after: int, now: float = NOW) -> None:
        self.answered(status, {"retry-after": str(retry_after)}, "", now, now)

    def live(self, now: float) -> None:
        self.answered(200, EVENT_STREAM, "", now, now)
        self.received([sse.Comment("connected")], now)


@pytest.fixture
def rules() -> Rules:
    """Deep in a backoff: the next attempt is due in a minute."""
    made = Rules()
    for _ in range(8):
        made.lost("refused", NOW)
    assert made.at == NOW + 60.1
    return made


@pytest.mark.parametrize("draw", [0.02, 0.5, 1.0])
def test_a_request_that_succeeds_makes_a_waiting_stream_try_within_ten_seconds(rules: Rules, draw: float) -> None:
    rules.draw = draw
    rules.request_succeeded(NOW + 5, NOW + 5)
    assert (rules.action, rules.at) == (Action.CONNECT, NOW + 5 + draw * MAX_HURRIED_SECONDS)
    assert rules.states[-1] == ("waiting", f"the server answers requests; next attempt in {10 * draw:.1f} s")


def test_ten_seconds_from_the_request_even_if_the_stream_hears_of_it_later(rules: Rules) -> None:
    rules.request_succeeded(NOW + 5, NOW + 14)
    assert rules.at == NOW + 15


def test_a_renewal_that_waits_is_hurried_too(rules: Rules) -> None:
    rules.lost("no answer", NOW, action=Action.REFRESH)
    rules.request_succeeded(NOW + 5, NOW + 5)
    assert (rules.action, rules.at) == (Action.REFRESH, NOW + 15)


def test_many_requests_make_one_attempt_and_the_next_wait_may_be_hurried_again(rules: Rules) -> None:
    rules.request_succeeded(NOW, NOW)
    rules.draw = 0.0
    rules.request_succeeded(NOW + 1, NOW + 1)
    assert rules.at == NOW + 10
    rules.lost("refused", NOW + 10)
    rules.request_succeeded(NOW + 11, NOW + 11)
    assert rules.at < NOW + 12


def test_a_wait_that_is_over_sooner_stays_as_it_is(rules: Rules) -> None:
    rules.request_succeeded(NOW + 55, NOW + 55)
    assert rules.at == NOW + 60.1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("hurry", [lambda rules: rules.request_succeeded(NOW, NOW), lambda rules: rules.retry_now(NOW)])
def test_a_retry_after_is_obeyed_whatever_succeeds(rules: Rules, status: int, hurry: Callable[[Rules], None]) -> None:
    rules.refuse(status, retry_after=40)
    rules.draw = 0.0
    hurry(rules)
    assert rules.at == NOW + 40


def test_a_retry_of_a_drain_is_obeyed_too(rules: Rules) -> None:
    rules.live(NOW)
    rules.received([sse.Retry(5000), sse.Comment("bye draining")], NOW + 100)
    rules.draw = 0.0
    rules.request_succeeded(NOW + 100, NOW + 100)
    assert rules.at >= NOW + 105


def test_a_stream_that_lives_or_polls_or_needs_the_user_is_not_hurried() -> None:
    living, polling, lonely = Rules(), Rules(), Rules()
    living.live(NOW)
    polling.connect_failed("no answer", NOW, took=10.0)
    polling.connect_failed("no answer", NOW, took=10.0)
    polling.polled(("epoch", 7), NOW)
    lonely.needs_auth("log in first")
    for each in living, polling, lonely:
        before = each.action, each.at
        each.request_succeeded(NOW + 1, NOW + 1)
        assert (each.action, each.at) == before


def test_retry_now_tries_at_once(rules: Rules) -> None:
    rules.retry_now(NOW + 5)
    assert (rules.action, rules.at) == (Action.CONNECT, NOW + 5)


def test_retry_now_again_and_again_is_an_attempt_a_second(rules: Rules) -> None:
    rules.connect_failed("no route", NOW + 5, took=0.0)
    rules.retry_now(NOW + 5.2)
    assert rules.at == NOW + 6


def test_retry_now_replaces_a_stream_of_the_network_before_and_says_changed(rules: Rules) -> None:
    rules.live(NOW)
    rules.notices.take(NOW + 10)
    rules.retry_now(NOW + 100)
    assert (rules.action, rules.at, rules.notices.due_at) == (Action.CONNECT, NOW + 100, NOW + 100)


def test_retry_now_leaves_a_stream_alone_that_has_only_just_come(rules: Rules) -> None:
    rules.live(NOW)
    rules.retry_now(NOW + 1)
    assert rules.action is Action.READ


def test_retry_now_probes_where_a_proxy_held_the_stream_back() -> None:
    rules = Rules()
    for _ in range(2):
        rules.connect_failed("no answer", NOW, took=10.0)
    rules.polled(("epoch", 7), NOW)
    rules.retry_now(NOW + 5)
    assert (rules.action, rules.at) == (Action.CONNECT, NOW + 5)


# What counts as success.


class Listener:
    """Counts."""

    def __init__(self) -> None:
        self.told = 0

    def request_succeeded(self) -> None:
        self.told += 1


def test_what_a_server_answers_to_a_request_is_told_to_its_streams_and_a_refusal_is_not() -> None:
    state, clock, listener = State.open(None), FakeClock(), Listener()
    logged_in(state, clock)
    steps = [Answer({}), Busy(90), Refuse(503, retry_after="90"), Refuse(404), LoseAnswer(), LoseAnswer(), Answer({})]
    http = httpx2.Client(transport=Script({STATUS: list(steps)}))
    session = Session("http://server", "the-api-key", state, http=http, clock=clock.time, wait=clock.wait)
    session.watch(listener)  # type: ignore[arg-type]
    told = []
    for _ in range(5):
        with contextlib.suppress(SyncKitError):
            session.call("GET", STATUS, idempotent=True)
        told.append(listener.told)
    assert told == [1, 1, 1, 1, 2]  # the last call was answered at its third attempt
    session.close()
    state.close()


def test_a_session_keeps_no_stream_alive() -> None:
    state = State.open(None)
    session, listener = Session("http://server", "the-api-key", state), Listener()
    session.watch(listener)  # type: ignore[arg-type]
    del listener
    assert list(session._streams) == []
    session.close()
    state.close()


# A thread that waits.


class Refusing:
    """Refuses connections, and counts them."""

    def __init__(self) -> None:
        self.connects = 0

    def connect(self):
        self.connects += 1
        raise NetworkError("connection refused")

    def refresh(self) -> None:
        raise ServerError("not asked for", status=500)

    position = None

    def watch(self, stream: SyncNotifyStream) -> None:
        pass


@pytest.mark.parametrize("hurry", [SyncNotifyStream.retry_now, SyncNotifyStream.request_succeeded])
def test_a_thread_that_waits_for_a_minute_tries_soon(hurry: Callable[[SyncNotifyStream], None]) -> None:
    session, draws = Refusing(), iter([1.0])
    waiting = threading.Event()
    stream = SyncNotifyStream(
        session,
        on_state=lambda state, reason: state is StreamState.WAITING and waiting.set(),
        policy=RetryPolicy(base=60.0),
        random=lambda: next(draws, 0.1),
    )
    thread = threading.Thread(target=lambda: list(stream), daemon=True)
    thread.start()
    assert waiting.wait(5)
    began = time.monotonic()
    hurry(stream)
    while session.connects < 2 and time.monotonic() < began + 10:
        time.sleep(0.01)
    assert session.connects >= 2
    assert time.monotonic() - began < 5
    stream.close()
    thread.join(5)
    assert not thread.is_alive()
