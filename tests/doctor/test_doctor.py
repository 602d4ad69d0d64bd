"""`synckit doctor` against real gunicorns, nginxes and HAProxies: what is wrong is found, and its advice mends it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from synckit_notify.doctor import Address, examine
from synckit_notify.doctor.findings import Finding, Verdict, fails

from ..support.misconfigured_proxies import haproxy, nginx
from ..support.programs import need
from ..support.proxies import Nginx, certificate
from ..support.server import GUNICORN, ROOT, Server, clean_environment, free_port, gunicorn
from ..support.tokens import make_token

pytestmark = pytest.mark.thorough

HOSTS = "tests.support.minimal_host:create_app()"
KEEPALIVE = {"SYNCKIT_KEEPALIVE_SECONDS": "0.3"}
IMPATIENT, PATIENT = 1.5, 10.0
HELD_BACK = "proxy_ignore_headers X-Accel-Buffering;"
COMPRESSED = "gzip on; gzip_types text/event-stream; gzip_min_length 0; proxy_http_version 1.1;"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has loaded its application already, which is no part of what is timed here."""
    with gunicorn(HOSTS, tmp_path_factory.mktemp("gunicorn"), env=KEEPALIVE) as started:
        examined(started.url, seconds=0.1)
        yield started


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that speaks seldom."""
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "4"}
    with gunicorn(HOSTS, tmp_path_factory.mktemp("quiet"), env=env) as started:
        examined(started.url, seconds=0.1)
        yield started


def examined(url: str, token: str = "", seconds: float | None = None, patience: float = PATIENT) -> list[Finding]:
    address = Address.read(url)
    return list(examine(address, token=token or make_token(), app="notes", seconds=seconds, patience=patience))


def wrong(findings: list[Finding]) -> list[tuple[str, str]]:
    """What is not ok."""
    return [(finding.verdict, finding.what) for finding in findings if finding.verdict is not Verdict.OK]


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_all_is_well_with_gunicorn_alone(server: Server) -> None:
    findings = examined(server.url)
    assert wrong(findings) == []
    every = ["port", "live", "clock", "ready", "answer", "protocol", "headers", "compression", "first-byte"]
    assert [finding.check for finding in findings] == [*every, "keepalives", "end"]


def test_all_is_well_behind_nginx_as_it_is_installed(server: Server, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port) as port:
        assert wrong(examined(at(port))) == []


Proxy = Callable[..., AbstractContextManager[int]]


def before_and_after(
    proxy: Proxy, name: str, folder: Path, port: int, mistake: str, after_seconds: float | None = None
) -> tuple[list[Finding], list[Finding]]:
    """Examine a proxy with a mistake, and again with the lines that are advised first, which must be for this proxy."""
    with proxy(folder, port, mistake) as there:
        before = examined(at(there), patience=IMPATIENT)
    advice = next(finding.changes for finding in before if finding.changes)
    assert advice[0].where == name
    lines = [change.line for change in advice if change.where == name]
    with proxy(folder, port, mistake, *lines) as there:
        return before, examined(at(there), seconds=after_seconds)


@pytest.mark.parametrize(
    ("proxy", "name", "mistake", "complaint"),
    [
        (nginx, "nginx", HELD_BACK, (Verdict.FAIL, "the stream is held back")),
        (nginx, "nginx", COMPRESSED, (Verdict.WARN, "the stream is compressed on the way")),
        (nginx, "nginx", HELD_BACK + COMPRESSED, (Verdict.FAIL, "the stream is held back")),
        (haproxy, "HAProxy", "", (Verdict.WARN, "': connected' is kept waiting")),
    ],
    ids=["buffered", "compressed", "both", "kept-waiting"],
)
def test_a_mistake_is_found_and_the_lines_advised_first_mend_it(
    server: Server, tmp_path: Path, proxy: Proxy, name: str, mistake: str, complaint: tuple[str, str]
) -> None:
    before, after = before_and_after(proxy, name, tmp_path, server.port, mistake)
    assert wrong(before) == [complaint]
    assert complaint not in wrong(after)
    assert not fails(after)


@pytest.mark.parametrize(
    ("proxy", "name", "mistake"),
    [
        (nginx, "nginx", "proxy_read_timeout 1s;"),
        (haproxy, "HAProxy", "timeout server 1s\n    option http-no-delay"),
    ],
    ids=["nginx", "haproxy"],
)
def test_an_impatient_proxy_is_found_and_the_lines_advised_first_let_it_wait(
    quiet_server: Server, tmp_path: Path, proxy: Proxy, name: str, mistake: str
) -> None:
    before, after = before_and_after(proxy, name, tmp_path, quiet_server.port, mistake, after_seconds=1.5)
    assert before[-1].what.startswith("cut after ")
    assert (after[-1].verdict, after[-1].what) == (Verdict.OK, "the stream stays open")


@pytest.fixture(scope="module")
def shipped_nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx as `deploy/` sets it up: TLS, HTTP/2, and a certificate that nobody signed."""
    for program in ("nginx", "openssl"):
        need(program)
    with Nginx(tmp_path_factory.mktemp("nginx"), server.port) as started:
        yield started


def test_all_is_well_behind_nginx_as_deploy_sets_it_up(shipped_nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(shipped_nginx.folder / "chain.pem"))
    findings = examined(shipped_nginx.url)
    assert wrong(findings) == []
    assert findings[-1].what == "a stream over HTTP/2 comes at once too"


def test_a_certificate_that_nobody_signed_is_named(shipped_nginx: Nginx) -> None:
    last = examined(shipped_nginx.url)[-1]
    assert (last.verdict, last.check, last.figure) == (Verdict.FAIL, "tls", "self-signed certificate")


def test_a_gunicorn_that_speaks_http2_itself_is_told_to_leave_that_to_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openssl")
    chain, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    command = [GUNICORN, HOSTS, "--bind", "127.0.0.1:0", "--no-control-socket", "--worker-class", "gevent"]
    command += ["--certfile", str(chain), "--keyfile", str(key), "--http-protocols", "h2,h1"]
    with Server(command, tmp_path, r"Listening at: https://127\.0\.0\.1:(\d+)", KEEPALIVE) as started:
        findings = examined(f"https://localhost:{started.port}", seconds=0.5)
    assert wrong(findings) == [(Verdict.FAIL, "no stream over HTTP/2")]
    assert findings[-1].figure.startswith("gunicorn serves one HTTP/2 connection's requests one after the other")
    assert [change.line for change in findings[-1].changes] == ['http_protocols = "h1"']


def test_the_servers_own_words_are_repeated(server: Server) -> None:
    assert wrong(examined(server.url, make_token(app="other"))) == [
        (Verdict.FAIL, "refused: the token is for another app")
    ]
    assert wrong(examined(server.url, make_token(life=-60))) == [(Verdict.FAIL, "refused: the token has expired")]


def test_a_stream_that_is_logged_out_says_so(server: Server) -> None:
    findings = examined(server.url, make_token("somebody", life=2), seconds=5)
    assert wrong(findings) == [(Verdict.WARN, "the server says bye: token_expired")]


def test_a_port_where_nobody_listens_ends_the_examination() -> None:
    assert [finding.check for finding in examined(at(free_port()))] == ["port"]


# The command.


def doctor(url: str, *options: str, token: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "synckit_notify.cli", "doctor", url, "--app", "notes", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean_environment() | {"SYNCKIT_TOKEN": token, "COLUMNS": "100"},
        check=False,
    )


def test_the_command_prints_a_line_for_each_finding_and_exits_with_0(server: Server) -> None:
    done = doctor(server.url, token=make_token())
    head, _, *lines, _, summary = done.stdout.splitlines()
    assert (done.returncode, done.stderr, summary) == (0, "", "11 ok")
    assert head == f"{server.url}/api/sync/subscribe"
    assert all(line.startswith("ok    ") for line in lines)


def test_the_command_explains_a_failure_exits_with_1_and_never_prints_the_token(server: Server) -> None:
    token = make_token(app="other")
    done = doctor(server.url, token=token)
    assert done.returncode == 1
    assert done.stdout.endswith(
        "FAIL  refused: the token is for another app  (403)\n"
        "      The token is good, but made for another app than --app says.\n"
        "        server  flask --app wsgi synckit token --app APP --user USER\n"
        "\n4 ok, 1 FAIL\n"
    )
    assert token not in done.stdout + done.stderr


def test_the_command_writes_json_for_scripts(server: Server) -> None:
    done = doctor(server.url, "--json", token=make_token(app="other"))
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert (last["verdict"], last["check"], last["figure"]) == ("FAIL", "answer", "403")
    assert last["changes"][0]["where"] == "server"


@pytest.mark.parametrize(
    ("url", "token", "complaint"),
    [("ftp://127.0.0.1", "a.b.c", "URL: like https://sync.example.org"), (at(1), "two words", "--token: empty, or")],
)
def test_what_cannot_be_examined_is_a_usage_error(url: str, token: str, complaint: str) -> None:
    done = doctor(url, token=token)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "two words" not in done.stdout + done.stderr
