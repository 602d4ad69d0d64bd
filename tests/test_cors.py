"""CORS: the decision as a table, and the Notifier in a host without CORS support of its own."""

from collections.abc import Iterator

import pytest
from flask import Flask, abort, g, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from synckit_notify.cors import headers_for
from synckit_notify.testing import CONNECTED, open_stream

from .support import full_host
from .support.tokens import make_token

LISTED, STRANGE = "https://app.example", "https://evil.example"
SUBSCRIBE = "/v1/sync/subscribe?app_id=notes"

FOR_ANSWER = {
    "Access-Control-Allow-Origin": LISTED,
    "Access-Control-Expose-Headers": "SyncKit-Keepalive, Retry-After, WWW-Authenticate, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset",
}
FOR_PREFLIGHT = {
    "Access-Control-Allow-Origin": LISTED,
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, Cache-Control",
    "Access-Control-Max-Age": "7200",
}

DECISIONS = [
    (LISTED, FOR_ANSWER, FOR_PREFLIGHT),
    (STRANGE, {}, {}),
    (None, {}, {}),
    ("", {}, {}),
    ("null", {}, {}),
    ("*", {}, {}),
    ("https://APP.example", {}, {}),
    (f"{LISTED}.evil.example", {}, {}),
    (f"{LISTED}:8443", {}, {}),
    (f"{LISTED}/", {}, {}),
    (f"{LISTED}, {STRANGE}", {}, {}),
    ("http://app.example", {}, {}),
]


@pytest.mark.parametrize(("origin", "answer", "preflight"), DECISIONS)
def test_only_an_exactly_listed_origin_gets_cors_headers(origin, answer, preflight) -> None:
    assert headers_for(origin, {LISTED}, preflight=False) == answer
    assert headers_for(origin, {LISTED}, preflight=True) == preflight
    assert headers_for(origin, set(), preflight=True) == {}


def cors_headers(answer: TestResponse) -> dict[str, str]:
    return {name: value for name, value in answer.headers if name.startswith("Access-Control-")}


def preflight(client: FlaskClient, path: str, origin: str = LISTED) -> TestResponse:
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    return client.options(path, headers={"Origin": origin} | asks)


@pytest.fixture
def host(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """A host whose hooks refuse requests without a token, and depend on each other."""
    monkeypatch.setenv("FOREIGN_DATABASE", str(tmp_path / "foreign.db"))
    monkeypatch.setenv("SYNCKIT_CORS_ORIGINS", LISTED)
    app = full_host.create_app()

    @app.before_request
    def guard() -> None:
        g.checked = True
        if "Authorization" not in request.headers:
            abort(401)

    @app.after_request
    def stamp(response):
        response.headers["X-Checked"] = str(g.checked)
        response.vary.add("Accept-Language")
        return response

    yield app
    full_host.close(app)


@pytest.fixture
def client(host: Flask) -> FlaskClient:
    return host.test_client()


@pytest.mark.parametrize("route", ["subscribe", "live", "ready"])
def test_a_preflight_is_answered_before_the_hosts_access_checks(client: FlaskClient, route: str) -> None:
    answer = preflight(client, f"/v1/sync/{route}")
    assert (answer.status_code, cors_headers(answer), answer.headers["Vary"]) == (204, FOR_PREFLIGHT, "Origin")


def test_a_preflight_from_a_page_that_is_not_listed_allows_nothing(client: FlaskClient) -> None:
    answer = preflight(client, SUBSCRIBE, STRANGE)
    assert (answer.status_code, cors_headers(answer), answer.headers["Vary"]) == (204, {}, "Origin")


def test_the_stream_carries_the_headers_and_keeps_the_hosts_vary(client: FlaskClient) -> None:
    with open_stream(client, "notes", make_token(), headers={"Origin": LISTED}) as stream:
        assert stream.next_frame() == CONNECTED
        assert cors_headers(stream.response) == FOR_ANSWER
        assert stream.response.headers["Vary"] == "Accept-Language, Origin"
    with open_stream(client, "notes", make_token(), headers={"Origin": STRANGE}) as stream:
        assert cors_headers(stream.response) == {}
        assert "origin" in stream.response.vary


def test_every_refusal_can_be_read_by_the_page(client: FlaskClient) -> None:
    bearer = {"Authorization": f"Bearer {make_token()}"}
    refusals = [
        (401, "GET", SUBSCRIBE, {}),  # the host's own guard and error page
        (401, "GET", SUBSCRIBE, {"Authorization": "Bearer nonsense"}),
        (400, "GET", "/v1/sync/subscribe", bearer),
        (403, "GET", "/v1/sync/subscribe?app_id=tasks", bearer),
        (405, "POST", SUBSCRIBE, bearer),
        (503, "GET", SUBSCRIBE, bearer),
        (503, "GET", "/v1/sync/ready", bearer | {"X-Broken": "yes"}),
    ]
    for status, method, path, headers in refusals:
        answer = client.open(
            path,
            method=method,
            headers=headers | {"Origin": LISTED},
            environ_overrides={"wsgi.run_once": True},  # no server for streams: 503
        )
        assert (answer.status_code, cors_headers(answer)) == (status, FOR_ANSWER)
        assert "origin" in answer.vary


@pytest.mark.parametrize("path", ["/", "/v1/sync/subscribers", "/v1/sync/metrics", "/nowhere"])
def test_pages_of_the_host_get_no_cors_headers(client: FlaskClient, path: str) -> None:
    assert cors_headers(preflight(client, path)) == {}
    answer = client.get(path, headers={"Origin": LISTED, "Authorization": "Bearer x"})
    assert (cors_headers(answer), answer.headers["Vary"]) == ({}, "Accept-Language")


def test_without_origins_no_header_is_added(monkeypatch: pytest.MonkeyPatch, host: Flask) -> None:
    monkeypatch.delenv("SYNCKIT_CORS_ORIGINS")
    bare = full_host.create_app()
    answer = preflight(bare.test_client(), SUBSCRIBE)
    assert (answer.status_code, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (cors_headers(answer), "Vary" in answer.headers) == ({}, False)
    full_host.close(bare)
