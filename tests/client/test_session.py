"""A session renews its token, retries idempotent requests, and reveals no secret."""

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client.errors import (
    NetworkError,
    NotAuthenticated,
    ProtocolError,
    ServerError,
    StateError,
    SyncKitError,
)
from synckit_notify.client.models import Account, Device
from synckit_notify.client.session import LEASE_SECONDS, Session
from synckit_notify.client.state import State, Tokens
from synckit_notify.client.stream import StreamSession

from ..support.scripted_server import (
    API_KEY,
    AUTH,
    PASSWORD,
    PUSH,
    STATUS,
    SUBSCRIBE,
    TOKEN,
    Answer,
    AnswerWithPage,
    Busy,
    FakeClock,
    LoseAnswer,
    LoseRequest,
    Refuse,
    RefuseGrant,
    RefuseToken,
    Script,
    logged_in,
    session_with,
    tokens,
)

GOOD = Answer({"fine": True})
LOGIN = {"token": "access-first", "user_id": "alice", "app_id": "notes", "expires_in": 3600, "refresh_token": "r-first"}


class Story:
    """A session that is logged in, with its script, its clock and its state."""

    def __init__(self, draw: float = 0.0, login: bool = True, **steps: list[Any]) -> None:
        places = {"status": STATUS, "push": PUSH, "token": TOKEN, "auth": AUTH, "subscribe": SUBSCRIBE}
        self.clock, self.state = FakeClock(), State.open(None)
        self.server = Script({places[name]: told for name, told in steps.items()})
        if login:
            logged_in(self.state, self.clock)
        self.session = session_with(self.server, self.state, self.clock, draw)

    def status(self, idempotent: bool = True) -> dict[str, Any]:
        return self.session.call("GET", STATUS, idempotent=idempotent)

    def used(self) -> list[str | None]:
        """Return the bearer token of each request that had one."""
        return [asked.token for asked in self.server.asked if asked.token]


@pytest.fixture
def story() -> Iterator[Callable[..., Story]]:
    told: list[Story] = []

    def make(**parts: Any) -> Story:
        told.append(Story(**parts))
        return told[-1]

    yield make
    for each in told:
        each.session.close()
        each.state.close()


Make = Callable[..., Story]


def test_a_session_satisfies_what_the_stream_asks_for(story: Make) -> None:
    session: StreamSession = story().session
    assert session


class TestLoggingIn:
    def test_the_tokens_are_kept(self, story: Make) -> None:
        tale = story(login=False, auth=[Answer(LOGIN)], status=[GOOD])
        assert tale.session.authenticate("alice@example.org", PASSWORD) == ("alice", "notes")
        assert tale.server.asked[0].body == {"email": "alice@example.org", "password": PASSWORD, "api_key": API_KEY}
        tale.status()
        assert tale.used() == ["access-first"]

    def test_wrong_credentials_are_tried_once_and_told_in_the_servers_words(self, story: Make) -> None:
        tale = story(login=False, auth=[Refuse(401, "the password is wrong")])
        with pytest.raises(NotAuthenticated, match="the password is wrong"):
            tale.session.authenticate("alice@example.org", PASSWORD)

    @pytest.mark.parametrize("step", [LoseAnswer(), Refuse(500), Busy(1)])
    def test_a_log_in_is_not_repeated(self, story: Make, step: Any) -> None:
        tale = story(login=False, auth=[step])
        with pytest.raises((NetworkError, ServerError)):
            tale.session.authenticate("alice@example.org", PASSWORD)
        assert tale.clock.waits == []

    def test_a_log_in_that_is_limited_tells_how_long_to_wait(self, story: Make) -> None:
        tale = story(login=False, auth=[Busy(59)])
        with pytest.raises(ServerError, match="slow down") as raised:
            tale.session.authenticate("alice@example.org", PASSWORD)
        assert (raised.value.status, raised.value.retry_after) == (429, 59.0)

    def test_before_a_log_in_calls_are_not_authenticated(self, story: Make) -> None:
        tale = story(login=False)
        for call in (tale.status, tale.session.refresh, tale.session.connect, tale.session.position):
            with pytest.raises(NotAuthenticated):
                call()
        assert tale.server.asked == []

    def test_without_a_refresh_token_a_session_lasts_until_its_token_expires(self, story: Make) -> None:
        upstream = {name: LOGIN[name] for name in ("token", "user_id", "app_id")}
        tale = story(login=False, auth=[Answer(upstream)], status=[GOOD, RefuseToken()])
        tale.session.authenticate("alice@example.org", PASSWORD)
        tale.clock.now += 1e6
        tale.status()
        with pytest.raises(NotAuthenticated, match="log in again"):
            tale.status()

    @pytest.mark.parametrize(
        "wrong",
        [{"token": None}, {"token": "two words"}, {"token": ""}, {"expires_in": "soon"}, {"user_id": 7}],
    )
    def test_an_invalid_answer_changes_nothing(self, story: Make, wrong: dict[str, Any]) -> None:
        tale = story(login=False, auth=[Answer(LOGIN | wrong)])
        with pytest.raises(ProtocolError):
            tale.session.authenticate("alice@example.org", PASSWORD)
        assert tale.state.tokens() is None


class TestRenewing:
    def test_a_token_is_renewed_thirty_seconds_before_its_end_by_the_servers_seconds(self, story: Make) -> None:
        tale = story(status=[GOOD, GOOD], token=[Answer(tokens("second"))])
        tale.clock.now += 3600 - 31
        tale.status()
        tale.clock.now += 2
        tale.status()
        assert tale.used() == ["access-first", "access-second"]
        sent = {"grant_type": "refresh_token", "refresh_token": "refresh-first", "client_id": API_KEY}
        assert tale.server.bodies(TOKEN) == [sent]

    def test_a_clock_that_was_set_back_leads_to_a_renewal(self, story: Make) -> None:
        tale = story(status=[GOOD], token=[Answer(tokens("second"))])
        tale.clock.now -= 1000
        tale.status()
        assert tale.used() == ["access-second"]

    def test_a_refused_token_is_renewed_once_and_the_request_repeated_even_if_it_is_not_safe(self, story: Make) -> None:
        tale = story(push=[RefuseToken(), GOOD], token=[Answer(tokens("second"))])
        assert tale.session.call("POST", PUSH, {"a": 1}, idempotent=False) == {"fine": True}
        assert tale.used() == ["access-first", "access-second"]
        assert tale.server.bodies(PUSH) == [{"a": 1}, {"a": 1}]

    def test_a_new_token_that_is_refused_too_is_not_renewed_for_ever(self, story: Make) -> None:
        tale = story(status=[RefuseToken(), RefuseToken()], token=[Answer(tokens("second"))])
        with pytest.raises(NotAuthenticated, match="renewed a moment ago"):
            tale.status()
        assert tale.state.tokens() is not None

    @pytest.mark.parametrize("step", [LoseRequest(), LoseAnswer(), Refuse(503), Busy(3), AnswerWithPage(502)])
    def test_a_failed_renewal_keeps_the_tokens_and_uses_the_current_one(self, story: Make, step: Any) -> None:
        tale = story(status=[GOOD], token=[step])
        tale.clock.now += 3600 - 10
        tale.status()
        assert tale.used() == ["access-first"]
        assert tale.state.tokens().refresh == "refresh-first"  # type: ignore[union-attr]

    def test_after_a_lost_answer_the_renewal_is_repeated_with_the_same_token(self, story: Make) -> None:
        tale = story(status=[GOOD], token=[LoseAnswer(), Answer(tokens("second"))])
        tale.clock.now += 4000
        tale.status()
        assert [body["refresh_token"] for body in tale.server.bodies(TOKEN)] == ["refresh-first", "refresh-first"]
        assert tale.used() == ["access-second"]

    @pytest.mark.parametrize("status", [400, 401])
    def test_a_refused_renewal_clears_the_tokens(self, story: Make, status: int) -> None:
        tale = story(token=[Refuse(status, "invalid_grant")])
        with pytest.raises(NotAuthenticated):
            tale.session.refresh()
        assert tale.state.tokens() is None
        with pytest.raises(NotAuthenticated, match="log in first"):
            tale.status()

    @pytest.mark.parametrize("step", [AnswerWithPage(401), AnswerWithPage(400), Refuse(403, "invalid_grant")])
    def test_only_invalid_grant_clears_the_tokens(self, story: Make, step: Any) -> None:
        """A captive portal answers every request with its own page."""
        tale = story(token=[step])
        with pytest.raises(ServerError):
            tale.session.refresh()
        assert tale.state.tokens() is not None

    def test_an_app_whose_key_was_changed_must_log_in_again(self, story: Make) -> None:
        tale = story(token=[Refuse(401, "invalid_client")])
        with pytest.raises(NotAuthenticated):
            tale.session.refresh()
        assert tale.state.tokens() is not None

    def test_a_server_that_does_not_rotate_keeps_the_refresh_token(self, story: Make) -> None:
        tale = story(token=[Answer(tokens("second", refresh_token=None))])
        tale.session.refresh()
        assert tale.state.tokens().refresh == "refresh-first"  # type: ignore[union-attr]

    def test_refresh_leaves_a_token_that_was_renewed_since_the_stream_began(self, story: Make) -> None:
        tale = story(
            subscribe=[Answer(), Answer()],
            token=[Answer(tokens("second")), Answer(tokens("third"))],
            status=[RefuseToken(), GOOD],
        )
        tale.session.connect().close()
        tale.status()
        tale.session.refresh()
        assert len(tale.server.bodies(TOKEN)) == 1
        tale.session.connect().close()
        tale.session.refresh()
        assert tale.state.tokens().access == "access-third"  # type: ignore[union-attr]

    def test_a_renewal_that_gives_the_same_token_again_is_not_repeated_for_ever(self, story: Make) -> None:
        """Two access tokens of the same second are equal."""
        tale = story(token=[Answer(tokens("first"))])
        tale.session.refresh()
        assert tale.server.over()

    def test_many_threads_renew_once(self, story: Make) -> None:
        tale = story(status=[GOOD] * 16, token=[Answer(tokens("second"))])
        tale.clock.now += 4000
        threads = [threading.Thread(target=tale.status) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tale.used() == ["access-second"] * 16

    def test_a_process_that_died_blocks_renewals_no_longer_than_its_lease(self, story: Make) -> None:
        tale = story(token=[Answer(tokens("second"))])
        assert tale.state.take_lease("the dead one", tale.clock.time(), LEASE_SECONDS)
        tale.session.refresh()
        assert LEASE_SECONDS <= sum(tale.clock.waits) < LEASE_SECONDS + 1

    def test_while_another_process_renews_this_one_waits_and_uses_its_tokens(self, story: Make) -> None:
        tale = story(status=[GOOD])
        tale.state.take_lease("another", tale.clock.time(), LEASE_SECONDS)
        tale.clock.now += 3590  # its renewal is what the next wait is for
        tale.state.take_lease("another", tale.clock.time(), LEASE_SECONDS)
        real_wait = tale.clock.wait

        def wait(seconds: float) -> None:
            real_wait(seconds)
            logged_in(tale.state, tale.clock, "by another")

        tale.session._wait = wait
        tale.status()
        assert tale.used() == ["access-by another"]


class TestTryingAgain:
    @pytest.mark.parametrize("step", [LoseRequest(), LoseAnswer(), Refuse(500), Refuse(503), Refuse(429), Refuse(408)])
    def test_an_idempotent_request_is_retried_three_times_after_temporary_errors(self, story: Make, step: Any) -> None:
        tale = story(status=[step, step, step, GOOD])
        assert tale.status() == {"fine": True}
        tale = story(status=[step] * 4)
        with pytest.raises((NetworkError, ServerError)):
            tale.status()
        assert tale.server.over()

    @pytest.mark.parametrize("step", [LoseAnswer(), Refuse(500), Refuse(429)])
    def test_any_other_request_is_not_retried(self, story: Make, step: Any) -> None:
        tale = story(status=[step])
        with pytest.raises((NetworkError, ServerError)):
            tale.status(idempotent=False)
        assert tale.clock.waits == []

    @pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 413, 422])
    def test_a_refusal_is_raised_at_once_with_the_servers_message(self, story: Make, status: int) -> None:
        tale = story(status=[Refuse(status, "changes[3].table: is missing")])
        with pytest.raises(ServerError, match=r"changes\[3\].table: is missing") as raised:
            tale.status()
        assert raised.value.status == status

    def test_waits_grow_with_full_jitter(self, story: Make) -> None:
        for draw, waits in (1.0, [0.6, 1.1, 2.1]), (0.0, [0.1, 0.1, 0.1]):
            tale = story(draw=draw, status=[LoseAnswer()] * 4)
            with pytest.raises(NetworkError):
                tale.status()
            assert tale.clock.waits == waits

    def test_a_retry_after_is_honoured(self, story: Make) -> None:
        tale = story(status=[Busy(7), Refuse(503, retry_after="2"), GOOD])
        tale.status()
        assert tale.clock.waits == [7.0, 2.0]

    def test_a_retry_after_that_is_too_long_is_raised(self, story: Make) -> None:
        tale = story(status=[Busy(300)])
        with pytest.raises(ServerError) as raised:
            tale.status()
        assert (raised.value.status, raised.value.retry_after) == (429, 300.0)

    def test_a_request_for_the_position_is_not_retried(self, story: Make) -> None:
        tale = story(status=[Answer({"epoch": "e1", "cursor": 7}), Refuse(503)])
        assert tale.session.position() == ("e1", 7)
        with pytest.raises(ServerError):
            tale.session.position()

    @pytest.mark.parametrize("step", [AnswerWithPage(200), Answer([1]), Answer("text")])
    def test_an_answer_that_is_not_a_json_object_is_a_protocol_error(self, story: Make, step: Any) -> None:
        with pytest.raises(ProtocolError):
            story(status=[step]).status()

    def test_after_close_calls_raise_network_error(self, story: Make) -> None:
        tale = story()
        tale.session.close()
        with pytest.raises(NetworkError, match="closed"):
            tale.status()


ADDRESSES = ["", "server", "ftp://server", "http://", "http://alice:secret@server", "http://server?a=1", 7]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_invalid_server_url_is_refused(address: Any) -> None:
    state = State.open(None)
    with pytest.raises(ValueError, match="server_url") as raised:
        Session(address, API_KEY, state)
    assert "secret" not in str(raised.value)
    state.close()


def test_a_slash_at_the_end_of_the_url_makes_no_difference() -> None:
    state = State.open(None)
    for address in "https://server/", "https://server", "HTTPS://SERVER":
        Session(address, API_KEY, state).close()
    with pytest.raises(StateError):
        Session("https://server/elsewhere", API_KEY, state)
    state.close()


TROUBLE: list[Any] = [
    Refuse(400, f"Bearer access-first, {API_KEY}, refresh-first"),
    Refuse(401, f"Bearer access-first, {API_KEY}, refresh-first"),
    RefuseGrant(),
    LoseRequest(),
    LoseAnswer(),
    AnswerWithPage(200),
]


@pytest.mark.parametrize("step", TROUBLE)
def test_no_secret_is_in_any_error_or_log(story: Make, step: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    if isinstance(step, Refuse):
        log_in = Refuse(step.status, f"{PASSWORD} {API_KEY}")
    tale = story(auth=[log_in if isinstance(step, Refuse) else step], status=[step] * 4, token=[step] * 4)
    said = [repr(tale.session), repr(tale.state)]
    for call in (lambda: tale.session.authenticate("a@b.c", PASSWORD), tale.status, tale.session.refresh):
        try:
            call()
        except SyncKitError as error:
            said.append(f"{error!r} {error.__cause__!r}")
    for secret in API_KEY, PASSWORD, "access-first", "refresh-first":
        assert not any(secret in words for words in [*said, caplog.text])


class Streams(BaseHTTPRequestHandler):
    """Answers `/api/sync/subscribe` with given bytes, then stays silent until the client disconnects."""

    protocol_version = "HTTP/1.1"
    mode = "silent"
    seen: list[Any]

    def do_GET(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        if self.mode == "refuse":
            body = b'{"error": "too many streams"}'
            self.send_response(429)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in b": connected\n\n", b"event: changed\ndata:\n\n":
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        if self.mode == "end":
            self.wfile.write(b"0\r\n\r\n")
        elif self.mode == "silent":
            self.connection.settimeout(20)
            self.seen.append(self.connection.recv(1))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def streams() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Streams,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def session(streams: ThreadingHTTPServer) -> Iterator[Session]:
    state = State.open(None)
    made = Session(f"http://127.0.0.1:{streams.server_port}", API_KEY, state)
    state.log_in(Account("alice", "notes"), Tokens("access-first", "refresh-first", 3600.0, time.time()))
    yield made
    made.close()
    state.close()


def read_all(connection: Any) -> bytes:
    content = b""
    while piece := connection.read(5.0):
        content += piece
    return content


class TestConnection:
    def test_bytes_arrive_as_they_are_sent_and_each_read_has_its_own_timeout(
        self, session: Session, streams: ThreadingHTTPServer
    ) -> None:
        connection = session.connect()
        assert connection.status == 200
        assert connection.headers["content-type"] == "text/event-stream"
        content = b""
        while b"changed" not in content:
            content += connection.read(5.0)
        for limit in (0.0, 0.05, 0.0):
            with pytest.raises(TimeoutError):
                connection.read(limit)
        connection.close()
        path, headers = streams.RequestHandlerClass.seen[0]  # type: ignore[attr-defined]
        assert path == "/api/sync/subscribe?app_id=notes"
        assert headers["Authorization"] == "Bearer access-first"
        assert headers["Accept-Encoding"] == "identity"

    def test_close_ends_a_read_in_another_thread_at_once_and_closes_the_connection(
        self, session: Session, streams: ThreadingHTTPServer
    ) -> None:
        connection = session.connect()
        ended: list[float] = []

        def read() -> None:
            with pytest.raises(NetworkError):
                read_all(connection)
            ended.append(time.monotonic())

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.2)
        closed = time.monotonic()
        connection.close()
        connection.close()
        thread.join(5)
        assert ended[0] - closed < 0.5
        until = time.monotonic() + 5
        seen = streams.RequestHandlerClass.seen  # type: ignore[attr-defined]
        while len(seen) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert seen[1] == b""
        with pytest.raises(NetworkError):
            connection.read(1.0)
        connection._thread.join(5)  # type: ignore[attr-defined]
        assert not connection._thread.is_alive()  # type: ignore[attr-defined]

    def test_a_clean_end_and_a_broken_one_are_told_apart(self, session: Session, streams: ThreadingHTTPServer) -> None:
        streams.RequestHandlerClass.mode = "end"  # type: ignore[attr-defined]
        assert read_all(session.connect()).endswith(b"data:\n\n")
        streams.RequestHandlerClass.mode = "break"  # type: ignore[attr-defined]
        with pytest.raises(NetworkError):
            read_all(session.connect())

    def test_an_answer_that_is_not_a_stream_has_an_error_message(
        self, session: Session, streams: ThreadingHTTPServer
    ) -> None:
        streams.RequestHandlerClass.mode = "refuse"  # type: ignore[attr-defined]
        connection = session.connect()
        assert (connection.status, connection.headers["retry-after"]) == (429, "7")
        assert connection.text() == "too many streams"
        connection.close()

    def test_a_refused_connection_is_a_network_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        state, clock = State.open(None), FakeClock()
        session = Session(f"http://127.0.0.1:{port}", API_KEY, state, clock=clock.time, wait=clock.wait)
        with pytest.raises(NetworkError, match="refused"):
            session.authenticate("a@b.c", PASSWORD)
        session.close()
        state.close()

    def test_closing_the_session_closes_its_connections(self, session: Session) -> None:
        connection = session.connect()
        session.close()
        with pytest.raises(NetworkError):
            connection.read(1.0)

    def test_a_subscription_names_the_device(self, story: Make) -> None:
        tale = story(subscribe=[Answer()])
        tale.state.keep_device(Device("d1", "Laptop", "linux", datetime.now(UTC)))
        tale.session.connect().close()
        assert tale.server.bodies(SUBSCRIBE) == [{"app_id": "notes", "device_id": "d1"}]

    def test_http_2_is_refused(self) -> None:
        def answer(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, extensions={"http_version": b"HTTP/2"})

        state, clock = State.open(None), FakeClock()
        logged_in(state, clock)
        http = httpx2.Client(transport=httpx2.MockTransport(answer))
        session = Session("http://server", API_KEY, state, http=http, clock=clock.time)
        with pytest.raises(ProtocolError, match="HTTP/2"):
            session.connect()
        session.close()
        state.close()


RENEWER = """
import sys, time
from synckit_notify.client.session import Session
from synckit_notify.client.state import State
state = State.open(sys.argv[2])
session = Session(sys.argv[1], "the-api-key", state)
print("ready", flush=True)
sys.stdin.readline()
session.call("GET", "/api/sync/status", idempotent=True)
print(state.tokens().access)
session.close()
state.close()
"""


class SlowTokens(BaseHTTPRequestHandler):
    """Renews tokens slowly, and counts the renewals."""

    renewals: list[float]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.renewals.append(time.monotonic())
        time.sleep(0.5)
        number = len(self.renewals)
        self._answer(f'{{"access_token": "a{number}", "expires_in": 3600, "refresh_token": "r{number}"}}')

    def do_GET(self) -> None:
        self._answer("{}")

    def _answer(self, body: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_two_processes_on_one_state_file_renew_once(tmp_path: Path) -> None:
    handler = type("Handler", (SlowTokens,), {"renewals": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))
    serving.start()
    url, file = f"http://127.0.0.1:{server.server_port}", tmp_path / "tasks.state"
    state = State.open(file)
    state.bind(url, "the-api-key")
    state.log_in(Account("alice", "notes"), Tokens("old", "refresh-old", 60.0, time.time() - 100))
    command = [sys.executable, "-c", RENEWER, url, str(file)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) for _ in range(2)]
    for process in both:
        process.stdout.readline()  # type: ignore[union-attr]
    said = []
    for process in both:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    for process in both:
        said.append(process.communicate(timeout=60)[0].strip())
    server.shutdown()
    serving.join()
    server.server_close()
    assert said == ["a1", "a1"]
    assert len(handler.renewals) == 1  # type: ignore[attr-defined]
    assert state.tokens().access == "a1"  # type: ignore[union-attr]
    state.close()
