"""Reconnection: after which wait, with which token, and when not. A fake clock replaces time."""

from itertools import pairwise

import pytest

from synckit_notify import sse
from synckit_notify.client.errors import NetworkError, NotAuthenticated, ServerError, SyncKitError
from synckit_notify.client.stream import StreamState

from ..support.fake_transport import (
    CONNECTED,
    KEEPALIVE,
    BreakOff,
    Bye,
    EndCleanly,
    HaveNoToken,
    RefuseConnection,
    RejectWith,
    ScriptOver,
    Silence,
    Story,
    StreamOf,
)

QUIET = StreamOf(CONNECTED)
MINUTE_LONG = (CONNECTED, Silence(30), KEEPALIVE, Silence(30), KEEPALIVE)
REFUSED = NotAuthenticated("the refresh token is used up")


def keepalives(seconds: float) -> list[object]:
    """Return what a server sends in this many seconds, without an end."""
    said: list[object] = []
    for _ in range(int(seconds // 30)):
        said += [Silence(30), KEEPALIVE]
    return [*said, Silence(seconds % 30)]


def hear(story: Story, changed: int) -> None:
    """Iterate until this many CHANGED were yielded."""
    told = 0
    while told < changed:
        told += story.next()[1] == "CHANGED"


def pauses(moments: list[float]) -> list[float]:
    """Return the seconds between each moment and the next."""
    return [round(later - earlier, 6) for earlier, later in pairwise(moments)]


# Backoff.


def test_the_backoff_doubles_up_to_a_minute() -> None:
    story = Story(*[RefuseConnection()] * 9, QUIET, draw=1.0)
    story.next()
    assert pauses(story.asked("connect")) == [1.1, 2.1, 4.1, 8.1, 16.1, 32.1, 60.1, 60.1, 60.1]


@pytest.mark.parametrize(("life", "wait"), [(10, 0.8), (20, 1.6), (59, 4.72), (63, 5.0), (3600, 5.0)])
def test_after_a_stream_of_ten_seconds_one_attempt_follows_soon_and_the_backoff_is_reset(
    life: float, wait: float
) -> None:
    lived = StreamOf(CONNECTED, *keepalives(life), BreakOff())
    story = Story(*[RefuseConnection()] * 5, lived, RefuseConnection(), QUIET, draw=1.0)
    story.next()
    broke_at = story.clock.now + life
    hear(story, 1)
    assert story.asked("connect")[-2:] == pytest.approx([broke_at + 0.1 + wait, broke_at + 0.1 + wait + 1.1])


def test_a_shorter_stream_continues_the_backoff() -> None:
    short = StreamOf(CONNECTED, Silence(9.9), BreakOff())
    story = Story(*[RefuseConnection()] * 5, short, QUIET, draw=1.0)
    story.next()
    broke_at = story.clock.now + 9.9
    story.next()
    assert story.asked("connect")[-1] == pytest.approx(broke_at + 32.1)


@pytest.mark.parametrize("life", [1, 9])
def test_after_a_bye_one_attempt_follows_soon_however_short_the_stream_was(
    life: float,
) -> None:
    told = StreamOf(CONNECTED, Silence(life), Bye("max_age"), EndCleanly())
    story = Story(*[RefuseConnection()] * 5, told, QUIET, draw=1.0)
    story.next()
    ended_at = story.clock.now + life
    story.next()
    assert story.asked("connect")[-1] == pytest.approx(ended_at + 0.1 + 0.08 * life)


def test_a_server_that_sends_bye_on_every_connect_is_backed_off() -> None:
    story = Story(*[StreamOf(CONNECTED + Bye("max_age"), EndCleanly())] * 5, draw=1.0)
    with pytest.raises(ScriptOver):
        story.take(9)
    assert pauses(story.asked("connect")) == [1.1, 2.1, 4.1, 8.1, 16.1]


@pytest.mark.parametrize("life", [5, 3600])
def test_a_drain_keeps_its_own_retry(life: float) -> None:
    drained = StreamOf(CONNECTED, *keepalives(life), sse.retry(3000) + Bye("draining"), EndCleanly())
    story = Story(drained, QUIET, draw=1.0)
    hear(story, 2)
    assert story.asked("connect") == pytest.approx([0, life + 3 + 1])


def test_the_silence_before_a_timeout_does_not_count_as_lifetime() -> None:
    story = Story(*[QUIET] * 4, draw=1.0)
    story.take(4)
    assert pauses(story.asked("connect")) == [76.1, 77.1, 79.1]


def test_retry_raises_the_floor() -> None:
    story = Story(StreamOf(CONNECTED, sse.retry(4000), BreakOff()), QUIET, draw=0.5)
    assert [story.next(), story.next()][1] == (4.0 + 0.5 + 1.0, "CHANGED")


def test_an_absurd_retry_is_bounded() -> None:
    story = Story(StreamOf(CONNECTED, sse.retry(900_000_000), BreakOff()), QUIET)
    assert story.take(2)[1] == (60, "CHANGED")


def test_a_living_stream_forgets_the_retry_of_one_before() -> None:
    story = Story(StreamOf(CONNECTED, sse.retry(9000), BreakOff()), StreamOf(*MINUTE_LONG, BreakOff()), QUIET)
    assert [at for at, _ in story.take(5)] == pytest.approx([0, 9, 39, 69, 69.1])


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    assert Story(RejectWith(status, retry_after=7), QUIET).next() == (7, "CHANGED")


def test_retry_after_may_be_a_date_by_the_servers_clock() -> None:
    dates = {"retry_after": "Wed, 21 Oct 2026 07:28:40 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert Story(RejectWith(503, **dates), QUIET).next() == (40, "CHANGED")


def test_retry_after_is_bounded() -> None:
    assert Story(RejectWith(503, retry_after=10**9), QUIET).next() == (900, "CHANGED")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_a_temporary_error_is_retried(status: int) -> None:
    story = Story(RejectWith(status, "try later"), QUIET)
    assert story.next() == (0.1, "CHANGED")
    assert ("waiting", "try later; next attempt in 0.1 s") in story.states


def test_a_redirect_is_not_followed_and_is_retried() -> None:
    story = Story(RejectWith(302), QUIET)
    story.next()
    assert ("waiting", "the server answered 302; next attempt in 0.1 s") in story.states


def test_an_answer_of_the_wrong_type_is_tried_again() -> None:
    story = Story(StreamOf(b"<html>hotel wifi</html>", content_type="text/html"), QUIET)
    assert story.next() == (0.1, "CHANGED")
    assert story.session.connections[0].closed


@pytest.mark.parametrize("end", [(EndCleanly(),), (Bye("draining"), EndCleanly()), (Bye("max_age"), EndCleanly())])
@pytest.mark.parametrize("draw", [0.0, 0.7])
def test_a_clean_end_reconnects_after_a_short_random_delay_never_at_once(end: tuple[object, ...], draw: float) -> None:
    story = Story(StreamOf(*MINUTE_LONG, *end), QUIET, draw=draw)
    story.take(4)
    assert story.asked("connect") == pytest.approx([0, 60.1 + 0.08 * 60 * draw])


def test_a_drain_before_the_first_message_is_not_a_connect() -> None:
    story = Story(StreamOf(sse.retry(2000) + Bye("draining"), EndCleanly()), QUIET)
    assert story.next() == (2, "CHANGED")


def test_streams_that_end_at_once_back_off() -> None:
    story = Story(*[StreamOf(EndCleanly())] * 4, QUIET, draw=1.0)
    story.next()
    assert story.asked("connect") == pytest.approx([0, 1.1, 3.2, 7.3, 15.4])


def test_status_204_closes_the_stream() -> None:
    story = Story(RejectWith(204), QUIET)
    for _ in range(2):
        with pytest.raises(StopIteration):
            story.next()
    assert (story.stream.state, story.stream.reason) == ("closed", "the server ended the subscription (204)")


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410])
def test_a_permanent_refusal_is_raised_at_once_with_the_servers_message(status: int) -> None:
    story = Story(RejectWith(status, "the token is for another app"), QUIET)
    with pytest.raises(ServerError, match="the token is for another app") as caught:
        story.next()
    assert (caught.value.status, story.clock.now, story.stream.state) == (status, 0, StreamState.CLOSED)
    assert story.session.connections[0].closed
    with pytest.raises(StopIteration):
        story.next()


# Tokens.


def test_401_refreshes_once_and_reconnects() -> None:
    story = Story(RejectWith(401), QUIET, refreshes=[None])
    assert story.next() == (0, "CHANGED")
    assert [what for _, what in story.session.asked] == ["connect", "refresh", "connect"]


@pytest.mark.parametrize("reason", ["token_expired", "revoked"])
def test_a_bye_about_the_token_refreshes_and_reconnects_at_once(reason: str) -> None:
    story = Story(StreamOf(CONNECTED, Silence(5), Bye(reason), EndCleanly()), QUIET, refreshes=[None])
    assert story.take(2) == [(0, "CHANGED"), (5, "CHANGED")]
    assert ("connecting", f"bye {reason}") in story.states


def test_401_right_after_a_refresh_needs_the_user() -> None:
    story = Story(RejectWith(401), RejectWith(401), refreshes=[None])
    with pytest.raises(NotAuthenticated):
        story.next()
    assert story.stream.state is StreamState.NEEDS_AUTH


def test_401_right_after_a_refresh_needs_the_user_even_with_other_failures_between() -> None:
    story = Story(RejectWith(401), RejectWith(503), RefuseConnection(), RejectWith(401), refreshes=[None])
    with pytest.raises(NotAuthenticated):
        story.next()


def test_401_long_after_a_refresh_refreshes_again() -> None:
    outage = RejectWith(503, retry_after=300)
    assert Story(RejectWith(401), outage, RejectWith(401), QUIET, refreshes=[None, None]).next() == (300, "CHANGED")


def test_401_after_the_new_token_has_worked_refreshes_again() -> None:
    worked = StreamOf(CONNECTED, BreakOff())
    story = Story(RejectWith(401), worked, RejectWith(401), QUIET, refreshes=[None, None])
    assert [name for _, name in story.take(2)] == ["CHANGED", "CHANGED"]


def test_401_after_a_sleep_refreshes_again() -> None:
    story = Story(RejectWith(401), RejectWith(503), RejectWith(401), QUIET, refreshes=[None, None])
    story.clock.nap = 3600
    assert [name for _, name in story.take(2)] == ["CHANGED", "CHANGED"]


def test_a_refused_refresh_needs_the_user() -> None:
    story = Story(RejectWith(401), refreshes=[REFUSED])
    with pytest.raises(NotAuthenticated, match="used up"):
        story.next()
    assert (story.stream.state, story.stream.reason) == ("needs_auth", "the refresh token is used up")


def test_no_token_at_all_needs_the_user() -> None:
    story = Story(HaveNoToken())
    with pytest.raises(NotAuthenticated, match="log in first"):
        story.next()
    assert story.stream.state is StreamState.NEEDS_AUTH


def test_the_iteration_continues_after_the_user_logged_in_again() -> None:
    story = Story(QUIET, RejectWith(401), HaveNoToken(), QUIET, refreshes=[REFUSED])
    story.next()
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            story.next()
    assert story.next()[1] == "CHANGED"
    assert story.stream.state is StreamState.CONNECTED


@pytest.mark.parametrize("trouble", [NetworkError("no route"), ServerError("overloaded", status=503)])
def test_a_failed_refresh_leads_to_a_wait(trouble: SyncKitError) -> None:
    story = Story(RejectWith(401), QUIET, refreshes=[trouble, trouble, None], draw=1.0)
    assert story.next() == (1.1 + 2.1, "CHANGED")
    assert story.asked("connect") == pytest.approx([0, 3.2])


def test_a_refresh_is_asked_again_no_sooner_than_the_server_says() -> None:
    story = Story(RejectWith(401), QUIET, refreshes=[ServerError("slowly", status=429, retry_after=20), None])
    assert story.next() == (20, "CHANGED")


def test_short_lived_tokens_do_not_cause_a_refresh_storm() -> None:
    short_lived = StreamOf(CONNECTED, Bye("token_expired"), EndCleanly())
    story = Story(*[short_lived] * 5, refreshes=[None] * 5, draw=1.0)
    with pytest.raises(ScriptOver):
        story.take(9)
    assert pauses(story.asked("refresh")) == [1.1, 2.1, 4.1, 8.1]
