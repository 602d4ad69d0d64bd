"""`synckit doctor` against scripted servers that send a wrong response, byte by byte."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from synckit_notify.doctor import Address, examine
from synckit_notify.doctor.findings import Finding, Verdict

from ..support.byte_server import END, HEALTH, STREAM, Script, Scripted, chunk, page
from ..support.raw_client import CONNECTED, KEEPALIVE
from ..support.wait import until

TOKEN = "head.claims.signature"
SHORT_TIMEOUT, TIMEOUT = 1.0, 10.0
TOO_LONG = 3.0


@pytest.fixture
def serve() -> Iterator[Callable[..., Scripted]]:
    running: list[Scripted] = []

    def start(subscribe: Script, **others: Script) -> Scripted:
        started = Scripted(HEALTH | {"GET /api/sync/subscribe": subscribe} | others)
        threading.Thread(target=started.serve_forever, args=(0.02,), daemon=True).start()
        running.append(started)
        return started

    yield start
    for started in running:
        started.shutdown()
        started.server_close()


def examined(server: Scripted, url: str = "", timeout: float = TIMEOUT) -> list[Finding]:
    return list(examine(Address.read(url or server.url), token=TOKEN, app="notes", timeout=timeout))


def failure(server: Scripted, timeout: float = TIMEOUT) -> Finding:
    """The one FAIL."""
    (found,) = [finding for finding in examined(server, timeout=timeout) if finding.verdict is Verdict.FAIL]
    return found


def test_a_client_that_sends_nothing_leaves_no_thread_behind(serve: Callable[..., Scripted]) -> None:
    server = serve([STREAM])
    before = set(threading.enumerate())
    socket.create_connection(server.server_address).close()
    assert until(lambda: server.visitors == 1 and set(threading.enumerate()) <= before)


def test_a_captive_portal_is_no_stream(serve: Callable[..., Scripted]) -> None:
    found = failure(serve(page("200 OK", "<h1>Please log in</h1>", "Content-Type: text/html")))
    assert (found.what, found.figure) == ("the answer is no event stream", "text/html")


def test_a_redirect_to_the_right_address_is_reported_and_not_followed(serve: Callable[..., Scripted]) -> None:
    there = serve([STREAM])
    here = serve(page("308 Permanent Redirect", "", f"Location: {there.url}/api/sync/subscribe?app_id=notes"))
    found = failure(here)
    assert (found.what, found.changes[0].line) == ("redirected", f'SyncKitClient("{there.url}", …)')
    assert there.asked == []


def test_a_redirect_to_a_log_in_page_comes_from_a_proxy(serve: Callable[..., Scripted]) -> None:
    found = failure(serve(page("302 Found", "", "Location: https://login.example.org/")))
    assert found.what == "redirected to https://login.example.org/"


def test_a_full_server_says_when_to_retry(serve: Callable[..., Scripted]) -> None:
    found = failure(serve(page("503 Service Unavailable", '{"error": "full"}', "Retry-After: 7", "Server: gunicorn")))
    assert (found.what, found.figure) == ("refused: full", "503, retry after 7 s")
    assert found.changes[0].where == "gunicorn"


def test_an_error_of_a_proxy_is_distinguished_from_one_of_the_server(serve: Callable[..., Scripted]) -> None:
    found = failure(serve(page("502 Bad Gateway", "<h1>502</h1>", "Server: nginx")))
    assert (found.what, found.figure) == ("refused, but not by a SyncKit server", "502")
    assert found.why.startswith("A proxy cannot reach the server.")


def test_a_port_that_speaks_something_else_is_no_server(serve: Callable[..., Scripted]) -> None:
    found = failure(serve([], **{"GET /api/sync/live": [b"SSH-2.0-OpenSSH_9.2\r\n"]}))
    assert (found.check, found.figure) == ("live", "the connection was closed")


def test_a_server_that_accepts_connections_but_does_not_answer_is_full(serve: Callable[..., Scripted]) -> None:
    found = failure(serve([], **{"GET /api/sync/live": [TOO_LONG]}), SHORT_TIMEOUT)
    assert (found.check, found.figure) == ("live", "no response within 1 s")
    assert "worker_connections" in found.changes[0].line


def test_a_blocked_server_is_distinguished_from_a_proxy_that_buffers(
    serve: Callable[..., Scripted],
) -> None:
    stuck = failure(serve([TOO_LONG], **{"HEAD /api/sync/subscribe": [TOO_LONG]}), SHORT_TIMEOUT)
    held = failure(serve([TOO_LONG], **{"HEAD /api/sync/subscribe": [STREAM]}), SHORT_TIMEOUT)
    assert (stuck.what, held.what) == ("no answer to the subscription", "the stream is held back")
    assert held.changes[0].line.startswith("proxy_buffering off;")


def test_headers_without_a_body_are_a_body_held_back(serve: Callable[..., Scripted]) -> None:
    found = failure(serve([STREAM, TOO_LONG]), SHORT_TIMEOUT)
    assert found.what == "the body is held back"


def test_keepalives_that_arrive_together_were_held_back(serve: Callable[..., Scripted]) -> None:
    found = failure(serve([STREAM, chunk(CONNECTED + KEEPALIVE + KEEPALIVE), TOO_LONG]))
    assert (found.what, found.figure) == ("keepalives arrive in bursts", "0.0, 0.0 s; 1.2 s announced")


def test_a_cut_is_distinguished_from_an_orderly_end(serve: Callable[..., Scripted]) -> None:
    cut, ended = failure(serve([STREAM, chunk(CONNECTED)])), failure(serve([STREAM, chunk(CONNECTED), END]))
    assert (cut.what, ended.what) == ("the stream was cut while it was active", "the stream ends without ': bye'")


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        ("draining", Verdict.WARN),
        ("token_expired", Verdict.WARN),
        ("max_age", Verdict.OK),
        ("revoked", Verdict.FAIL),
    ],
)
def test_the_bye_comment_gives_the_reason_of_the_end(
    serve: Callable[..., Scripted], reason: str, verdict: Verdict
) -> None:
    findings = examined(serve([STREAM, chunk(CONNECTED), chunk(f": bye {reason}\n\n".encode()), END]))
    assert (findings[-1].verdict, findings[-1].check) == (verdict, "end")
    assert reason.replace("max_age", "maximum age") in findings[-1].what


def test_what_a_server_says_is_shown_without_control_characters_and_without_the_token(
    serve: Callable[..., Scripted],
) -> None:
    words = f'{{"error": "not {TOKEN}\\u001b[31m"}}'
    server = serve(page("401 Unauthorized", words, f"Server: {TOKEN}"))
    assert failure(server).what == r"refused: not ***\x1b[31m"
    assert TOKEN not in str(examined(server))


def test_the_subscription_may_be_mounted_elsewhere(serve: Callable[..., Scripted]) -> None:
    server = serve([], **{"*": page("404 Not Found", "")})
    examined(server, f"{server.url}/v1/push/subscribe")
    paths = [asked.split()[1].partition("?")[0] for asked in server.asked]
    assert paths == ["/v1/push/live", "/v1/push/ready", "/v1/push/subscribe"]


def test_the_proxy_of_the_environment_is_named_and_can_be_bypassed(
    serve: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve([STREAM, chunk(CONNECTED), chunk(b": bye max_age\n\n"), END])
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    first, last = examined(server, timeout=SHORT_TIMEOUT)
    assert (first.check, first.verdict, last.check, last.verdict) == ("proxy", Verdict.WARN, "live", Verdict.FAIL)
    assert first.changes[0].line.startswith("NO_PROXY='*' ")
    monkeypatch.setenv("NO_PROXY", "*")
    assert examined(server)[-1].what == "the server ended the stream at its maximum age, as configured"


def test_only_the_subscription_carries_the_token(serve: Callable[..., Scripted]) -> None:
    server = serve(page("404 Not Found", ""))
    examined(server)
    assert [TOKEN in asked for asked in server.asked] == [False, False, True]
