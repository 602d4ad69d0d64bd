"""The rules of `synckit doctor`: observations in, findings out; no network and no time."""

import sys
import zlib

import httpx2
import pytest

from synckit_notify import sse
from synckit_notify.doctor import Address, Report, fixes, health_checks, network, response, stream
from synckit_notify.doctor.findings import Finding, Verdict, fails, lasting, ok
from synckit_notify.doctor.fixes import Change
from synckit_notify.doctor.health_checks import Answer, Attempt
from synckit_notify.doctor.stream import Chunk, End, StreamRecorder, Watch

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


def told(finding: Finding) -> tuple[Verdict, str]:
    return finding.verdict, finding.what


def first_line(finding: Finding) -> str:
    return finding.changes[0].line


# The way.


@pytest.mark.parametrize(
    ("problem", "why", "line"),
    [
        ("certificate has expired", "Renew it", "certbot renew"),
        ("unable to get local issuer certificate", "the whole chain", "fullchain.pem"),
        ("self-signed certificate", "signed itself", "SSL_CERT_FILE"),
        ("Hostname mismatch, certificate is not valid for 'h'.", "for other names", "openssl s_client -connect h:443"),
        ("wrong version number", "http://", "listen 443 ssl;"),
    ],
)
def test_each_way_for_tls_to_fail_has_its_own_advice(problem: str, why: str, line: str) -> None:
    found = health_checks.tls("h", 443, Attempt(seconds=0.1, problem=problem))
    assert told(found) == (FAIL, "TLS fails")
    assert why in found.why
    assert line in first_line(found)


def test_a_certificate_is_watched_before_it_expires() -> None:
    good = health_checks.tls("h", 443, Attempt(seconds=0.1, tls="TLSv1.3", days_left=61.2))
    ending = health_checks.tls("h", 443, Attempt(seconds=0.1, tls="TLSv1.3", days_left=13.9))
    assert told(good) == (OK, "TLSv1.3, certificate valid for 61 days")
    assert told(ending) == (WARN, "the certificate expires soon")


def test_an_address_that_is_closed_beside_one_that_is_open_costs_time_only() -> None:
    fine, closed = Attempt(seconds=0.01), Attempt(seconds=0.0, problem="Connection refused", refused=True)
    assert told(health_checks.port(443, {"203.0.113.7": fine, "2001:db8::7": closed})) == (
        WARN,
        "port 443 is closed at 2001:db8::7",
    )
    assert told(health_checks.port(443, {"203.0.113.7": fine})) == (OK, "port 443 accepts connections")
    assert "Nothing listens" in health_checks.port(443, {"203.0.113.7": closed}).why
    assert "firewall" in health_checks.port(443, {"203.0.113.7": Attempt(seconds=5, problem="nothing within 5 s")}).why


def test_a_name_is_found_or_not() -> None:
    assert told(health_checks.name("h", Attempt(seconds=0.1, addresses=("::1", "127.0.0.1")))) == (
        OK,
        "h is ::1, 127.0.0.1",
    )
    assert told(health_checks.name("h", Attempt(seconds=0.1, problem="Name or service not known"))) == (
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
        (1_800_000_000.0, (OK, "the clocks here and there agree")),
        (1_800_000_055.0, (OK, "the clocks here and there agree")),
        (1_800_000_090.0, (WARN, "the server's clock is behind the one here")),
        (1_799_999_900.0, (WARN, "the server's clock is ahead of the one here")),
    ],
)
def test_clocks_may_differ_by_a_minute(here: float, expected: tuple[Verdict, str]) -> None:
    dated = Answer(seconds=0.1, status=200, headers={"date": "Fri, 15 Jan 2027 08:00:00 GMT"}, at=here)
    assert [told(found) for found in health_checks.clocks(dated)] == [expected]


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_without_a_date_nothing_is_said_of_clocks(headers: dict[str, str]) -> None:
    assert health_checks.clocks(Answer(seconds=0.1, status=200, headers=headers)) == []


# Who stands there.


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        (GUNICORN, ("gunicorn",)),
        ({"server": "gunicorn"}, ("HAProxy", "gunicorn")),
        ({"server": "nginx/1.22.1"}, ("nginx",)),
        ({"server": "openresty"}, ("nginx",)),
        ({"server": "Caddy, gunicorn"}, ("Caddy", "gunicorn")),
        ({"server": "gunicorn", "via": "1.1 Caddy"}, ("Caddy", "gunicorn")),
        ({"server": "cloudflare"}, ("Cloudflare",)),
        ({"server": "nginx", "cf-ray": "8f"}, ("Cloudflare", "nginx")),
        ({"server": "awselb/2.0"}, ("AWS ALB",)),
        ({}, ()),
    ],
)
def test_headers_betray_who_answers(headers: dict[str, str], seen: tuple[str, ...]) -> None:
    assert fixes.standing_there(headers) == seen


def test_the_lines_for_who_was_seen_come_first_and_cloudflares_only_then() -> None:
    remedy = {"nginx": ("n",), "HAProxy": ("h1", "h2"), "Cloudflare": ("c",)}
    assert fixes.changes(remedy, ("gunicorn", "HAProxy")) == (
        Change("HAProxy", "h1"),
        Change("HAProxy", "h2"),
        Change("nginx", "n"),
    )
    assert fixes.changes(remedy, ("Cloudflare",))[0] == Change("Cloudflare", "c")


def test_a_proxy_is_told_to_wait_for_two_and_a_half_keepalives() -> None:
    assert fixes.longer_timeouts(PATH, 30, 20)["nginx"][0].startswith("proxy_read_timeout 75s;")
    assert fixes.longer_timeouts(PATH, 60, 20)["HAProxy"][1].startswith("timeout server 150s")
    assert fixes.longer_timeouts(PATH, 30, 20)["setting"][0].startswith("SYNCKIT_KEEPALIVE_SECONDS=10 ")


# The answer.


def judged(status: int = 200, body: object = None, version: str = "HTTP/1.1", **headers: str | None) -> list[Finding]:
    """The findings of an answer like the server's own, but for these headers."""
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in (SENT | changed).items() if value is not None}
    words = str(body["error"]) if isinstance(body, dict) else ""
    return response.judge(
        Answer(seconds=0.01, status=status, version=version, headers=kept, body=body, words=words), URL, PREFIX
    )


def test_an_answer_as_the_server_sends_it_is_well() -> None:
    assert [found.verdict for found in judged()] == [OK] * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"content_type": "text/html"}, (FAIL, "the answer is no event stream")),
        ({"content_type": None}, (FAIL, "the answer is no event stream")),
        ({"content_length": "90"}, (FAIL, "the answer has a length")),
        ({"transfer_encoding": None}, (WARN, "HTTP/1.1 without chunks")),
        ({"transfer_encoding": None, "version": "HTTP/1.0"}, (WARN, "HTTP/1.0 without chunks")),
        ({"cache_control": "max-age=60"}, (WARN, "Cache-Control was changed on the way")),
        ({"cache_control": None}, (WARN, "Cache-Control was changed on the way")),
        ({"synckit_keepalive": None}, (WARN, "SyncKit-Keepalive is missing")),
        ({"age": "12"}, (FAIL, "the answer comes out of a cache")),
        ({"content_encoding": "gzip"}, (WARN, "the stream is compressed on the way")),
        ({"content_encoding": "br"}, (FAIL, "compressed in a way not asked for")),
    ],
)
def test_what_was_done_to_the_answer_is_seen(changes: dict[str, str], expected: tuple[Verdict, str]) -> None:
    assert [told(found) for found in judged(**changes) if found.verdict is not OK] == [expected]


def test_nginx_takes_its_own_header_away_and_that_is_well() -> None:
    assert not fails(judged(server="nginx", connection="keep-alive"))
    assert all(found.verdict is OK for found in judged(x_accel_buffering="no"))


@pytest.mark.parametrize(
    ("status", "own", "why"),
    [
        (401, True, "Get a new token"),
        (401, False, "A log-in or firewall of a proxy"),
        (403, True, "made for another app"),
        (403, False, "A log-in or firewall of a proxy"),
        (404, True, "nothing is mounted at this path"),
        (409, True, "The server's log tells more"),
        (404, False, "Nothing is mounted there"),
        (429, True, "Devices that come and go"),
        (503, True, "more seats"),
        (503, False, "A proxy does not reach the server"),
        (524, False, "A proxy does not reach the server"),
        (500, False, "The logs of proxy and server"),
        (400, False, "Perhaps the port speaks TLS"),
    ],
)
def test_a_refusal_is_explained_by_who_wrote_it(status: int, own: bool, why: str) -> None:
    (found,) = judged(status, {"error": "the reason"} if own else None)
    assert found.verdict is FAIL
    assert why in found.why
    assert (found.what == "refused: the reason") is own


def test_http2_is_judged_beside_http1() -> None:
    over_http1 = Answer(seconds=0.01, status=200, headers=SENT | {"server": "nginx"})
    good = Answer(seconds=0.01, status=200, version="HTTP/2", headers=SENT)
    silent = Answer(seconds=9.0, problem="nothing within 9 s")
    refused = Answer(seconds=0.01, status=503, version="HTTP/2", headers=GUNICORN, body={"error": "no"}, words="no")
    assert told(response.over_http2(good, over_http1, PATH)) == (OK, "a stream over HTTP/2 comes at once too")
    for bad, figure, change in [
        (silent, "nothing within 9 s", "proxy_buffering off;"),
        (refused, "no", "http_protocols"),
    ]:
        found = response.over_http2(bad, over_http1, PATH)
        assert (told(found), found.figure) == ((FAIL, "no stream over HTTP/2"), figure)
        assert first_line(found).startswith(change)
    assert told(response.without_http2(offered=False)) == (OK, "HTTP/2 is not offered")


# The bytes.


def heard(*moments: tuple[float, object], until: float, end: End = End.OPEN, usual: float = 0.01) -> list[Finding]:
    """The findings of a stream with a keepalive each 30 s, through HAProxy without a word of its own."""
    pieces = tuple(Chunk(at, said if isinstance(said, tuple) else (said,)) for at, said in moments)
    through = Answer(seconds=0.01, status=200, headers={**SENT, "connection": "close"})
    return stream.judge(Watch(pieces, until, end, 30.0, usual), through, PATH)


def complaints(findings: list[Finding]) -> list[tuple[Verdict, str]]:
    return [told(found) for found in findings if found.verdict is not OK]


GOOD = [(0.01, CONNECTED), (30.0, KEEPALIVE), (60.0, KEEPALIVE)]


@pytest.mark.parametrize(
    ("moments", "until", "end", "expected"),
    [
        (GOOD, 60.0, End.OPEN, []),
        ([(0.01, (CONNECTED, CHANGED)), *[(at * 10.0, CHANGED) for at in range(1, 9)]], 80.0, End.OPEN, []),
        ([(1.2, CONNECTED), *GOOD[1:]], 60.0, End.OPEN, [(FAIL, "the first bytes come late")]),
        ([], 10.0, End.OPEN, [(FAIL, "the body is held back")]),
        (
            [(60.0, (CONNECTED, KEEPALIVE, KEEPALIVE))],
            60.1,
            End.OPEN,
            [(FAIL, "the first bytes come late"), (FAIL, "keepalives come in bursts")],
        ),
        (
            [(0.01, CONNECTED), (60.0, KEEPALIVE), (60.01, KEEPALIVE)],
            60.1,
            End.OPEN,
            [(FAIL, "keepalives come in bursts")],
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
        ([(0.01, CONNECTED)], 20.01, End.CUT, [(FAIL, "cut after 20.0 s of silence")]),
        ([(0.01, CONNECTED)], 20.01, End.CLEAN, [(FAIL, "cut after 20.0 s of silence")]),
        ([], 20.0, End.CUT, [(FAIL, "cut after 20.0 s of silence")]),
        ([(0.01, CONNECTED)], 1.0, End.CUT, [(FAIL, "cut while it was alive")]),
        (GOOD, 80.0, End.CUT, [(FAIL, "cut while it was alive")]),
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
def test_what_was_heard_is_judged(
    moments: list[tuple[float, object]], until: float, end: End, expected: list[tuple[Verdict, str]]
) -> None:
    assert complaints(heard(*moments, until=until, end=end)) == expected


def test_a_compressor_that_holds_frames_back_is_to_be_switched_off() -> None:
    ear, press = StreamRecorder(30.0, None, gzip=True), zlib.compressobj(wbits=stream.GZIP)
    ear.hear(0.01, press.compress(b": connected\n\n"))
    caddy = Answer(seconds=0.01, status=200, headers={**SENT, "server": "Caddy", "content-encoding": "gzip"})
    (found,) = stream.judge(ear.heard_until(10.0, 0.0), caddy, PATH)
    assert told(found) == (FAIL, "the body is held back")
    assert found.changes[0] == Change("Caddy", f"@compressed not path {PATH}")


def test_a_far_server_is_not_late() -> None:
    assert complaints(heard((1.9, CONNECTED), *GOOD[1:], until=60.0, usual=1.2)) == []


def test_a_keepalive_of_less_than_a_second_is_no_burst_when_the_machine_was_busy() -> None:
    pieces = tuple(Chunk(at, (said,)) for at, said in [(0.0, CONNECTED), (0.6, KEEPALIVE), (0.6, KEEPALIVE)])
    found = stream.judge(Watch(pieces, 0.7, End.OPEN, 0.3), Answer(seconds=0.0, headers=SENT), PATH)
    assert complaints(found) == []


# When enough was heard.


def test_two_keepalives_are_enough() -> None:
    ear = StreamRecorder(30.0, None, gzip=False)
    for at, data in [(0.0, b": connected\n\n"), (30.0, b": keepalive\n\n")]:
        ear.hear(at, data)
        assert not ear.has_heard_enough(at, patience=10)
    ear.hear(60.0, b": keepalive\n\n")
    assert ear.has_heard_enough(60.0, patience=10)


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
def test_silence_is_waited_out_only_until_it_tells_something(data: bytes | None, now: float, enough: bool) -> None:
    ear = StreamRecorder(30.0, None, gzip=False)
    if data is not None:
        ear.hear(0.0, data)
    assert ear.has_heard_enough(now, patience=10) is enough


def test_whoever_says_how_long_is_obeyed() -> None:
    ear = StreamRecorder(30.0, 300.0, gzip=False)
    for at in (0.0, 30.0, 60.0):
        ear.hear(at, b": keepalive\n\n")
    assert not ear.has_heard_enough(299.0, patience=10)
    assert ear.has_heard_enough(300.0, patience=10)


def test_what_was_compressed_piece_by_piece_is_understood() -> None:
    ear, press = StreamRecorder(30.0, None, gzip=True), zlib.compressobj(wbits=stream.GZIP)
    for at, frame in [(0.0, b": connected\n\n"), (30.0, b": keepalive\n\n")]:
        ear.hear(at, press.compress(frame) + press.flush(zlib.Z_SYNC_FLUSH))
    assert [message for _, message in ear.heard_until(31.0, 0.0).messages] == [CONNECTED, KEEPALIVE]
    with pytest.raises(zlib.error):
        StreamRecorder(30.0, None, gzip=True).hear(0.0, b": connected\n\n")


# What a person typed, and what is shown.


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
    assert str(address.beside("live")) == subscribe.removesuffix("subscribe") + "live"


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
    with pytest.raises(ValueError, match=r"^--token: empty, or with characters that no token has$"):
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
            report.say(Finding(FAIL, "answer", f"number {number}", "", "So it is.", changes))
    assert report.failed
    assert capsys.readouterr().out.splitlines() == [
        *("http://h", ""),
        *("FAIL  number 1", "      So it is."),
        *("        nginx  one;", "               two;", "        Caddy  three"),
        *("FAIL  number 2", "      So it is.", "        (as above)"),
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
    assert lasting(seconds) == text
