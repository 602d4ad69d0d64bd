"""Behind a proxy that buffers, the stream polls the position and probes. A fake clock replaces time."""

from itertools import pairwise

import pytest

from synckit_notify.client.errors import NetworkError, NotAuthenticated, ServerError
from synckit_notify.client.stream import StreamState

from ..support.fake_transport import (
    CONNECTED,
    KEEPALIVE,
    AnswerNothing,
    BreakOff,
    HoldBack,
    RefuseConnection,
    RejectWith,
    ScriptOver,
    Silence,
    Story,
    StreamOf,
)

QUIET = StreamOf(CONNECTED)
LOGGED_OUT = NotAuthenticated("the refresh token is used up")


def test_ten_seconds_without_bytes_lead_to_polling() -> None:
    story = Story(HoldBack(), positions=[7])
    assert story.next() == (10, "CHANGED")
    assert (story.stream.state, story.stream.reason) == ("polling", "a proxy buffers the stream")
    assert story.session.connections[0].closed


def test_bytes_in_the_tenth_second_are_early_enough() -> None:
    assert Story(StreamOf(Silence(9.9), CONNECTED)).next() == (9.9, "CHANGED")


def test_a_proxy_that_buffers_the_headers_twice_leads_to_polling() -> None:
    story = Story(AnswerNothing(10), AnswerNothing(10), positions=[7, 8])
    assert story.take(2) == [(10, "CHANGED"), (20.1, "CHANGED")]
    assert story.stream.state is StreamState.POLLING


@pytest.mark.parametrize("seconds", [5, 10])
def test_an_outage_that_ends_during_an_attempt_does_not_lead_to_polling(seconds: float) -> None:
    story = Story(AnswerNothing(seconds), QUIET, positions=[7])
    assert story.take(2) == [(seconds, "CHANGED"), (seconds + 0.1, "CHANGED")]
    assert "polling" not in dict(story.states)


def test_slow_failures_with_a_live_stream_between_them_are_not_added_up() -> None:
    story = Story(AnswerNothing(10), StreamOf(CONNECTED, BreakOff()), AnswerNothing(10), QUIET, positions=[7])
    story.take(3)
    assert "polling" not in dict(story.states)


def test_an_outage_that_outlasts_a_poll_does_not_lead_to_polling() -> None:
    story = Story(AnswerNothing(10), AnswerNothing(10), QUIET, positions=[NetworkError("no answer in time"), 7])
    story.take(2)
    assert "polling" not in dict(story.states)


def test_a_network_that_drops_every_packet_does_not_lead_to_polling() -> None:
    story = Story(AnswerNothing(10), QUIET, positions=[NetworkError("no answer in time")])
    assert story.next() == (10.1, "CHANGED")
    assert "polling" not in dict(story.states)


def test_polling_tells_changed_only_when_the_position_moved() -> None:
    story = Story(HoldBack(), positions=[7, 7, 8, 8, 9], draw=0.5)
    assert story.take(3) == [(10, "CHANGED"), (130, "CHANGED"), (250, "CHANGED")]
    assert story.asked("position") == [10, 70, 130, 190, 250]


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 45), (1.0, 75)])
def test_polls_come_a_quarter_earlier_or_later(draw: float, pause: float) -> None:
    story = Story(HoldBack(), positions=[7, 8], draw=draw)
    assert story.take(2) == [(10, "CHANGED"), (10 + pause, "CHANGED")]


def test_a_live_stream_is_probed_after_five_minutes_then_up_to_thirty() -> None:
    story = Story(*[HoldBack()] * 6, positions=[7], draw=0.5)
    with pytest.raises(ScriptOver):
        story.take(2)
    assert [round((b - a) / 60) for a, b in pairwise(story.asked("connect"))] == [5, 10, 20, 30, 30, 30]


@pytest.mark.parametrize("failure", [HoldBack(), RefuseConnection(), AnswerNothing(), RejectWith(503), RejectWith(429)])
def test_a_probe_that_fails_leaves_it_polling(failure: object) -> None:
    story = Story(HoldBack(), failure, positions=[1, 1, 1, 1, 1, 2], draw=0.5)
    assert [name for _, name in story.take(2)] == ["CHANGED", "CHANGED"]
    assert [state for state, _ in story.states] == ["connecting", "polling"]
    assert len(story.asked("connect")) == 2


def test_a_probe_that_succeeds_ends_polling() -> None:
    story = Story(HoldBack(), StreamOf(CONNECTED, Silence(9), KEEPALIVE), positions=[7], draw=0.5)
    assert story.take(3) == [(10, "CHANGED"), (310, "CHANGED"), (319, "KEEPALIVE")]
    assert [state for state, _ in story.states] == ["connecting", "polling", "connected"]


def test_after_a_successful_probe_a_broken_stream_is_reconnected() -> None:
    story = Story(HoldBack(), StreamOf(CONNECTED, BreakOff()), QUIET, positions=[7])
    story.take(3)
    assert [state for state, _ in story.states][2:] == ["connected", "waiting", "connecting", "connected"]


def test_after_a_successful_stream_the_first_probe_comes_early_again() -> None:
    lived = StreamOf(CONNECTED, Silence(61), KEEPALIVE, BreakOff())
    story = Story(HoldBack(), HoldBack(), lived, HoldBack(), positions=[7], draw=0.5)
    with pytest.raises(ScriptOver):
        story.take(9)
    assert [round((b - a) / 60) for a, b in pairwise(story.asked("connect"))] == [5, 10, 1, 5]


def test_a_probe_comes_no_sooner_than_the_server_says() -> None:
    story = Story(HoldBack(), RejectWith(503, retry_after=900), positions=[7], draw=0.5)
    with pytest.raises(ScriptOver):
        story.take(2)
    assert story.asked("connect") == [0, 310, 310 + 900]


def test_time_asleep_counts_towards_the_next_probe() -> None:
    story = Story(HoldBack(), QUIET, positions=[7])
    story.next()
    story.clock.sleep_machine(3600)
    assert story.take(2) == [(10, "CHANGED"), (10, "CHANGED")]
    assert story.stream.state is StreamState.CONNECTED


def test_a_server_that_is_too_busy_for_the_first_poll_is_connected_to_again() -> None:
    story = Story(HoldBack(), QUIET, positions=[ServerError("busy", status=503, retry_after=7)])
    assert story.next() == (17, "CHANGED")
    assert "polling" not in dict(story.states)


def test_a_401_to_a_probe_refreshes_and_probes_at_once() -> None:
    story = Story(HoldBack(), RejectWith(401), QUIET, positions=[7], refreshes=[None], draw=0.5)
    assert story.take(2) == [(10, "CHANGED"), (310, "CHANGED")]


def test_a_network_error_while_polling_goes_back_to_connecting() -> None:
    story = Story(HoldBack(), QUIET, positions=[7, NetworkError("no route")], draw=0.5)
    assert story.take(2) == [(10, "CHANGED"), (70.6, "CHANGED")]
    assert [state for state, _ in story.states] == ["connecting", "polling", "waiting", "connecting", "connected"]


def test_a_busy_server_is_polled_no_sooner_than_it_says() -> None:
    busy = ServerError("busy", status=503, retry_after=200)
    story = Story(HoldBack(), positions=[7, busy, 8], draw=0.5)
    assert story.take(2) == [(10, "CHANGED"), (270, "CHANGED")]
    assert story.stream.state is StreamState.POLLING


def test_a_refused_poll_is_raised() -> None:
    story = Story(HoldBack(), positions=[ServerError("no such app", status=403)])
    with pytest.raises(ServerError, match="no such app"):
        story.next()
    assert story.stream.state is StreamState.CLOSED


@pytest.mark.parametrize("positions", [[LOGGED_OUT], [7, LOGGED_OUT]])
def test_a_token_lost_while_polling_needs_the_user(positions: list[int | Exception]) -> None:
    story = Story(HoldBack(), positions=positions)
    with pytest.raises(NotAuthenticated):
        story.take(2)
    assert story.stream.state is StreamState.NEEDS_AUTH
    with pytest.raises(ScriptOver):
        story.next()
    assert story.stream.state is StreamState.CONNECTING
