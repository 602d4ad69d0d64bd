"""A hook that fails or returns a wrong value is logged once, the client gets JSON, and no other client is affected."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import jwt
import pytest
from flask import Flask, Response, abort, redirect, request
from flask_jwt_extended import JWTManager, create_access_token, get_jwt_identity, verify_jwt_in_request

from synckit_notify import Forbidden, InvalidToken, Notifier, Principal
from synckit_notify.brokers import Gap
from synckit_notify.runtime.logs import MAX_KINDS, RateLimitedLog
from synckit_notify.streams import recovery
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from .support.tokens import KEY, make_token
from .support.wait import until

SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
LATER = datetime.now(UTC) + timedelta(days=1)
ALICE = {"app": "notes", "user": "alice"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def host(authenticate: Callable[..., Any] | None = None, **config: Any) -> tuple[Flask, Notifier]:
    app = Flask("host")
    app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_SWEEP_SECONDS=0.05, **config)
    notifier = Notifier(app, authenticate=authenticate)
    app.add_url_rule("/push", view_func=lambda: notifier.authenticate(request).user)
    return app, notifier


async def a_coroutine(_: object = None) -> None:
    pass


def returns(value: Any) -> Callable[[Any], Any]:
    return lambda _: value() if callable(value) else value


def raises(error: Exception) -> Callable[[Any], Any]:
    def hook(_: Any) -> Any:
        raise error

    return hook


def aborts(*arguments: Any, **more: Any) -> Callable[[Any], Any]:
    return lambda _: abort(*arguments, **more)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


WRONG_PRINCIPALS = {
    "None": (returns(None), "it returned NoneType"),
    "a dict": (returns(ALICE), "it returned dict"),
    "a coroutine": (a_coroutine, "it is async"),
    "expires_at a number": (
        lambda _: Principal(**ALICE, expires_at=time.time()),  # type: ignore[arg-type]
        "expires_at: a time must be a datetime, not float",
    ),
    "issued_at a text": (
        lambda _: Principal(**ALICE, issued_at="2026-01-01"),
        "issued_at: a time must be a datetime, not str",
    ),  # type: ignore[arg-type]
    "expires_at a date": (
        lambda _: Principal(**ALICE, expires_at=date.today()),
        "expires_at: a time must be a datetime, not date",
    ),  # type: ignore[arg-type]
    "user None": (
        lambda _: Principal(app="notes", user=None),  # type: ignore[arg-type]
        "user: an id must be a str, an int or a UUID, not NoneType",
    ),
    "user empty": (lambda _: Principal(app="notes", user=""), "user: an id must not be empty"),
    "an exception": (raises(OSError("the database is away")), "raised OSError"),
    "a KeyError": (lambda _: {}["user"], "raised KeyError"),
    "abort(500)": (aborts(500), "raised InternalServerError"),
}


@pytest.mark.parametrize(("authenticate", "words"), WRONG_PRINCIPALS.values(), ids=WRONG_PRINCIPALS)
@pytest.mark.parametrize("debug", [False, True], ids=["production", "debug"])
def test_authenticate_that_fails_is_a_503_and_logged_once(
    authenticate: Callable[[Any], Any], words: str, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = host(authenticate)
    app.debug = app.testing = debug
    for path in (SUBSCRIBE, SUBSCRIBE, "/push"):
        answer = app.test_client().get(path)
        assert (answer.status_code, list(answer.json or ())) == (503, ["error"])
        assert 5 <= int(answer.headers["Retry-After"]) <= 20
    [line] = errors_in(caplog)
    assert words in line
    assert "authenticate" in line
    assert "Principal" in line


REFUSALS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "InvalidToken": (raises(InvalidToken("log in first")), 401),
    "Forbidden": (raises(Forbidden("not yours")), 403),
    "abort(401)": (aborts(401), 401),
    "abort(403)": (aborts(403, "not yours"), 403),
    "abort(418)": (aborts(418), 418),
    "abort(429)": (aborts(429, response=Response("<h1>slower</h1>", 429, {"Retry-After": "7"})), 429),
    "abort(503)": (aborts(503), 503),
    "abort with a page": (aborts(Response("<h1>log in</h1>", 401)), 401),
    "a redirect to a log-in page": (lambda _: abort(redirect("/login")), 401),
    "a missing parameter": (lambda request: request.args["session"], 400),
    "PyJWT's own": (lambda _: jwt.decode("nonsense", KEY, algorithms=["HS256"]), 401),
}


@pytest.mark.parametrize(("authenticate", "status"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_by_authenticate_keeps_its_status_in_json(
    authenticate: Callable[[Any], Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = host(authenticate)
    for path in (SUBSCRIBE, "/push"):
        answer = app.test_client().get(path)
        assert (answer.status_code, answer.mimetype, list(answer.json)) == (status, "application/json", ["error"])
    assert ("Retry-After" in answer.headers) == (status == 429)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert not errors_in(caplog)


@pytest.mark.parametrize(("life", "status"), [(3600, 200), (-1, 401)])
def test_authenticate_on_flask_jwt_extended_needs_no_translation(
    life: int, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(_: Any) -> Principal:
        verify_jwt_in_request()
        return Principal(app="notes", user=get_jwt_identity())

    app, _ = host(authenticate, JWT_SECRET_KEY=KEY)
    JWTManager(app)
    app.register_error_handler(Exception, lambda error: ("<h1>a page for everything</h1>", 400))
    with app.app_context():
        token = create_access_token("alice", expires_delta=timedelta(seconds=life))
    answer = app.test_client().get("/push", headers=bearer(token))
    assert (answer.status_code, errors_in(caplog)) == (status, [])
    subscribed = app.test_client().get(SUBSCRIBE, headers=bearer(token), buffered=False)
    assert subscribed.status_code == status
    subscribed.close()


def test_a_catch_all_error_handler_of_the_host_does_not_replace_the_503() -> None:
    app, _ = host(raises(OSError("the database is away")))
    app.register_error_handler(Exception, lambda error: ("<h1>wrong</h1>", 400))
    app.register_error_handler(OSError, lambda error: ("<h1>broken</h1>", 500))
    for path in (SUBSCRIBE, "/push"):
        assert app.test_client().get(path).status_code == 503


def test_a_time_limit_of_gevent_is_a_failure_too(caplog: pytest.LogCaptureFixture) -> None:
    import gevent

    def authenticate(_: Any) -> Principal:
        raise gevent.Timeout(3)

    app, _ = host(authenticate)
    assert app.test_client().get(SUBSCRIBE).status_code == 503
    assert "raised Timeout" in errors_in(caplog)[0]


WRONG_SINCE = {
    "a number": (returns(time.time), "not float"),
    "a bool": (returns(False), "not bool"),
    "a text": (returns("2026-01-01"), "not str"),
    "a coroutine": (a_coroutine, "it is async"),
    "an exception": (raises(OSError("the database is away")), "raised OSError"),
}


@pytest.mark.parametrize(("valid_since", "words"), WRONG_SINCE.values(), ids=WRONG_SINCE)
def test_valid_since_that_fails_is_a_503_logged_once_and_leaves_no_stream(
    valid_since: Callable[[Any], Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, notifier = host()
    notifier.valid_since(valid_since)
    for path in (SUBSCRIBE, "/push", SUBSCRIBE):
        answer = app.test_client().get(path, headers=bearer(make_token()))
        assert (answer.status_code, answer.json) == (
            503,
            {"error": "the server cannot check this now; try again later"},
        )
        assert "Retry-After" in answer.headers
    [line] = errors_in(caplog)
    assert words in line
    assert "valid_since" in line
    assert "datetime" in line
    worker = app.extensions["synckit_notify"].node()
    assert len(worker.registry) == 0
    worker.join_idle()


def test_after_a_gap_a_stream_that_was_revoked_ends_as_soon_as_the_host_can_tell(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "FIRST_PAUSE_SECONDS", 0.01)
    app, notifier = host()
    away, revoked, asked = threading.Event(), threading.Event(), Counter()

    @notifier.valid_since
    def valid_since(principal: Principal) -> datetime | None:
        asked[principal.user] += 1
        if away.is_set():
            raise OSError("the database is away")
        return LATER if revoked.is_set() and principal.user == "alice" else None

    with (
        open_stream(app.test_client(), "notes", make_token("alice")) as alice,
        open_stream(app.test_client(), "notes", make_token("bob")) as bob,
    ):
        assert [alice.next_frame(), bob.next_frame()] == [CONNECTED] * 2
        away.set()
        revoked.set()
        app.extensions["synckit_notify"].node().receive(Gap())
        assert [alice.next_frame(5.0), bob.next_frame(5.0)] == [CHANGED] * 2
        assert until(lambda: min(asked.values()) > 4)
        away.clear()
        assert alice.next_frame(5.0) == b": bye revoked\n\n"
        with pytest.raises(TimeoutError):
            bob.next_frame(0.1)
    assert len([line for line in errors_in(caplog) if "valid_since raised OSError" in line]) == 1
    assert len(errors_in(caplog)) == 2  # that one, and that streams wait to be checked


BAD_ROWS = {
    "user None": ("notes", None),
    "a row None": None,
    "one id": ("notes",),
    "a dict": {"app": "notes", "user": "bob"},
    "a text of two letters": "ab",
    "a bool": ("notes", True),
    "a number for a time": ("notes", "carol", time.time()),
}


@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_of_the_sweep_harms_no_other(bad: object, caplog: pytest.LogCaptureFixture) -> None:
    app, notifier = host()
    sweeps: list[datetime] = []

    @notifier.changed_channels
    def changed_channels(since: datetime) -> list[Any]:
        sweeps.append(since)
        return [("notes", "alice"), bad, ("notes", "bob", LATER)]

    with (
        open_stream(app.test_client(), "notes", make_token("alice")) as alice,
        open_stream(app.test_client(), "notes", make_token("bob")) as bob,
    ):
        for stream in (alice, bob):
            assert [stream.next_frame(20.0), stream.next_frame(20.0)] == [CONNECTED, CHANGED]
        assert until(lambda: len(sweeps) > 3)
    assert sweeps[-1] > sweeps[0]
    [line] = errors_in(caplog)
    assert "changed_channels returned a wrong value" in line
    assert "return rows (app_id, user_id)" in line


def test_a_row_with_a_number_for_a_time_wakes_its_channel_all_the_same() -> None:
    app, notifier = host()
    notifier.changed_channels(lambda since: [("notes", "alice", time.time())])  # type: ignore[list-item,return-value]
    with open_stream(app.test_client(), "notes", make_token()) as stream:
        assert [stream.next_frame(20.0), stream.next_frame(20.0)] == [CONNECTED, CHANGED]


WRONG_ROWS = {
    "None": (returns(None), "returned a wrong value ('NoneType'"),
    "a number": (returns(7), "returned a wrong value ('int'"),
    "a coroutine": (a_coroutine, "returned a wrong value (it is async)"),
    "an exception": (raises(OSError("the database is away")), "raised OSError"),
    "a refusal": (raises(InvalidToken("what is this")), "raised InvalidToken"),
}


@pytest.mark.parametrize(("wrong", "words"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_failed_sweep_is_logged_once_and_made_up_for(
    wrong: Callable[[Any], Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, notifier = host()
    sweeps: list[datetime] = []

    @notifier.changed_channels
    def changed_channels(since: datetime) -> Any:
        sweeps.append(since)
        return wrong(since) if len(sweeps) < 4 else [("notes", "alice", LATER)]

    with open_stream(app.test_client(), "notes", make_token()) as stream:
        assert [stream.next_frame(20.0), stream.next_frame(20.0)] == [CONNECTED, CHANGED]
    assert max(sweeps[:4]) - min(sweeps[:4]) < timedelta(seconds=0.1)  # what was not seen is asked for again
    [line] = errors_in(caplog)
    assert words in line


def test_rows_before_an_error_wake_their_channels() -> None:
    app, notifier = host()

    @notifier.changed_channels
    def changed_channels(since: datetime) -> Iterator[tuple[str, str]]:
        yield "notes", "alice"
        raise OSError("the database is away")

    with open_stream(app.test_client(), "notes", make_token()) as stream:
        assert [stream.next_frame(20.0), stream.next_frame(20.0)] == [CONNECTED, CHANGED]


READY = {
    "nothing": (returns(None), True, ""),
    "True": (returns(True), True, ""),
    "a dict": (returns({"replica": False}), True, ""),
    "False": (returns(False), False, ""),
    "an exception": (raises(OSError("the database is away")), False, "raised OSError"),
    "abort(404)": (aborts(404), False, "raised NotFound"),
    "a coroutine": (a_coroutine, False, "it is async"),
    "a string": (returns("the database is away"), False, "it returned str"),
    "a number": (returns(0), False, "it returned int"),
    "a list": (returns(list), False, "it returned list"),
}


@pytest.mark.parametrize(("check", "ready", "words"), READY.values(), ids=READY)
def test_ready_check_says_whether_the_host_can_serve(
    check: Callable[..., Any], ready: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, notifier = host()
    notifier.ready_check(lambda: check(None))
    for _ in range(3):
        answer = app.test_client().get("/api/sync/ready")
        assert (answer.status_code, answer.json["host"]) == (200 if ready else 503, ready)
    assert len(errors_in(caplog)) == (1 if words else 0)
    assert words in "".join(errors_in(caplog))


def test_a_fault_is_logged_again_after_a_minute_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    faults = RateLimitedLog(clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 59.0, 60.0, 61.0):
        faults.error("one", "the hook %s failed", "f")
        faults.error("another", "the hook %s failed too", "g")
    assert errors_in(caplog) == [
        "the hook f failed",
        "the hook g failed too",
        "the hook f failed (2 more like this since the last line)",
        "the hook g failed too (2 more like this since the last line)",
    ]


def test_the_number_of_remembered_faults_is_bounded() -> None:
    faults = RateLimitedLog()
    for number in range(10 * MAX_KINDS):
        faults.error(number, "a fault")
    assert len(faults._periods) <= MAX_KINDS


def test_a_number_for_a_time_of_a_push_is_a_type_error() -> None:
    app, notifier = host()
    with app.app_context(), pytest.raises(TypeError, match="a time must be a datetime, not float"):
        notifier.publish("notes", "alice", changed_at=time.time())  # type: ignore[arg-type]
