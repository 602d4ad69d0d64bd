"""`synckit doctor` against a real gunicorn, nginx and HAProxy: it finds a problem, and its advice corrects it.

Every line that doctor/fixes.py can print is applied here.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from synckit_notify.doctor import Address, examine
from synckit_notify.doctor.findings import Finding, Verdict, fails

from ..support.misconfigured_proxies import haproxy, nginx
from ..support.programs import need
from ..support.proxies import Nginx, certificate
from ..support.raw_client import Listener
from ..support.server import GUNICORN, NO_CONTROL_SOCKET, ROOT, Server, clean_environment, free_port, gunicorn
from ..support.tokens import make_token
from ..support.versions import needs

pytestmark = pytest.mark.thorough

HOST = "tests.support.minimal_host:create_app()"
KEEPALIVE = {"SYNCKIT_KEEPALIVE_SECONDS": "0.3"}
SHORT_TIMEOUT, TIMEOUT = 1.5, 10.0
HELD_BACK = "proxy_ignore_headers X-Accel-Buffering;"
COMPRESSED = "gzip on; gzip_types text/event-stream; gzip_min_length 0; proxy_http_version 1.1;"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has loaded its application already, so that loading does not count as latency."""
    with gunicorn(HOST, tmp_path_factory.mktemp("gunicorn"), env=KEEPALIVE) as started:
        examined(started.url, seconds=0.1)
        yield started


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a long keepalive period."""
    env = {"SYNCKIT_KEEPALIVE_SECONDS": "4"}
    with gunicorn(HOST, tmp_path_factory.mktemp("quiet"), env=env) as started:
        examined(started.url, seconds=0.1)
        yield started


def examined(url: str, token: str = "", seconds: float | None = None, timeout: float = TIMEOUT) -> list[Finding]:
    address = Address.read(url)
    return list(examine(address, token=token or make_token(), app="notes", seconds=seconds, timeout=timeout))


def wrong(findings: list[Finding]) -> list[tuple[str, str]]:
    """The findings that are not ok."""
    return [(finding.verdict, finding.what) for finding in findings if finding.verdict is not Verdict.OK]


def at(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_gunicorn_alone_is_ok(server: Server) -> None:
    findings = examined(server.url)
    assert wrong(findings) == []
    every = ["port", "live", "clock", "ready", "answer", "protocol", "headers", "compression", "first-byte"]
    assert [finding.check for finding in findings] == [*every, "keepalives", "end"]


def test_nginx_with_its_defaults_is_ok(server: Server, tmp_path: Path) -> None:
    with nginx(tmp_path, server.port) as port:
        assert wrong(examined(at(port))) == []


Proxy = Callable[..., AbstractContextManager[int]]


def first_advice(findings: list[Finding], where: str) -> list[str]:
    """The lines of the first advice that are for this server."""
    changes = next(finding.changes for finding in findings if finding.changes)
    return [change.line for change in changes if change.where == where]


def before_and_after(
    proxy: Proxy, name: str, folder: Path, port: int, mistake: str, after_seconds: float | None = None
) -> tuple[list[Finding], list[Finding]]:
    """Examine a proxy with a mistake, and again with the lines that are advised first, which must be for this proxy."""
    with proxy(folder, port, mistake) as there:
        before = examined(at(there), timeout=SHORT_TIMEOUT)
    assert next(finding.changes for finding in before if finding.changes)[0].where == name
    with proxy(folder, port, mistake, *first_advice(before, name)) as there:
        return before, examined(at(there), seconds=after_seconds)


@pytest.mark.parametrize(
    ("proxy", "name", "mistake", "complaint"),
    [
        (nginx, "nginx", HELD_BACK, (Verdict.FAIL, "the stream is held back")),
        (nginx, "nginx", COMPRESSED, (Verdict.WARN, "a proxy compresses the stream")),
        (nginx, "nginx", HELD_BACK + COMPRESSED, (Verdict.FAIL, "the stream is held back")),
        (haproxy, "HAProxy", "", (Verdict.WARN, "': connected' is delayed")),
    ],
    ids=["buffered", "compressed", "both", "delayed"],
)
def test_a_mistake_is_found_and_the_first_advice_corrects_it(
    server: Server, tmp_path: Path, proxy: Proxy, name: str, mistake: str, complaint: tuple[str, str]
) -> None:
    before, after = before_and_after(proxy, name, tmp_path, server.port, mistake)
    assert wrong(before) == [complaint]
    assert complaint not in wrong(after)
    assert not fails(after)


SHORT_NGINX = "proxy_read_timeout 1s;"


@pytest.mark.parametrize(
    ("proxy", "name", "mistake"),
    [
        (nginx, "nginx", SHORT_NGINX),
        (haproxy, "HAProxy", "timeout server 1s\n    option http-no-delay"),
    ],
    ids=["nginx", "haproxy"],
)
def test_a_short_idle_timeout_is_found_and_the_first_advice_corrects_it(
    quiet_server: Server, tmp_path: Path, proxy: Proxy, name: str, mistake: str
) -> None:
    before, after = before_and_after(proxy, name, tmp_path, quiet_server.port, mistake, after_seconds=1.5)
    assert before[-1].what.startswith("closed after ")
    assert (after[-1].verdict, after[-1].what) == (Verdict.OK, "the stream stays open")


def test_a_shorter_keepalive_period_helps_where_the_proxy_keeps_its_idle_timeout(
    quiet_server: Server, tmp_path: Path
) -> None:
    with nginx(tmp_path, quiet_server.port, SHORT_NGINX) as there:
        (line,) = first_advice(examined(at(there)), "setting")
    with gunicorn(HOST, tmp_path, env=setting(line)) as server:
        examined(server.url, seconds=0.1)  # the application is loaded before nginx's timeout counts
        with nginx(tmp_path, server.port, SHORT_NGINX) as there:
            assert examined(at(there), seconds=3)[-1].what == "the stream stays open"


def setting(line: str) -> dict[str, str]:
    """The environment variable of an advised line."""
    name, _, value = line.partition("#")[0].strip().partition("=")
    return {name: value}


def refusal_and_advice(
    folder: Path, streams: int, *options: str, env: dict[str, str] | None = None
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Start a gunicorn, open streams, and examine it: what is wrong, and all findings."""
    with gunicorn(HOST, folder, *options, env=KEEPALIVE | (env or {})) as server, ExitStack() as opened:
        for _ in range(streams):
            listener = opened.enter_context(Listener(server.port, "/api/sync/subscribe?app_id=notes", make_token()))
            listener.next_frame()
        findings = examined(server.url, seconds=1)
    return wrong(findings), findings


def test_a_full_worker_accepts_more_streams_after_the_advice(tmp_path: Path) -> None:
    before, findings = refusal_and_advice(tmp_path, 18, "--worker-connections", "20")
    assert before[0] == (Verdict.WARN, "/api/sync/ready: almost full")
    assert before[1][1].startswith("refused: ")
    (tmp_path / "advised.py").write_text("\n".join(first_advice(findings, "gunicorn")))
    assert refusal_and_advice(tmp_path, 18, "--config", "advised.py")[0] == []


@pytest.mark.parametrize(
    ("mistake", "streams", "status"),
    [
        ({"SYNCKIT_MAX_STREAMS_PER_CHANNEL": "1"}, 1, "429"),
        ({"SYNCKIT_URL_PREFIX": "/elsewhere"}, 0, "404"),
    ],
    ids=["channel-full", "mounted-elsewhere"],
)
def test_a_setting_that_causes_a_refusal_is_found_and_the_advice_corrects_it(
    tmp_path: Path, mistake: dict[str, str], streams: int, status: str
) -> None:
    before, findings = refusal_and_advice(tmp_path, streams, env=mistake)
    assert before[-1][0] == Verdict.FAIL
    assert findings[-1].figure.startswith(status)
    (line,) = first_advice(findings, "setting")
    assert refusal_and_advice(tmp_path, streams, env=mistake | setting(line))[0] == []


@pytest.fixture(scope="module")
def shipped_nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx with the configuration of `deploy/`: TLS, HTTP/2, and a self-signed certificate."""
    for program in ("nginx", "openssl"):
        need(program)
    with Nginx(tmp_path_factory.mktemp("nginx"), server.port) as started:
        yield started


def test_nginx_with_the_configuration_of_deploy_is_ok(shipped_nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(shipped_nginx.folder / "chain.pem"))
    findings = examined(shipped_nginx.url)
    assert wrong(findings) == []
    assert findings[-1].what == "a stream over HTTP/2 starts at once"


def test_a_self_signed_certificate_is_found(shipped_nginx: Nginx) -> None:
    last = examined(shipped_nginx.url)[-1]
    assert (last.verdict, last.check, last.figure) == (Verdict.FAIL, "tls", "self-signed certificate")


@needs("gunicorn", "25.0")
def test_http2_in_gunicorn_is_found_and_the_advice_turns_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openssl")
    chain, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    config = tmp_path / "gunicorn.conf.py"
    command = [GUNICORN, HOST, "--bind", "127.0.0.1:0", *NO_CONTROL_SOCKET, "--worker-class", "gevent"]
    command += ["--certfile", str(chain), "--keyfile", str(key), "--config", str(config)]

    def examined_with(line: str) -> list[Finding]:
        config.write_text(line)
        with Server(command, tmp_path, r"Listening at: https://127\.0\.0\.1:(\d+)", KEEPALIVE) as started:
            return examined(f"https://localhost:{started.port}", seconds=0.5)

    findings = examined_with('http_protocols = "h2,h1"')
    assert wrong(findings) == [(Verdict.FAIL, "no stream over HTTP/2")]
    (line,) = first_advice(findings, "gunicorn")
    assert wrong(examined_with(line)) == []


def test_the_error_of_the_server_is_shown(server: Server) -> None:
    assert wrong(examined(server.url, make_token(app="other"))) == [
        (Verdict.FAIL, "refused: the token is for another app")
    ]
    assert wrong(examined(server.url, make_token(life=-60))) == [(Verdict.FAIL, "refused: the token has expired")]


def test_a_stream_that_is_logged_out_says_so(server: Server) -> None:
    findings = examined(server.url, make_token("somebody", life=4), seconds=10)
    assert wrong(findings) == [(Verdict.WARN, "the server says bye: token_expired")]


def test_a_closed_port_ends_the_examination() -> None:
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
        "      The token is valid, but for another app. Pass the token's app as --app, or get a token for\n"
        "      this app.\n"
        "\n4 ok, 1 FAIL\n"
    )
    assert token not in done.stdout + done.stderr


def test_the_command_writes_json_for_scripts(server: Server) -> None:
    done = doctor(server.url, "--json", token=make_token(app="other"))
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert (last["verdict"], last["check"], last["figure"]) == ("FAIL", "answer", "403")
    assert last["changes"] == []


@pytest.mark.parametrize(
    ("url", "token", "complaint"),
    [
        ("ftp://127.0.0.1", "a.b.c", "URL must look like https://sync.example.org"),
        (at(1), "two words", "--token must be an access token"),
    ],
)
def test_what_cannot_be_examined_is_a_usage_error(url: str, token: str, complaint: str) -> None:
    done = doctor(url, token=token)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "two words" not in done.stdout + done.stderr
