"""Streams behind the nginx of `deploy/nginx.conf`, which runs as it is shipped, in front of a real gunicorn.

HTTP/1.1 and HTTP/2 to the device, TLS in both. HAProxy and Caddy go through the same in `python -m benchmarks.proxies`,
which also prints the true figures; here the ceilings are wide.
"""

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.curl import PATIENCE_SECONDS, Curl
from .support.programs import need
from .support.proxies import DEPLOY, Nginx, Proxy
from .support.proxy_leaks import believed_lies, echo, revealed_metrics
from .support.proxy_scenarios import (
    Route,
    added_delays,
    death,
    departure,
    expected_body,
    first_bytes,
    idle_life,
    on_its_own,
    open_connections,
    whole_body,
)
from .support.reconnecting_devices import disturb, hang_up
from .support.server import ROOT, Server, free_port, gunicorn
from .support.tokens import make_token
from .support.wait import until

pytestmark = pytest.mark.thorough

VERSIONS = ["1.1", "2"]
KEEPALIVE_SECONDS = 0.5
DEVICES = 5
GUNICORN_CONF = ("--config", str(ROOT / "gunicorn.conf.py"))


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    for program in ("nginx", "openssl", "curl"):
        need(program)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The smallest host, under the gunicorn.conf.py that the proxy's times are made for."""
    env = {"SYNCKIT_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS)}
    with gunicorn(
        "tests.support.minimal_host:create_app()", tmp_path_factory.mktemp("service"), *GUNICORN_CONF, env=env
    ) as started:
        yield started


@pytest.fixture(scope="module")
def nginx(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Nginx(tmp_path_factory.mktemp("nginx"), service.port) as started:
        yield started


def through(proxy: Proxy, service: Server, version: str = "2") -> Route:
    return Route(service, proxy.url, version, make_token)


@pytest.fixture(params=VERSIONS)
def route(request: pytest.FixtureRequest, service: Server, nginx: Proxy) -> Route:
    return through(nginx, service, request.param)


def test_the_proxy_passes_the_response_head_unchanged(route: Route) -> None:
    with route.subscribe("alice") as stream:
        assert (stream.version, stream.status) == (f"HTTP/{route.version}", 200)
        expected = {
            "content-type": "text/event-stream",
            "cache-control": "no-store, no-transform",
            "synckit-keepalive": f"{KEEPALIVE_SECONDS:g}",
        }
        assert expected.items() <= stream.headers.items()


def test_the_proxy_passes_every_byte_up_to_the_clean_end(route: Route) -> None:
    assert whole_body(route, pushes=20) == expected_body(pushes=20)


def test_the_proxy_does_not_buffer(route: Route, service: Server) -> None:
    direct = Route(service, service.url, "1.1", make_token)
    assert statistics.median(added_delays(direct, route, pushes=20, pause=0.01)) < 0.05
    assert statistics.median(first_bytes(route, streams=5)) < 1.0


def test_the_proxy_passes_a_refusal_unchanged(nginx: Proxy) -> None:
    with Curl(f"{nginx.url}/api/sync/subscribe?app_id=notes", None) as refused:
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert list(json.loads(refused.read_to_end())) == ["error"]


def test_keepalives_hold_a_silent_stream_open_past_the_idle_limit(service: Server, tmp_path: Path) -> None:
    with Nginx(tmp_path, service.port, idle_limit="2500ms") as proxy:
        assert idle_life(through(proxy, service), at_most=4.0) >= 4.0


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same service, its keepalive 30 s and its connections kept: whatever happens sooner is the proxy's doing."""
    options = (*GUNICORN_CONF, "--keep-alive", "75")
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path_factory.mktemp("quiet"), *options) as started:
        yield started


def test_the_idle_limit_is_the_one_of_the_file(quiet: Server, tmp_path: Path) -> None:
    with Nginx(tmp_path, quiet.port, idle_limit="1s") as proxy:
        assert idle_life(through(proxy, quiet), at_most=20.0) < 10.0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_proxy_closes_its_connection_when_a_device_disconnects(quiet: Server, tmp_path: Path, version: str) -> None:
    with Nginx(tmp_path, quiet.port) as proxy:
        assert departure(through(proxy, quiet, version)) < 10.0


def test_the_connection_of_a_stream_that_has_ended_is_not_used_again(quiet: Server, tmp_path: Path) -> None:
    """gunicorn closes it at a reload, and a push that was sent on it just then was answered 502."""
    with Nginx(tmp_path, quiet.port, times={"keepalive_timeout 1s": "keepalive_timeout 60s"}) as proxy:
        route = through(proxy, quiet)
        stream, connection = on_its_own(route, "ending")
        with stream:
            route.revoke("ending")
            stream.read_to_end()
        assert until(lambda: not connection & open_connections(quiet.port), 20.0)


def test_a_crash_of_the_service_does_not_look_like_a_clean_end(route: Route) -> None:
    assert death(route) == "cut"


def test_a_reload_of_the_service_ends_streams_cleanly_and_refuses_nobody(route: Route) -> None:
    outcome = hang_up(route, DEVICES)
    assert outcome.all_hear
    assert outcome.ends.keys() == {"clean"}
    assert outcome.ends.total() >= DEVICES
    assert outcome.pushes.answers.keys() == {200}
    assert outcome.back_after < 25.0


def test_streams_survive_a_reload_of_nginx(route: Route, nginx: Proxy) -> None:
    before = nginx.workers()
    outcome = disturb(route, DEVICES, disturbance=nginx.reload, settled=lambda: {*nginx.workers()} - {*before})
    assert outcome.all_hear
    assert outcome.ends == Counter()
    assert outcome.pushes.answers.keys() == {200}


def test_streams_that_an_old_nginx_cuts_at_its_limit_come_back(service: Server, tmp_path: Path) -> None:
    with Nginx(tmp_path, service.port, shutdown_limit="1s") as proxy:
        before = proxy.workers()
        outcome = disturb(
            through(proxy, service),
            DEVICES,
            disturbance=proxy.reload,
            settled=lambda: not {*proxy.workers()} & {*before},
        )
    assert outcome.all_hear
    assert outcome.ends == Counter(cut=DEVICES)
    assert outcome.pushes.answers.keys() == {200}


def test_a_kept_connection_is_closed_before_gunicorn_closes_it() -> None:
    """Else a push could be sent just when gunicorn closes, and nobody may send it twice."""
    (kept,) = re.findall(r"^keepalive = (\d+)", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    (idle,) = re.findall(r"keepalive_timeout (\d+)s", (DEPLOY / "nginx.conf").read_text())
    assert int(idle) < int(kept)


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """nginx in front of a service that would tell everything."""
    with echo() as port, Nginx(tmp_path_factory.mktemp("secretive"), port) as proxy:
        yield proxy


def test_metrics_are_not_served_to_the_outside(secretive: Proxy) -> None:
    assert revealed_metrics(secretive.url) == []


def test_only_nginx_tells_the_service_the_client_address(secretive: Proxy) -> None:
    assert believed_lies(secretive.url) == []


def test_no_log_contains_a_token(tmp_path: Path) -> None:
    token = make_token()
    with Nginx(tmp_path, upstream=free_port()) as proxy:
        with Curl(f"{proxy.url}/oauth/authorize?code=secret", token) as unanswered:
            assert unanswered.status == 502
            assert list(json.loads(unanswered.read_to_end())) == ["error"]
        access_log = tmp_path / "access.log"
        assert until(lambda: "GET /oauth/authorize HTTP/2.0 502" in access_log.read_text(), PATIENCE_SECONDS)
        assert "secret" not in access_log.read_text()
        assert "connect() failed" in proxy.logs
        assert token not in proxy.logs


def test_a_body_over_8_mib_is_refused_in_json(secretive: Proxy, tmp_path: Path) -> None:
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(8 * 2**20 + 1)
    with Curl(f"{secretive.url}/api/sync/push", None, "--data-binary", f"@{body}") as answer:
        assert answer.status == 413
        assert list(json.loads(answer.read_to_end())) == ["error"]


def test_plain_http_redirects_to_https(secretive: Proxy) -> None:
    with Curl(f"http://127.0.0.1:{secretive.plain_port}/oauth/authorize?client_id=x", None) as answer:
        assert answer.status == 301
        assert answer.headers["location"] == "https://sync.example.org/oauth/authorize?client_id=x"
