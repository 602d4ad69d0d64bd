"""A wait is shortened by another request that was answered, and by an app that reports that the network changed.

The rules are tested with a Lifecycle alone, the wake-up of a waiting thread with a real stream.
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
from synckit_notify.client.schedule import MAX_SHORTENED_SECONDS, RetryPolicy
from synckit_notify.client.session import Session
from synckit_notify.client.state import State
from synckit_notify.client.stream import StreamState, SyncNotifyStream

from ..support.fake_transport import EVENT_STREAM
from ..support.scripted_server import STATUS, Answer, Busy, FakeClock, LoseAnswer, Refuse, Script, logged_in

NOW = 1000.0
SHORTENERS = (lambda rules: rules.request_succeeded(NOW, NOW), lambda rules: rules.retry_now(NOW))


class Rules(Lifecycle):
    """A lifecycle whose random number is set by the test."""

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
    """Rules after many failures: the next attempt is due in a minute."""
    made = Rules()
    for _ in range(8):
        made.lost("refused", NOW)
    assert made.at == NOW + 60.1
    return made


@pytest.mark.parametrize("draw", [0.02, 0.5, 1.0])
def test_a_request_that_succeeds_makes_a_waiting_stream_try_within_ten_seconds(rules: Rules, draw: float) -> None:
    rules.draw = draw
    rules.request_succeeded(NOW + 5, NOW + 5)
    assert (rules.action, rules.at) == (Action.CONNECT, NOW + 5 + draw * MAX_SHORTENED_SECONDS)
    assert rules.states[-1] == ("waiting", f"the server answers requests; next attempt in {10 * draw:.1f} s")


def test_the_ten_seconds_count_from_the_request(rules: Rules) -> None:
    rules.request_succeeded(NOW + 5, NOW + 14)
    assert rules.at == NOW + 15


def test_a_scheduled_renewal_is_moved_forward_too(rules: Rules) -> None:
    rules.lost("no answer", NOW, action=Action.REFRESH)
    rules.request_succeeded(NOW + 5, NOW + 5)
    assert (rules.action, rules.at) == (Action.REFRESH, NOW + 15)


def test_many_requests_shorten_one_wait_once_and_the_next_wait_again(rules: Rules) -> None:
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
@pytest.mark.parametrize("shorten", SHORTENERS)
def test_a_retry_after_is_obeyed_whatever_succeeds(rules: Rules, status: int, shorten: Callable[[Rules], None]) -> None:
    rules.refuse(status, retry_after=40)
    rules.draw = 0.0
    shorten(rules)
    assert rules.at == NOW + 40


def test_a_retry_of_a_drain_is_obeyed_too(rules: Rules) -> None:
    rules.live(NOW)
    rules.received([sse.Retry(5000), sse.Comment("bye draining")], NOW + 100)
    rules.draw = 0.0
    rules.request_succeeded(NOW + 100, NOW + 100)
    assert rules.at >= NOW + 105


def test_a_live_or_polling_stream_or_one_that_needs_the_user_does_not_change() -> None:
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


def test_repeated_retry_now_connects_once_a_second(rules: Rules) -> None:
    rules.connect_failed("no route", NOW + 5, took=0.0)
    rules.retry_now(NOW + 5.2)
    assert rules.at == NOW + 6


def test_retry_now_replaces_a_stream_of_the_old_network_and_yields_changed(rules: Rules) -> None:
    rules.live(NOW)
    rules.notices.take(NOW + 10)
    rules.retry_now(NOW + 100)
    assert (rules.action, rules.at, rules.notices.due_at) == (Action.CONNECT, NOW + 100, NOW + 100)


def test_retry_now_keeps_a_stream_that_was_just_opened(rules: Rules) -> None:
    rules.live(NOW)
    rules.retry_now(NOW + 1)
    assert rules.action is Action.READ


def test_retry_now_probes_while_polling() -> None:
    rules = Rules()
    for _ in range(2):
        rules.connect_failed("no answer", NOW, took=10.0)
    rules.polled(("epoch", 7), NOW)
    rules.retry_now(NOW + 5)
    assert (rules.action, rules.at) == (Action.CONNECT, NOW + 5)


# What counts as success.


class Listener:
    """Counts successful requests."""

    def __init__(self) -> None:
        self.told = 0

    def request_succeeded(self) -> None:
        self.told += 1


def test_a_successful_request_shortens_the_streams_waits_and_a_refused_one_does_not() -> None:
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


@pytest.mark.parametrize("shorten", [SyncNotifyStream.retry_now, SyncNotifyStream.request_succeeded])
def test_a_stream_that_waits_for_a_minute_reconnects_soon(shorten: Callable[[SyncNotifyStream], None]) -> None:
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
    shorten(stream)
    while session.connects < 2 and time.monotonic() < began + 10:
        time.sleep(0.01)
    assert session.connects >= 2
    assert time.monotonic() - began < 5
    stream.close()
    thread.join(5)
    assert not thread.is_alive()
