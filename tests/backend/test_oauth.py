"""POST /oauth/token: RFC 6749, sections 5 and 6, as a form and as JSON."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from synckit_notify.backend import Backend, accounts

from ..support.backend import SQLITE_ONLY, Caller, Send
from ..support.tokens import KEY

FORM = "application/x-www-form-urlencoded"
Ask = Callable[..., TestResponse]


def as_form(fields: dict[str, str]) -> tuple[str, str]:
    return urlencode(fields), FORM


def as_json(fields: dict[str, str]) -> tuple[str, str]:
    return json.dumps(fields), "application/json"


def as_json_without_its_name(fields: dict[str, str]) -> tuple[str, str]:
    return "\r\n " + json.dumps(fields), FORM  # what `curl -d` says of anything


@pytest.fixture
def session(log_in: Callable[..., Any]) -> dict[str, Any]:
    """The answer to a log-in."""
    status, answer = log_in()
    assert status == 200
    return dict(answer)


@pytest.fixture
def fields(session: dict[str, Any], credentials: dict[str, str]) -> dict[str, str]:
    """A request for a token that is right."""
    token, client = session["refresh_token"], credentials["api_key"]
    return {"grant_type": "refresh_token", "refresh_token": token, "client_id": client}


@pytest.fixture
def ask(app: Flask) -> Ask:
    """Ask for a token with a body."""

    def ask(body: str | bytes, content_type: str = FORM) -> TestResponse:
        return app.test_client().post("/oauth/token", data=body, content_type=content_type)

    return ask


@pytest.mark.parametrize("encode", [as_form, as_json, as_json_without_its_name])
def test_a_refresh_token_is_answered_with_a_new_pair(
    ask: Ask, fields: dict[str, str], session: dict[str, Any], send: Send, encode: Callable[..., tuple[str, str]]
) -> None:
    response = ask(*encode(fields))
    answer = response.get_json()
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    assert set(answer) == {"access_token", "token_type", "expires_in", "refresh_token", "user_id", "app_id"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    assert (answer["user_id"], answer["app_id"]) == (session["user_id"], session["app_id"])
    assert answer["refresh_token"] != fields["refresh_token"]
    claims = jwt.decode(answer["access_token"], KEY, ["HS256"])
    assert (claims["sub"], claims["app"], claims["exp"] - claims["iat"]) == (
        session["user_id"],
        session["app_id"],
        3600,
    )
    assert Caller(send, answer["access_token"]).get("/status")[0] == 200


WRONG = [
    ({"grant_type": ""}, 400, "invalid_request", "grant_type: is missing"),
    ({"refresh_token": ""}, 400, "invalid_request", "refresh_token: is missing"),
    ({"client_id": ""}, 400, "invalid_request", "client_id: is missing"),
    ({"refresh_token": "x" * 129}, 400, "invalid_request", "refresh_token: must have at most 128 characters"),
    ({"client_id": "a\0b"}, 400, "invalid_request", "client_id: must not contain NUL or lone surrogates"),
    (
        {"grant_type": "password"},
        400,
        "unsupported_grant_type",
        "grant_type: must be one of refresh_token, authorization_code",
    ),
    ({"grant_type": "authorization_code"}, 400, "invalid_request", "code: is missing"),
    ({"client_id": "nobody"}, 401, "invalid_client", "client_id: no app has this API key"),
    ({"refresh_token": "none"}, 400, "invalid_grant", "the refresh token is unknown or has expired"),
]


@SQLITE_ONLY
@pytest.mark.parametrize(("wrong", "status", "code", "sentence"), WRONG)
def test_an_error_has_a_code_of_the_rfc_and_ends_no_session(
    ask: Ask, fields: dict[str, str], wrong: dict[str, str], status: int, code: str, sentence: str
) -> None:
    response = ask(*as_form(fields | wrong))
    assert response.status_code == status
    assert response.get_json() == {"error": code, "error_description": sentence}
    assert response.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in response.headers) is (status == 401)
    assert ask(*as_form(fields)).status_code == 200


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", FORM),
        (b"=", FORM),
        (b"grant_type", FORM),
        (b"\xff", FORM),
        (b"grant_type=%ff", FORM),
        (b"grant_type=%00", FORM),
        (b"grant_type=%ed%a0%80", FORM),
        (b"&".join([b"a=b"] * 21), FORM),
        (b"grant_type=refresh_token&refresh_token=x&client_id=y&client_id=y", FORM),
        (
            b"--x\r\nContent-Disposition: form-data; name=grant_type\r\n\r\nx\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
        (b"[]", "application/json"),
        (b"{", "application/json"),
        (b'{"grant_type": ["refresh_token"]}', "application/json"),
        (b'{"grant_type": "refresh_token", "refresh_token": 1}', "application/json"),
    ],
)
def test_a_body_that_is_neither_form_nor_json_is_an_invalid_request(
    ask: Ask, content: bytes, content_type: str
) -> None:
    response = ask(content, content_type)
    assert (response.status_code, response.get_json()["error"]) == (400, "invalid_request")


def test_a_body_over_16_kib_is_413(ask: Ask) -> None:
    assert ask(b"%" * (16 * 1024)).status_code == 400
    assert ask(b"%" * (16 * 1024 + 1)).status_code == 413


def test_a_token_of_another_app_is_an_invalid_grant(ask: Ask, fields: dict[str, str], backend: Backend) -> None:
    _, other = backend.store.write(lambda connection: accounts.add_app(connection, "mail"))
    response = ask(*as_form(fields | {"client_id": other}))
    assert (response.status_code, response.get_json()["error"]) == (400, "invalid_grant")
    assert ask(*as_form(fields)).status_code == 200


def test_a_token_that_was_already_used_ends_the_session(ask: Ask, fields: dict[str, str]) -> None:
    tokens = [fields["refresh_token"]]
    for _ in range(2):
        tokens.append(ask(*as_form(fields | {"refresh_token": tokens[-1]})).get_json()["refresh_token"])
    for token in tokens:
        response = ask(*as_form(fields | {"refresh_token": token}))
        assert (response.status_code, response.get_json()["error"]) == (400, "invalid_grant")


def test_another_method_is_405_and_json(app: Flask) -> None:
    response = app.test_client().get("/oauth/token")
    assert (response.status_code, list(response.get_json())) == (405, ["error"])
