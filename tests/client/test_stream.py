"""The promises of SyncNotifyStream, each as a script of the server and the notifications that the app gets.

This file tests notifications, silence, sleep, states and logs. Reconnecting, polling and closing have files of their
own. A fake clock replaces time.
"""

import logging

import pytest

from synckit_notify import sse
from synckit_notify.client.errors import ServerError
from synckit_notify.client.stream import SyncNotification, SyncNotifyStream

from ..support.fake_transport import (
    CHANGED,
    CONNECTED,
    KEEPALIVE,
    BreakOff,
    Bye,
    EndCleanly,
    FakeClock,
    FakeSession,
    MachineSleeps,
    RefuseConnection,
    RejectWith,
    ScriptOver,
    Silence,
    Story,
    StreamOf,
)

QUIET = StreamOf(CONNECTED)


# What the app hears.


def test_the_first_connect_is_followed_by_changed_without_delay() -> None:
    assert Story(QUIET, draw=1.0).next() == (0, "CHANGED")


def test_a_change_and_a_keepalive_are_told_as_they_come() -> None:
    story = Story(StreamOf(CONNECTED, Silence(7), CHANGED, Silence(30), KEEPALIVE))
    assert story.take(3) == [(0, "CHANGED"), (7, "CHANGED"), (37, "KEEPALIVE")]


def test_what_arrives_while_the_app_pulls_is_one_changed() -> None:
    story = Story(StreamOf(CONNECTED, Silence(1), CHANGED, CHANGED, Silence(30), KEEPALIVE, Silence(1), CHANGED))
    story.next()
    story.clock.pass_time(40)
    assert story.next() == (40, "CHANGED")
    with pytest.raises(ScriptOver):
        story.next()


@pytest.mark.parametrize("pieces", [(KEEPALIVE, CHANGED), (CHANGED, KEEPALIVE), (KEEPALIVE + CHANGED,)])
def test_a_changed_is_never_lost_behind_a_keepalive(pieces: tuple[bytes, ...]) -> None:
    story = Story(StreamOf(CONNECTED, Silence(9), *pieces))
    assert story.take(2) == [(0, "CHANGED"), (9, "CHANGED")]


def test_a_changed_read_before_the_stream_breaks_is_told_first() -> None:
    story = Story(StreamOf(CONNECTED, Silence(9), CHANGED, BreakOff()), RefuseConnection())
    assert story.take(2) == [(0, "CHANGED"), (9, "CHANGED")]


def test_a_change_right_after_connecting_is_in_the_first_changed() -> None:
    story = Story(StreamOf(CONNECTED + CHANGED, Silence(5), KEEPALIVE))
    assert story.take(2) == [(0, "CHANGED"), (5, "KEEPALIVE")]


def test_a_flood_does_not_keep_the_notification_from_the_app() -> None:
    assert Story(StreamOf(*[CHANGED] * 1000)).take(3) == [(0, "CHANGED")] * 3


def test_unknown_events_and_comments_only_show_that_the_connection_works() -> None:
    story = Story(StreamOf(sse.comment("hello"), Silence(1), sse.event("other"), Silence(1), CHANGED))
    assert story.take(2) == [(0, "CHANGED"), (2, "CHANGED")]


def test_half_a_frame_does_not_spoil_the_next_connection() -> None:
    story = Story(StreamOf(CONNECTED, b"event: chan", BreakOff()), QUIET)
    assert story.take(2) == [(0, "CHANGED"), (0.1, "CHANGED")]


def test_messages_after_a_bye_are_ignored() -> None:
    story = Story(StreamOf(CONNECTED, Silence(5), Bye("draining") + KEEPALIVE), QUIET)
    assert story.take(2) == [(0, "CHANGED"), (5.1, "CHANGED")]


# After a reconnect.


def test_the_changed_after_a_reconnect_waits_up_to_two_seconds() -> None:
    story = Story(StreamOf(CONNECTED, BreakOff()), QUIET, draw=0.5)
    assert story.take(2) == [(0, "CHANGED"), (0.6 + 1.0, "CHANGED")]


def test_changes_during_that_delay_merge_into_it() -> None:
    pieces = (CONNECTED, Silence(0.5), CHANGED, Silence(0.5), KEEPALIVE, Silence(9), KEEPALIVE)
    story = Story(StreamOf(CONNECTED, BreakOff()), StreamOf(*pieces), draw=1.0)
    assert story.take(3) == [(0, "CHANGED"), (1.1 + 2.0, "CHANGED"), (1.1 + 10.0, "KEEPALIVE")]


def test_a_stream_that_breaks_during_that_delay_does_not_take_the_changed_along() -> None:
    broken = StreamOf(CONNECTED, Silence(1), BreakOff())
    story = Story(StreamOf(CONNECTED, BreakOff()), broken, *[RefuseConnection()] * 3, draw=1.0)
    assert story.take(2) == [(0, "CHANGED"), (1.1 + 2.0, "CHANGED")]


# The watchdog.


@pytest.mark.parametrize(
    ("header", "silence"),
    [("30", 75), ("12", 30), ("0.4", 1), (None, 75), ("", 75), ("soon", 75), ("0", 75), ("nan", 75), ("86400", 75)],
)
def test_silence_of_two_and_a_half_keepalives_is_a_dead_stream(header: str | None, silence: float) -> None:
    story = Story(StreamOf(CONNECTED, synckit_keepalive=header), QUIET)
    assert story.take(2) == [(0, "CHANGED"), (silence + 0.1, "CHANGED")]
    assert story.session.connections[0].closed
    assert ("waiting", f"nothing received for {silence:g} s; next attempt in 0.1 s") in story.states


def test_any_bytes_reset_the_silence_timeout() -> None:
    half_frames = [Silence(70), b": keep", Silence(70), b"alive\n\n"]
    assert Story(StreamOf(CONNECTED, *half_frames)).take(2) == [(0, "CHANGED"), (140, "KEEPALIVE")]


def test_time_in_which_the_app_is_busy_does_not_count_as_silence() -> None:
    story = Story(StreamOf(CONNECTED, Silence(30), KEEPALIVE, Silence(500), CHANGED))
    story.next()
    story.clock.pass_time(100)
    assert story.next() == (100, "KEEPALIVE")


def test_silence_while_the_app_is_busy_is_noticed_when_it_comes_back() -> None:
    story = Story(StreamOf(CONNECTED), QUIET)
    story.next()
    story.clock.pass_time(100)
    assert story.next() == (100.1, "CHANGED")


# Sleep.


@pytest.mark.parametrize("by_wait", [False, True])
def test_a_wake_while_reading_tells_changed_at_once_and_makes_a_new_connection(by_wait: bool) -> None:
    story = Story(StreamOf(CONNECTED, Silence(20), MachineSleeps(3600, by_wait)), QUIET, draw=1.0)
    woke_at = 3620 if by_wait else 20
    assert story.take(3) == [(0, "CHANGED"), (woke_at, "CHANGED"), (woke_at + 2, "CHANGED")]
    assert story.session.connections[0].closed
    assert story.asked("connect") == [0, woke_at]


def test_a_sleep_while_the_app_pulls_is_noticed_too() -> None:
    story = Story(QUIET, QUIET)
    story.next()
    story.clock.sleep_machine(600)
    assert story.take(2) == [(0, "CHANGED"), (0, "CHANGED")]
    assert [connection.closed for connection in story.session.connections] == [True, False]


def test_a_wake_is_noticed_within_five_seconds_where_time_limits_stand_still_in_sleep() -> None:
    story = Story(StreamOf(CONNECTED, Silence(40), CHANGED))
    reads: list[float] = []
    connect = story.session.connect

    def watched_connect():
        connection = connect()
        read = connection.read
        connection.read = lambda timeout: reads.append(timeout) or read(timeout)
        return connection

    story.session.connect = watched_connect
    story.take(2)
    assert max(reads) <= 5


def test_time_asleep_counts_as_waited() -> None:
    story = Story(RejectWith(503, retry_after=600), QUIET)
    story.clock.nap = 500
    assert story.take(2) == [(5, "CHANGED"), (100, "CHANGED")]


def test_a_wake_does_not_wait_for_the_delay_after_a_reconnect() -> None:
    naps = StreamOf(CONNECTED, Silence(0.5), MachineSleeps(3600))
    story = Story(StreamOf(CONNECTED, BreakOff()), naps, draw=1.0)
    assert story.take(2) == [(0, "CHANGED"), (1.1 + 0.5, "CHANGED")]


@pytest.mark.parametrize("shift", [9.0, -3600.0])
def test_a_corrected_clock_is_not_taken_for_sleep(shift: float) -> None:
    story = Story(StreamOf(CONNECTED, Silence(20), KEEPALIVE))
    story.next()
    story.clock.wall += shift
    assert story.next() == (20, "KEEPALIVE")


# What can be observed.


def test_states_come_with_their_reasons() -> None:
    story = Story(RefuseConnection(), StreamOf(CONNECTED, Silence(1), EndCleanly()), RejectWith(403, "go away"))
    with pytest.raises(ServerError):
        story.take(2)
    assert story.states == [
        ("connecting", ""),
        ("waiting", "connection refused; next attempt in 0.1 s"),
        ("connecting", ""),
        ("connected", ""),
        ("waiting", "the server ended the stream; next attempt in 0.1 s"),
        ("connecting", ""),
        ("closed", "go away"),
    ]


def test_a_callback_that_fails_does_not_end_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    session = FakeSession(clock, [QUIET], [], [])
    stream = SyncNotifyStream(session, on_state=lambda *_: 1 / 0, clock=clock.monotonic, wall_clock=clock.time)
    assert next(stream) is SyncNotification.CHANGED
    assert "on_state raised an error" in caplog.text


def test_states_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "synckit_notify.client")
    Story(RefuseConnection(), QUIET).next()
    assert caplog.messages == [
        "connecting",
        "waiting: connection refused; next attempt in 0.1 s",
        "connecting",
        "connected",
    ]
