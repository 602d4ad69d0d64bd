"""The rules of `synckit doctor`: plain values in, findings out; no network and no clock."""

import sys
import zlib

import httpx2
import pytest

from synckit_notify import sse
from synckit_notify.doctor import Address, Report, fixes, health_checks, network, response, stream
from synckit_notify.doctor.findings import Finding, Verdict, fails, format_duration, ok
from synckit_notify.doctor.fixes import Change
from synckit_notify.doctor.health_checks import Answer, Attempt
from synckit_notify.doctor.stream import Chunk, End, Recording, StreamRecorder

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
URL = httpx2.URL("http://sync.example.org/api/sync/subscribe?app_id=notes")
PATH, PREFIX = "/api/sync/subscribe", "/api/sync"

GUNICORN = {"server": "gunicorn", "connection": "keep-alive"}
SENT = GUNICORN | {
    "content-type": "text/event-stream",
    "transfer-encoding": "chunked",
    "cache-control": "no-store, no-transform",
    "synckit-keepalive": "30",
}

CONNECTED, KEEPALIVE, CHANGED = stream.CONNECTED, stream.KEEPALIVE, sse.Event("changed", "", "")


def summary(finding: Finding) -> tuple[Verdict, str]:
    return finding.verdict, finding.what


def first_line(finding: Finding) -> str:
    return finding.changes[0].line


# Before the subscription.


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("certificate has expired", "Renew the certificate"),
        ("unable to get local issuer certificate", "the whole chain"),
        ("self-signed certificate", "SSL_CERT_FILE"),
        ("Hostname mismatch, certificate is not valid for 'h'.", "openssl s_client -connect h:443"),
        ("wrong version number", "http://"),
    ],
)
def test_each_way_for_tls_to_fail_has_its_own_advice(problem: str, advice: str) -> None:
    found = health_checks.tls("h", 443, Attempt(seconds=0.1, problem=problem))
    assert summary(found) == (FAIL, "TLS fails")
    assert advice in found.why + "".join(change.line for change in found.changes)


def test_a_certificate_is_watched_before_it_expires() -> None:
    good = health_checks.tls("h", 443, Attempt(seconds=0.1, tls="TLSv1.3", days_left=61.2))
    ending = health_checks.tls("h", 443, Attempt(seconds=0.1, tls="TLSv1.3", days_left=13.9))
    assert summary(good) == (OK, "TLSv1.3, certificate valid for 61 days")
    assert summary(ending) == (WARN, "the certificate expires soon")


def test_an_address_that_is_closed_beside_one_that_is_open_costs_time_only() -> None:
    fine, closed = Attempt(seconds=0.01), Attempt(seconds=0.0, problem="Connection refused", refused=True)
    assert summary(health_checks.port(443, {"203.0.113.7": fine, "2001:db8::7": closed})) == (
        WARN,
        "port 443 is closed at 2001:db8::7",
    )
    assert summary(health_checks.port(443, {"203.0.113.7": fine})) == (OK, "port 443 accepts connections")
    assert "Nothing listens" in health_checks.port(443, {"203.0.113.7": closed}).why
    assert (
        "firewall" in health_checks.port(443, {"203.0.113.7": Attempt(seconds=5, problem="no response within 5 s")}).why
    )


def test_a_name_is_found_or_not() -> None:
    assert summary(health_checks.name("h", Attempt(seconds=0.1, addresses=("::1", "127.0.0.1")))) == (
        OK,
        "h is ::1, 127.0.0.1",
    )
    assert summary(health_checks.name("h", Attempt(seconds=0.1, problem="Name or service not known"))) == (
        FAIL,
        "the name h is not found",
    )


@pytest.mark.parametrize(
    ("state", "status", "verdict", "what"),
    [
        ({"ready": True, "host": True, "streams": 3, "max_streams": 900, "fill": 0.003}, 200, OK, "3 of 900 streams"),
        ({"ready": True, "host": True, "streams": 3, "max_streams": None}, 200, OK, "3 of any number of streams"),
        ({"ready": True, "host": True, "streams": 890, "max_streams": 900, "fill": 0.99}, 200, WARN, "almost full"),
        ({"ready": True, "host": True, "echo": False}, 200, WARN, "the broker does not answer"),
        ({"ready": True, "host": True, "echo": False, "connected": False, "streams": 0}, 200, OK, "0 of any number"),
        ({"ready": True, "host": True, "echo": False, "connected": False, "streams": 1}, 200, WARN, "does not answer"),
        ({"ready": False, "host": True, "draining": True}, 503, WARN, "draining"),
        ({"ready": False, "host": False}, 503, FAIL, "not ready"),
        (["nonsense"], 200, WARN, "is not answered by a SyncKit server"),
        (None, 404, WARN, "is not answered by a SyncKit server"),
    ],
)
def test_what_ready_says_is_read(state: object, status: int, verdict: Verdict, what: str) -> None:
    found = health_checks.ready("/ready", Answer(seconds=0.1, status=status, body=state))
    assert found.verdict is verdict
    assert what in found.what


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (1_800_000_000.0, (OK, "the clocks of client and server agree")),
        (1_800_000_055.0, (OK, "the clocks of client and server agree")),
        (1_800_000_090.0, (WARN, "the server's clock is behind the clock of this machine")),
        (1_799_999_900.0, (WARN, "the server's clock is ahead of the clock of this machine")),
    ],
)
def test_clocks_may_differ_by_a_minute(here: float, expected: tuple[Verdict, str]) -> None:
    dated = Answer(seconds=0.1, status=200, headers={"date": "Fri, 15 Jan 2027 08:00:00 GMT"}, at=here)
    assert [summary(found) for found in health_checks.clocks(dated)] == [expected]


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_without_a_date_nothing_is_said_of_clocks(headers: dict[str, str]) -> None:
    assert health_checks.clocks(Answer(seconds=0.1, status=200, headers=headers)) == []


# The servers of a response, and the fixes.


@pytest.mark.parametrize(
    ("headers", "servers"),
    [
        (GUNICORN, ("gunicorn",)),
        ({"server": "gunicorn"}, ("HAProxy", "gunicorn")),
        ({"server": "nginx/1.22.1"}, ("nginx",)),
        ({"server": "openresty"}, ("nginx",)),
        ({"server": "Caddy, gunicorn"}, ("Caddy", "gunicorn")),
        ({"server": "gunicorn", "via": "1.1 Caddy"}, ("Caddy", "gunicorn")),
        ({}, ()),
    ],
)
def test_headers_show_which_servers_answer(headers: dict[str, str], servers: tuple[str, ...]) -> None:
    assert fixes.identify_servers(headers) == servers


def test_the_changes_for_the_servers_of_a_response_come_first() -> None:
    nginx, one, two = Change("nginx", "n"), Change("HAProxy", "1"), Change("HAProxy", "2")
    assert fixes.identified_first((nginx, one, two), ("gunicorn", "HAProxy")) == (one, two, nginx)


def test_a_proxy_timeout_is_two_and_a_half_keepalives() -> None:
    nginx, _, haproxy, setting = (change.line for change in fixes.longer_timeouts(PATH, 60, 20))
    assert nginx.startswith("proxy_read_timeout 150s;")
    assert haproxy.startswith("timeout server 150s")
    assert setting.startswith("SYNCKIT_KEEPALIVE_SECONDS=10 ")
    assert fixes.longer_timeouts(PATH, 3, 2)[0].line.startswith("proxy_read_timeout 75s;")


# The response.


def judged(status: int = 200, body: object = None, version: str = "HTTP/1.1", **headers: str | None) -> list[Finding]:
    """The findings of an answer like the server's own, but for these headers."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in (SENT | changed).items() if value is not None}
    message = str(body["error"]) if isinstance(body, dict) else ""
    return response.judge(
        Answer(seconds=0.01, status=status, version=version, headers=kept, body=body, message=message), URL, PREFIX
    )


def test_a_response_as_the_server_sends_it_is_ok() -> None:
    assert [found.verdict for found in judged()] == [OK] * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"content_type": "text/html"}, (FAIL, "the answer is no event stream")),
        ({"content_type": None}, (FAIL, "the answer is no event stream")),
        ({"content_length": "90"}, (FAIL, "the response has a Content-Length")),
        ({"transfer_encoding": None}, (WARN, "HTTP/1.1 without chunked encoding")),
        ({"transfer_encoding": None, "version": "HTTP/1.0"}, (WARN, "HTTP/1.0 without chunked encoding")),
        ({"cache_control": "max-age=60"}, (WARN, "Cache-Control was changed on the way")),
        ({"cache_control": None}, (WARN, "Cache-Control was changed on the way")),
        ({"synckit_keepalive": None}, (WARN, "SyncKit-Keepalive is missing")),
        ({"age": "12"}, (FAIL, "the response comes from a cache")),
        ({"content_encoding": "gzip"}, (WARN, "a proxy compresses the stream")),
        ({"content_encoding": "br"}, (FAIL, "compressed with an encoding that was not accepted")),
    ],
)
def test_changes_to_the_response_are_found(changes: dict[str, str], expected: tuple[Verdict, str]) -> None:
    assert [summary(found) for found in judged(**changes) if found.verdict is not OK] == [expected]


def test_x_accel_buffering_may_be_removed_by_nginx() -> None:
    assert not fails(judged(server="nginx", connection="keep-alive"))
    assert all(found.verdict is OK for found in judged(x_accel_buffering="no"))


@pytest.mark.parametrize(
    ("status", "from_synckit", "why"),
    [
        (401, True, "Get a new token"),
        (401, False, "A proxy or firewall asks for a log-in"),
        (403, True, "for another app"),
        (403, False, "A proxy or firewall asks for a log-in"),
        (404, True, "no Notifier is mounted at this path"),
        (409, True, "See the server's log"),
        (404, False, "No Notifier is mounted at this path"),
        (429, True, "too many open streams"),
        (503, True, "more connections"),
        (503, False, "A proxy cannot reach the server"),
        (524, False, "A proxy cannot reach the server"),
        (500, False, "See the logs of the proxy"),
        (400, False, "The port may speak TLS"),
    ],
)
def test_a_refusal_is_explained_by_its_status_and_sender(status: int, from_synckit: bool, why: str) -> None:
    (found,) = judged(status, {"error": "the reason"} if from_synckit else None)
    assert found.verdict is FAIL
    assert why in found.why
    assert (found.what == "refused: the reason") is from_synckit


def test_http2_is_judged_beside_http1() -> None:
    over_http1 = Answer(seconds=0.01, status=200, headers=SENT | {"server": "nginx"})
    good = Answer(seconds=0.01, status=200, version="HTTP/2", headers=SENT)
    silent = Answer(seconds=9.0, problem="no response within 9 s")
    refused = Answer(seconds=0.01, status=503, version="HTTP/2", headers=GUNICORN, body={"error": "no"}, message="no")
    assert summary(response.over_http2(good, over_http1, PATH)) == (OK, "a stream over HTTP/2 starts at once")
    for bad, figure, change in [
        (silent, "no response within 9 s", "proxy_buffering off;"),
        (refused, "no", "http_protocols"),
    ]:
        found = response.over_http2(bad, over_http1, PATH)
        assert (summary(found), found.figure) == ((FAIL, "no stream over HTTP/2"), figure)
        assert first_line(found).startswith(change)
    assert summary(response.without_http2(offered=False)) == (OK, "HTTP/2 is not offered")


# The bytes.


def recorded(
    *messages: tuple[float, object], until: float, end: End = End.OPEN, latency: float = 0.01
) -> list[Finding]:
    """The findings of a stream with a keepalive every 30 s."""
    chunks = tuple(Chunk(at, sent if isinstance(sent, tuple) else (sent,)) for at, sent in messages)
    answer = Answer(seconds=0.01, status=200, headers={**SENT, "connection": "close"})
    return stream.judge(Recording(chunks, until, end, 30.0, latency), answer, PATH)


def complaints(findings: list[Finding]) -> list[tuple[Verdict, str]]:
    return [summary(found) for found in findings if found.verdict is not OK]


GOOD = [(0.01, CONNECTED), (30.0, KEEPALIVE), (60.0, KEEPALIVE)]


@pytest.mark.parametrize(
    ("messages", "until", "end", "expected"),
    [
        (GOOD, 60.0, End.OPEN, []),
        ([(0.01, (CONNECTED, CHANGED)), *[(at * 10.0, CHANGED) for at in range(1, 9)]], 80.0, End.OPEN, []),
        ([(1.2, CONNECTED), *GOOD[1:]], 60.0, End.OPEN, [(FAIL, "the first bytes are late")]),
        ([], 10.0, End.OPEN, [(FAIL, "the body is held back")]),
        (
            [(60.0, (CONNECTED, KEEPALIVE, KEEPALIVE))],
            60.1,
            End.OPEN,
            [(FAIL, "the first bytes are late"), (FAIL, "keepalives arrive in bursts")],
        ),
        (
            [(0.01, CONNECTED), (60.0, KEEPALIVE), (60.01, KEEPALIVE)],
            60.1,
            End.OPEN,
            [(FAIL, "keepalives arrive in bursts")],
        ),
        ([(0.01, CONNECTED), (50.0, KEEPALIVE)], 50.1, End.OPEN, [(WARN, "nothing for 50.0 s")]),
        ([(0.01, CONNECTED)], 76.01, End.OPEN, [(FAIL, "nothing for 76.0 s")]),
        ([(0.01, CONNECTED)], 5.0, End.OPEN, [(WARN, "no keepalive was due yet")]),
        (
            [(0.01, CHANGED), *GOOD[1:]],
            60.0,
            End.OPEN,
            [(WARN, "the stream does not begin with ': connected'")],
        ),
        ([(0.01, CONNECTED)], 20.01, End.CUT, [(FAIL, "closed after 20.0 s of silence")]),
        ([(0.01, CONNECTED)], 20.01, End.CLEAN, [(FAIL, "closed after 20.0 s of silence")]),
        ([], 20.0, End.CUT, [(FAIL, "closed after 20.0 s of silence")]),
        ([(0.01, CONNECTED)], 1.0, End.CUT, [(FAIL, "the stream was cut while it was active")]),
        (GOOD, 80.0, End.CUT, [(FAIL, "the stream was cut while it was active")]),
        (GOOD, 80.0, End.CLEAN, [(FAIL, "the stream ends without ': bye'")]),
        ([(0.01, CONNECTED), (9.0, sse.Comment("bye max_age"))], 9.0, End.CLEAN, []),
        (
            [(0.01, (sse.Retry(900), sse.Comment("bye draining")))],
            0.02,
            End.CLEAN,
            [(WARN, "the server says bye: draining")],
        ),
        (
            [(0.01, CONNECTED), (9.0, sse.Comment("bye revoked"))],
            9.0,
            End.CUT,
            [(FAIL, "the server says bye: revoked")],
        ),
    ],
)
def test_a_recording_is_judged(
    messages: list[tuple[float, object]], until: float, end: End, expected: list[tuple[Verdict, str]]
) -> None:
    assert complaints(recorded(*messages, until=until, end=end)) == expected


def test_a_compressor_that_delays_events_is_to_be_turned_off() -> None:
    recorder, compressor = StreamRecorder(30.0, None, gzip=True), zlib.compressobj(wbits=stream.GZIP)
    recorder.feed(0.01, compressor.compress(b": connected\n\n"))
    answer = Answer(seconds=0.01, status=200, headers={**SENT, "server": "nginx", "content-encoding": "gzip"})
    (found,) = stream.judge(recorder.recording(10.0, 0.0), answer, PATH)
    assert summary(found) == (FAIL, "the body is held back")
    assert first_line(found).startswith("gzip off;")


def test_a_far_server_is_not_late() -> None:
    assert complaints(recorded((1.9, CONNECTED), *GOOD[1:], until=60.0, latency=1.2)) == []


def test_a_keepalive_of_less_than_a_second_is_no_burst_when_the_machine_was_busy() -> None:
    chunks = tuple(Chunk(at, (sent,)) for at, sent in [(0.0, CONNECTED), (0.6, KEEPALIVE), (0.6, KEEPALIVE)])
    found = stream.judge(Recording(chunks, 0.7, End.OPEN, 0.3), Answer(seconds=0.0, headers=SENT), PATH)
    assert complaints(found) == []


# When the recorder has read enough.


def test_two_keepalives_are_enough() -> None:
    recorder = StreamRecorder(30.0, None, gzip=False)
    for at, data in [(0.0, b": connected\n\n"), (30.0, b": keepalive\n\n")]:
        recorder.feed(at, data)
        assert not recorder.is_complete(at, timeout=10)
    recorder.feed(60.0, b": keepalive\n\n")
    assert recorder.is_complete(60.0, timeout=10)


@pytest.mark.parametrize(
    ("data", "now", "enough"),
    [
        (None, 9.9, False),
        (None, 10.1, True),
        (b": connected\n\n", 75.9, False),
        (b": connected\n\n", 76.1, True),
        (b"", 0.0, True),
    ],
)
def test_a_silent_stream_is_read_only_until_the_silence_is_a_finding(
    data: bytes | None, now: float, enough: bool
) -> None:
    recorder = StreamRecorder(30.0, None, gzip=False)
    if data is not None:
        recorder.feed(0.0, data)
    assert recorder.is_complete(now, timeout=10) is enough


def test_a_given_duration_is_used_in_full() -> None:
    recorder = StreamRecorder(30.0, 300.0, gzip=False)
    for at in (0.0, 30.0, 60.0):
        recorder.feed(at, b": keepalive\n\n")
    assert not recorder.is_complete(299.0, timeout=10)
    assert recorder.is_complete(300.0, timeout=10)


def test_a_stream_that_is_flushed_by_its_compressor_is_decompressed() -> None:
    recorder, compressor = StreamRecorder(30.0, None, gzip=True), zlib.compressobj(wbits=stream.GZIP)
    for at, frame in [(0.0, b": connected\n\n"), (30.0, b": keepalive\n\n")]:
        recorder.feed(at, compressor.compress(frame) + compressor.flush(zlib.Z_SYNC_FLUSH))
    assert [message for _, message in recorder.recording(31.0, 0.0).messages] == [CONNECTED, KEEPALIVE]
    with pytest.raises(zlib.error):
        StreamRecorder(30.0, None, gzip=True).feed(0.0, b": connected\n\n")


# What a person types, and what is printed.


@pytest.mark.parametrize(
    ("url", "subscribe", "port"),
    [
        ("https://sync.example.org", "https://sync.example.org/api/sync/subscribe", 443),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/api/sync/subscribe", 8000),
        ("https://example.org/v1/push/subscribe", "https://example.org/v1/push/subscribe", 443),
        ("http://subscribe", "http://subscribe/api/sync/subscribe", 80),
    ],
)
def test_an_address_is_the_servers_or_that_of_its_subscription(url: str, subscribe: str, port: int) -> None:
    address = Address.read(url)
    assert (str(address.subscribe), address.port) == (subscribe, port)
    assert str(address.sibling("live")) == subscribe.removesuffix("subscribe") + "live"


def test_the_proxy_of_the_environment_is_known_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.example.org:3128")
    assert Address.read("http://sync.example.org").proxy == "proxy.example.org:3128"
    monkeypatch.setenv("no_proxy", "example.org")
    assert Address.read("http://sync.example.org").proxy == ""


@pytest.mark.parametrize("name", ["a" * 70 + ".invalid", "nothing.invalid"])
def test_a_name_that_cannot_be_looked_up_is_a_problem_and_no_crash(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(-2, "Name or service not known")

    if name == "nothing.invalid":
        monkeypatch.setattr(network.socket, "getaddrinfo", fail)
    assert network.look_up(Address.read(f"http://{name}")).problem


@pytest.mark.parametrize("token", ["", "  ", "two words", "ключ", "a\nb"])
def test_what_is_no_token_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(
        ValueError, match=r"^--token must be an access token; this value is empty or has characters that no token has$"
    ):
        network.readable_token(token)


def test_a_token_may_be_copied_with_its_line_end() -> None:
    assert network.readable_token("a.b.c\n") == "a.b.c"


def test_a_finding_is_shown_without_control_characters() -> None:
    found = Finding(FAIL, "answer", "no\nway", "\x1b[2J", "\u202e", (Change("app", "\x07"),)).escaped()
    assert found == Finding(FAIL, "answer", "no way", r"\x1b[2J", r"\u202e", (Change("app", r"\x07"),))
    assert not fails([ok("name", "fine")])


def test_advice_that_was_just_given_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    changes = (Change("nginx", "one;"), Change("nginx", "two;"), Change("Caddy", "three"))
    with Report("http://h", as_json=False) as report:
        for number in (1, 2):
            report.say(Finding(FAIL, "answer", f"number {number}", "", "The reason.", changes))
    assert report.failed
    assert capsys.readouterr().out.splitlines() == [
        *("http://h", ""),
        *("FAIL  number 1", "      The reason."),
        *("        nginx  one;", "               two;", "        Caddy  three"),
        *("FAIL  number 2", "      The reason.", "        (as above)"),
        *("", "2 FAIL"),
    ]


def test_progress_is_for_a_person_who_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for watched in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        with Report("http://h", as_json=True) as report:
            report.wait("listening")
        assert ("listening …" in capsys.readouterr().err) is watched


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0002, "under 1 ms"), (0.0421, "42 ms"), (0.9996, "1000 ms"), (12.34, "12.3 s")]
)
def test_durations_are_read_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
