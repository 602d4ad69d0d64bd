"""Every limit in docs/protocol.md has its own error, and no request of a client is answered with 500."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask, Request

from synckit_notify.backend import request_limits
from synckit_notify.backend.database import store

from ..support.backend import SQLITE_ONLY, Caller, Send, change

NASTY_BODIES: list[bytes] = [
    b"",
    b"\x00",
    b"not json",
    b"[]",
    b"null",
    b"true",
    b"{}",
    b"\xff\xfe\xfd",
    b'{"a": NaN}',
    b"[" * 50_000,
    b'{"changes":' * 50_000,
    b'{"cursor": ' + b"9" * 5000 + b"}",
    b'{"cursor": 1e999, "device_id": "x"}',
    b'{"device_id": "\\ud800"}',
]
NASTY_VALUES: list[Any] = [None, True, 0, -1, 2**63, 10**400, 1.5, "", "\0", "\ud800", "x" * 300_000, [], [[]], {}]
FIELDS = {
    "/auth": ["email", "password", "api_key", "device_id"],
    "/password": ["old_password", "new_password"],
    "/devices": ["device_name", "platform", "installation_id"],
    "/push": ["device_id", "changes", "push_id"],
    "/pull": ["device_id", "cursor", "limit", "tables", "since", "until", "epoch"],
    "/keys": ["envelope", "expected_version"],
    "/oauth/token": ["grant_type", "refresh_token", "client_id", "code", "redirect_uri", "code_verifier"],
}
METHODS = {"/keys": "PUT"}
GOOD: dict[str, dict[str, Any]] = {
    "/auth": {"email": "a@example.org", "password": "secret", "api_key": "key"},
    "/password": {"old_password": "secret", "new_password": "secret"},
    "/devices": {"device_name": "laptop", "platform": "linux"},
    "/push": {"changes": [change()]},
    "/pull": {"cursor": 0},
    "/keys": {"envelope": "ciphertext"},
    "/oauth/token": {"grant_type": "refresh_token", "refresh_token": "none"},
}
CODE = {"code": "none", "redirect_uri": "http://127.0.0.1/", "code_verifier": "v" * 43}


def nasty_requests(device: str, api_key: str) -> Iterator[tuple[str, bytes]]:
    for path, names in FIELDS.items():
        for body in NASTY_BODIES:
            yield path, body
        known = {"device_id": device, "client_id": api_key, "api_key": api_key}
        good = GOOD[path] | {name: value for name, value in known.items() if name in names}
        for name in names:
            more = CODE | {"grant_type": "authorization_code"} if name in CODE else {}
            for value in NASTY_VALUES:
                yield path, json.dumps(good | more | {name: value}).encode()
    for name in change():
        for value in NASTY_VALUES:
            changes = [change(), change(**{name: value})]
            yield "/push", json.dumps({"device_id": device, "changes": changes}).encode()


def test_no_request_of_a_client_is_a_500(alice: Caller, send: Send, credentials: dict[str, str]) -> None:
    for path, body in nasty_requests(alice.register(), credentials["api_key"]):
        status, answer = send(METHODS.get(path, "POST"), path, body, alice.headers)
        assert status in (200, 400, 401, 403, 404, 409, 413, 422), (status, path, body[:100])
        words = ["error", "error_description"] if path.startswith("/oauth/") and status != 413 else ["error"]
        assert status == 200 or list(answer) == words, answer


@pytest.mark.parametrize("device_id", ["%00", "%ff", "%ed%a0%80", "x" * 200, "..%2f", "%F0%9F%92%A9"])
def test_a_malformed_device_id_in_the_path_is_no_500(alice: Caller, device_id: str) -> None:
    assert alice.delete(f"/devices/{device_id}")[0] in (404, 422)


TOO_MUCH = [
    ({"changes": []}, "changes: must have 1 to 500 entries"),
    ({"changes": [change()] * 501}, "changes: must have 1 to 500 entries"),
    ({"changes": {}}, "changes: must be a list"),
    ({"changes": None}, "changes: is missing"),
    ({"changes": [change(), 1]}, "changes[1]: must be an object"),
    ({"changes": [change()] * 3 + [change(row_id="x" * 257)]}, "changes[3].row_id: must have at most 256 characters"),
    ({"changes": [change(table="x" * 129)]}, "changes[0].table: must have at most 128 characters"),
    ({"changes": [change(table="")]}, "changes[0].table: must not be empty"),
    ({"changes": [change(op="insert")]}, "changes[0].op: must be one of INSERT, UPDATE, DELETE"),
    ({"changes": [change(data="x" * 262_145)]}, "changes[0].data: must have at most 262144 characters"),
    ({"changes": [change(data="é" * 131_073)]}, "changes[0].data: must have at most 262144 bytes"),
    ({"changes": [change(data=None)]}, "changes[0].data: is missing; only a DELETE may omit it"),
    ({"changes": [change(data={})]}, "changes[0].data: must be a string"),
    ({"changes": [change(timestamp="yesterday")]}, "changes[0].timestamp: must be RFC 3339 with a time zone"),
    (
        {"changes": [change(), change(timestamp="9999-12-31T23:59:60Z")]},
        "changes[1].timestamp: must be RFC 3339 with a time zone, without leap seconds and with at most 9 digits",
    ),
    ({"changes": [change(row_id="a\0b")]}, "changes[0].row_id: must not contain NUL or lone surrogates"),
    ({"changes": [change(row_id="\udfff")]}, "changes[0].row_id: must not contain NUL or lone surrogates"),
    ({"push_id": "x" * 65}, "push_id: must have at most 64 characters"),
    ({"push_id": 7}, "push_id: must be a string"),
    ({"device_id": None}, "device_id: is missing"),
]


@SQLITE_ONLY
@pytest.mark.parametrize(("fields", "sentence"), TOO_MUCH)
def test_a_push_out_of_bounds_names_the_field(alice: Caller, fields: dict[str, Any], sentence: str) -> None:
    status, answer = alice.post("/push", {"device_id": "d", "changes": [change()]} | fields)
    assert (status, answer["error"][: len(sentence)]) == (422, sentence)


@SQLITE_ONLY
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cursor": True}, "cursor: must be an integer"),
        ({"cursor": 1.0}, "cursor: must be an integer"),
        ({"cursor": -1}, "cursor: must be from 0 to 9223372036854775807"),
        ({"cursor": 2**63}, "cursor: must be from 0 to 9223372036854775807"),
        ({"limit": 0}, "limit: must be from 1 to 500"),
        ({"limit": 501}, "limit: must be from 1 to 500"),
        ({"tables": []}, "tables: must have 1 to 100 entries"),
        ({"tables": ["a", 1]}, "tables[1]: must be a string"),
        ({"tables": "tasks"}, "tables: must be a list"),
        ({"since": "2026-01-31T12:00:00"}, "since: must be RFC 3339 with a time zone"),
        ({"until": 5}, "until: must be a string"),
    ],
)
def test_a_pull_out_of_bounds_names_the_field(alice: Caller, fields: dict[str, Any], sentence: str) -> None:
    status, answer = alice.post("/pull", {"device_id": "d", "cursor": 0} | fields)
    assert (status, answer["error"][: len(sentence)]) == (422, sentence)


def test_the_largest_allowed_push_is_stored_unchanged(alice: Caller) -> None:
    device = alice.register("n" * 100)
    largest = change("r" * 256, table="t" * 128, data="x" * 262_144)
    assert alice.push(device, *[change(data="")] * 499, largest, push_id="p" * 64) == 500
    (pulled,) = alice.pull(device, 499)["changes"]
    assert {name: pulled[name] for name in largest} == largest


@SQLITE_ONLY
def test_a_large_push_waits_for_a_seat_and_a_small_one_does_not(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "QUEUE_SECONDS", 0.05)
    device, large = alice.register("laptop"), change(data="x" * request_limits.MAX_UNSEATED_BODY_BYTES)
    with ExitStack() as others:
        for number in range(request_limits.LARGE_SEATS):
            others.enter_context(
                request_limits.slot(
                    Request({"CONTENT_LENGTH": str(request_limits.MAX_UNSEATED_BODY_BYTES + 1)}), f"user {number}"
                )
            )
        assert alice.post("/push", {"device_id": device, "changes": [large]})[0] == 503
        assert alice.push(device, change()) == 1
    for _ in range(request_limits.LARGE_SEATS + 1):
        assert alice.post("/push", b"{" * (request_limits.MAX_UNSEATED_BODY_BYTES + 1))[0] == 400, (
            "a seat is given back whatever happens"
        )
    assert alice.push(device, large) == 2


@SQLITE_ONLY
def test_large_pushes_of_one_account_leave_seats_to_others(
    alice: Caller, as_user: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "QUEUE_SECONDS", 0.05)
    large = change(data="x" * request_limits.MAX_UNSEATED_BODY_BYTES)
    with ExitStack() as others:
        for _ in range(request_limits.LARGE_SEATS_OF_ONE):
            others.enter_context(
                request_limits.slot(
                    Request({"CONTENT_LENGTH": str(request_limits.MAX_UNSEATED_BODY_BYTES + 1)}), "alice"
                )
            )
        assert alice.post("/push", {"device_id": alice.register(), "changes": [large]})[0] == 503
        bob = as_user("bob")
        assert bob.push(bob.register(), large) == 1


@SQLITE_ONLY
def test_a_body_over_8_mib_is_413(send: Send, alice: Caller) -> None:
    for path in FIELDS:
        status, answer = send(METHODS.get(path, "POST"), path, b" " * (8 * 2**20 + 1), alice.headers)
        assert (status, list(answer)) == (413, ["error"])
    assert alice.post("/push", b" " * (8 * 2**20))[0] == 400


@SQLITE_ONLY
@pytest.mark.parametrize("path", ["/password", "/logout", "/devices", "/push", "/pull", "/status", "/keys"])
def test_the_token_is_checked_before_the_body(app: Flask, path: str) -> None:
    for body in NASTY_BODIES:
        method = "GET" if path == "/status" else METHODS.get(path, "POST")
        response = app.test_client().open(f"/api/sync{path}", method=method, data=body)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_every_answer_is_json_and_must_not_be_cached(app: Flask, alice: Caller) -> None:
    client = app.test_client()
    answers = [
        client.get("/nowhere"),
        client.get("/api/sync/push"),
        client.post("/api/sync/push"),
        client.post("/api/sync/auth", data="{}"),
        client.get("/oauth/token"),
        client.get("/api/sync/keys", headers=alice.headers),
        client.get("/api/sync/status", headers=alice.headers),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 401, 422, 405, 404, 200]
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers)
    assert all(list(answer.get_json()) == ["error"] for answer in answers[:-1])
    assert "POST" in answers[1].headers["Allow"]


def test_an_unexpected_error_is_logged_and_not_sent(
    app: Flask, alice: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr("synckit_notify.backend.changelog.status", fail)
    assert alice.get("/status") == (500, {"error": "something went wrong on the server"})
    assert "the inside" in caplog.text


def test_a_content_type_is_not_required(send: Send, alice: Caller) -> None:
    body = json.dumps({"device_name": "laptop", "platform": "linux"}).encode()
    assert send("POST", "/devices", body, alice.headers | {"Content-Type": "text/plain"})[0] == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` says
    assert send("POST", "/devices", body, alice.headers | form)[0] == 200
