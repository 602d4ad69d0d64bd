"""Hostile answers: too large, too slow, a redirect, or a repetition of the secrets in the request."""

import logging
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from synckit_notify.backend.errors import WrongCredentials
from synckit_notify.client import NetworkError, NotAuthenticated, ProtocolError, ServerError, transfer
from synckit_notify.client import session as session_module
from synckit_notify.client.foreign_text import KNOWN_SENTENCES, printable, redacted
from synckit_notify.client.models import Account
from synckit_notify.client.session import Session
from synckit_notify.client.state import State, Tokens
from synckit_notify.client.stream import StreamState, SyncNotifyStream
from synckit_notify.doctor import Address, examine

from ..support.byte_server import HEALTH, Scripted, head
from ..support.byte_server import Script as Bytes
from ..support.scripted_server import API_KEY, AUTH, STATUS, SUBSCRIBE, Answer, FakeClock, Refuse, Script, logged_in

WRONG_CREDENTIALS = str(WrongCredentials())
SECRET = "correct horse 4 battery"
Serve = Callable[..., Session]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers with a script of bytes and pauses; return a session that is logged in there."""
    running: list[Scripted] = []
    sessions: list[Session] = []
    states: list[State] = []

    def begin(**scripts: Bytes) -> Session:
        places = {"status": f"GET {STATUS}", "subscribe": f"GET {SUBSCRIBE}"}
        server = Scripted({places[name]: script for name, script in scripts.items()})
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        state = State.open(None)
        session = Session(server.url, API_KEY, state)
        state.log_in(Account("alice", "notes"), Tokens("access", "refresh", 3600.0, time.time()))
        running.append(server)
        sessions.append(session)
        states.append(state)
        return session

    yield begin
    for session in sessions:
        session.close()
    for state in states:
        state.close()
    for server in running:
        server.shutdown()
        server.server_close()


def bomb(mebibytes: int) -> bytes:
    """Return JSON of this size that gzip compresses a thousand times."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    pieces = [b'{"x": "', *[b"0" * 2**20] * mebibytes, b'"}']
    return b"".join(squeeze.compress(piece) for piece in pieces) + squeeze.flush()


def gzipped(body: bytes, status: str = "200 OK") -> Bytes:
    return [head(status, f"Content-Length: {len(body)}", "Content-Encoding: gzip", "Connection: close"), body]


# Too much.


def test_an_answer_is_bounded_after_it_is_decompressed(serve: Serve) -> None:
    session = serve(status=gzipped(bomb(100)))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="larger than 32 MiB"):
            session.call("GET", STATUS, idempotent=False)
        assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
    finally:
        tracemalloc.stop()


def test_only_the_beginning_of_an_error_response_is_read(serve: Serve) -> None:
    session = serve(status=gzipped(bomb(50), "502 Bad Gateway"))
    with pytest.raises(ServerError, match="the server answered 502"):
        session.call("GET", STATUS, idempotent=False)


def test_an_answer_as_large_as_a_page_may_be_is_read(serve: Serve) -> None:
    session = serve(status=gzipped(bomb(20)))
    assert len(session.call("GET", STATUS, idempotent=False)["x"]) == 20 * 2**20


def test_a_body_that_decompresses_to_nothing_for_ever_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "RESPONSE_SECONDS", 0.5)
    monkeypatch.setattr(transfer, "MAX_RESPONSE_BYTES", 2**20)
    empty = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin, nothing = empty.flush(zlib.Z_FULL_FLUSH), empty.flush(zlib.Z_FULL_FLUSH) * 20_000
    session = serve(status=[head("200 OK", "Content-Encoding: gzip"), begin, *[nothing, 0.01] * 1000])
    with pytest.raises(NetworkError, match="no complete answer"):
        session.call("GET", STATUS, idempotent=False)


# Too slowly.


@pytest.mark.parametrize(
    "drip",
    [
        [head("200 OK", "Content-Length: 100000"), *[b" ", 0.05] * 400],
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n", 0.05] * 400],
    ],
    ids=["body", "headers"],
)
def test_a_response_that_arrives_too_slowly_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, drip: Bytes
) -> None:
    monkeypatch.setattr(transfer, "RESPONSE_SECONDS", 0.5)
    session = serve(status=drip)
    began = time.monotonic()
    with pytest.raises(NetworkError, match="no complete answer"):
        session.call("GET", STATUS, idempotent=False)
    assert time.monotonic() - began < 5


def test_a_slow_answer_is_not_retried(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(transfer, "RESPONSE_SECONDS", 0.3)
    monkeypatch.setattr(session_module, "RETRY_SECONDS", 0.3)
    session = serve(status=[head("200 OK", "Content-Length: 100000"), *[b" ", 0.05] * 400])
    with pytest.raises(NetworkError, match="no complete answer"):
        session.call("GET", STATUS, idempotent=True)
    assert "again in" not in caplog.text


def test_slow_headers_of_a_stream_are_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "RESPONSE_SECONDS", 0.5)
    session = serve(subscribe=[b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n", 0.05] * 400])
    with pytest.raises(NetworkError, match="no complete answer"):
        session.connect()


def test_a_large_response_at_a_sufficient_rate_has_more_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "RESPONSE_SECONDS", 0.3)
    body = b'{"x": 1' + b" " * 2000 + b"}"
    drops: Bytes = []
    for begin in range(0, len(body), 200):
        drops += [body[begin : begin + 200], 0.1]
    session = serve(status=[head("200 OK", f"Content-Length: {len(body)}"), *drops])
    assert session.call("GET", STATUS, idempotent=False) == {"x": 1}


@pytest.mark.parametrize(
    "drip",
    [
        [head("200 OK", "Content-Length: 100000"), *[b" ", 0.05] * 400],
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n", 0.05] * 400],
    ],
    ids=["body", "headers"],
)
def test_the_doctor_gives_up_a_slow_response_too(drip: Bytes) -> None:
    server = Scripted({**HEALTH, "GET /api/sync/live": drip})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    began = time.monotonic()
    findings = list(examine(Address.read(server.url), token="a.b.c", app="notes", timeout=0.3))
    assert time.monotonic() - began < 5
    assert [finding.check for finding in findings][:2] == ["port", "live"]
    assert findings[1].verdict != "ok"
    server.shutdown()
    server.server_close()


# Somewhere else.

MOVED = 'the server has moved: create the client with server_url="https://new.example.org'
INSTEAD = "a log-in page or a captive portal answers instead of the server"
PORTAL = f"redirected to https://hotel.example.org/welcome: {INSTEAD}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("https://new.example.org{path}?a=b", f'{MOVED}"'),
        ("https://new.example.org/sync{path}", f'{MOVED}/sync"'),
        ("https://user:secret@new.example.org{path}", f'{MOVED}"'),
        ("//new.example.org{path}", f'{MOVED.replace("https", "http")}"'),
        ("https://hotel.example.org/welcome?token=1", PORTAL),
        ("/log-in", f"redirected to http://server/log-in: {INSTEAD}"),
        ("{path}", f"redirected to http://server{{path}}: {INSTEAD}"),
    ],
)
def test_an_error_tells_where_a_redirect_leads(status: int, location: str, sentence: str) -> None:
    tale = Story(status=[Answer({}, status, {"location": location.format(path=STATUS)})])
    with pytest.raises(ServerError) as raised:
        tale.session.call("GET", STATUS, idempotent=True)
    assert str(raised.value) == sentence.format(path=STATUS)
    assert raised.value.status == status
    assert len(tale.server.asked) == 1
    tale.close()


class Story:
    """A session that is logged in at a scripted server."""

    def __init__(self, **steps: list[Any]) -> None:
        places = {"status": STATUS, "auth": AUTH, "subscribe": SUBSCRIBE}
        self.server = Script({places[name]: told for name, told in steps.items()})
        self.state, self.clock = State.open(None), FakeClock()
        logged_in(self.state, self.clock)
        http = httpx2.Client(transport=self.server)
        self.session = Session("http://server", API_KEY, self.state, http=http, clock=self.clock.time)

    def close(self) -> None:
        self.session.close()
        self.state.close()


def test_a_log_in_at_a_server_that_has_moved_says_so() -> None:
    tale = Story(auth=[Answer({}, 308, {"location": f"https://new.example.org{AUTH}"})])
    with pytest.raises(ServerError, match="the server has moved"):
        tale.session.authenticate("a@b.c", SECRET)
    tale.close()


@pytest.mark.parametrize("status", [301, 308])
def test_a_stream_ends_with_that_sentence_where_the_server_has_moved_for_good(status: int) -> None:
    tale = Story(subscribe=[Answer({}, status, {"location": f"https://new.example.org{SUBSCRIBE}"})])
    stream = SyncNotifyStream(tale.session)
    with pytest.raises(ServerError, match="the server has moved"):
        next(stream)
    assert (stream.state, stream.reason) == (StreamState.CLOSED, f'{MOVED}"')
    tale.close()


@pytest.mark.parametrize(
    ("status", "location", "sentence"),
    [
        (302, f"https://new.example.org{SUBSCRIBE}", f'{MOVED}"'),
        (301, "https://hotel.example.org/welcome", PORTAL),
    ],
)
def test_a_stream_waits_after_other_redirects_and_tells_why(status: int, location: str, sentence: str) -> None:
    tale, reasons = Story(subscribe=[Answer({}, status, {"location": location})]), []

    def note(state: StreamState, reason: str) -> None:
        reasons.append(reason)
        if state is StreamState.WAITING:
            stream.close()

    stream = SyncNotifyStream(tale.session, on_state=note)
    assert list(stream) == []
    assert reasons[1].startswith(f"{sentence}; next attempt in ")
    tale.close()


@pytest.mark.parametrize("address", ["https://server/api/sync", "https://server/api/sync/", "https://server/"])
def test_an_address_with_the_path_of_the_api_works(address: str) -> None:
    state = State.open(None)
    session = Session(address, API_KEY, state)
    assert session.authorize_url().startswith("https://server/oauth/authorize?")
    assert str(Address.read(address).subscribe) == "https://server/api/sync/subscribe"
    session.close()
    state.close()


# What was sent to it.


def log_in_error(password: str, sentence: str) -> str:
    tale = Story(auth=[Refuse(401, sentence)])
    with pytest.raises(NotAuthenticated) as raised:
        tale.session.authenticate("a@b.c", password)
    tale.close()
    return str(raised.value)


def test_the_sentence_of_the_included_backend_is_known() -> None:
    assert {WRONG_CREDENTIALS} == KNOWN_SENTENCES


@pytest.mark.parametrize("password", ["password", "e-mail", "is", "a", " ", "or"])
def test_a_password_that_is_a_common_word_does_not_garble_messages(password: str) -> None:
    assert log_in_error(password, WRONG_CREDENTIALS) == WRONG_CREDENTIALS
    assert log_in_error(password, "account locked until 12:00") in (
        "account locked until 12:00",
        "the server answered 401; its message is not shown because it contains a secret of this request",
    )


@pytest.mark.parametrize("password", ["hunter", "hunter2", "X", "12", SECRET, "пароль", API_KEY])
def test_a_server_that_repeats_the_password_is_not_quoted_with_it(password: str) -> None:
    shown = log_in_error(password, f"<{password}> does not fit")
    assert f"<{password}>" not in shown
    assert shown in ("<***> does not fit", log_in_error("secret", "no secret can be shown"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"),
        ("one\r\n\ttwo", "one two"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b2J\x7f\u2028", r"\x9b2J\x7f\u2028"),
        ("\ud800", r"\ud800"),
        ("任务: é ok", "任务: é ok"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert redacted(text, ()) == text


def test_an_error_sentence_cannot_move_a_cursor() -> None:
    tale = Story(status=[Refuse(422, "changes[0].row_id: \x1b[2J\x1b[H is too long")])
    with pytest.raises(ServerError, match=r"^changes\[0\]\.row_id: \\x1b\[2J\\x1b\[H is too long$"):
        tale.session.call("GET", STATUS, idempotent=True)
    tale.close()
