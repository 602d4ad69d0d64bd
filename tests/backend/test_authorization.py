"""The authorization code grant: RFC 6749, section 4.1, with PKCE (RFC 7636) and native apps (RFC 8252)."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import pytest
from flask import Flask
from sqlalchemy import select

from synckit_notify.backend import Backend, accounts, sessions
from synckit_notify.backend.database import schema
from synckit_notify.backend.oauth import clients, codes
from synckit_notify.backend.oauth.clients import Client
from synckit_notify.testing import CONNECTED, open_stream

from ..support.backend import Answer, Caller, Send
from ..support.shared_app import app, credentials
from ..support.tokens import KEY
from ..support.visitor import CALLBACK, CHALLENGE, Visitor, grant, sent_to

__all__ = ["app", "credentials"]

WEB = "https://notes.example.org/done?from=sync"
Visit = Callable[..., Visitor]
Trade = Callable[..., Answer]


@pytest.fixture
def api_key(credentials: dict[str, str]) -> str:
    """The API key of the app `notes`."""
    return credentials["api_key"]


@pytest.fixture
def visitor(app: Flask, api_key: str) -> Visit:
    """Make a person whom the app sends with its request, or with another one."""
    return lambda **asked: Visitor(app, api_key, **asked)


@pytest.fixture
def trade(send: Send, api_key: str) -> Trade:
    """Trade a code for tokens."""
    return lambda code, /, **fields: send("POST", "/oauth/token", grant(api_key, code) | fields, {})


def test_a_user_who_allows_an_app_is_redirected_with_a_code_for_tokens(
    visitor: Visit, trade: Trade, send: Send, log_in: Callable[..., Any]
) -> None:
    person = visitor()
    consent = person.log_in()
    assert "alice@example.org" in consent.text
    answer = sent_to(person.press(consent, "allow"))
    assert set(answer) == {"code", "state"}
    assert answer["state"] == "a state"
    status, tokens = trade(answer["code"])
    assert status == 200
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token", "user_id", "app_id"}
    assert {name: tokens[name] for name in ("user_id", "app_id")}.items() <= log_in()[1].items()
    assert Caller(send, tokens["access_token"]).get("/status")[0] == 200
    claims = jwt.decode(tokens["access_token"], KEY, ["HS256"])
    assert claims["exp"] - claims["iat"] == tokens["expires_in"] == 3600


def test_the_example_of_rfc_7636_appendix_b(visitor: Visit, trade: Trade) -> None:
    """`visitor.py` holds its verifier and its challenge, and everything here runs on them; one letter less does not."""
    code = visitor(code_challenge="E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM").allow()
    wrong = trade(code, code_verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK")
    assert (wrong[0], wrong[1]["error"]) == (400, "invalid_grant")
    assert trade(code, code_verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")[0] == 200


def test_a_code_can_be_exchanged_with_a_form(app: Flask, visitor: Visit, api_key: str) -> None:
    answer = app.test_client().post("/oauth/token", data=grant(api_key, visitor().allow()))
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"client_id": None}, "Missing &#39;client_id&#39; parameter"),
        ({"client_id": "nobody"}, "The client does not exist"),
        ({"redirect_uri": None}, "redirect_uri: must be a loopback address"),
        ({"redirect_uri": WEB}, "redirect_uri: must be a loopback address"),
        ({"redirect_uri": CALLBACK + "?" + "x" * 2048}, "redirect_uri: must have at most 2048 characters"),
        ({"state": "a\0b"}, "state: must not contain NUL or lone surrogates"),
    ],
)
def test_with_an_unverified_address_the_error_is_shown_without_a_redirect(
    visitor: Visit, asked: dict[str, str | None], reason: str
) -> None:
    answer = visitor(**asked).visit()
    assert 400 <= answer.status_code < 500
    assert answer.location is None
    assert reason in answer.text


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://evil.example\\@127.0.0.1/",
        "http://evil.example#@127.0.0.1/",
        "http://127.0.0.1:80@evil.example/",
        "http://localhost.evil.example/",
        "http://user@localhost/",
        "http://127.0.0.1/#fragment",
        "http://127.0.0.1/\r\nSet-Cookie: a=b",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/é",
        'http://127.0.0.1/"',
        "http://127.1/",
        "http://127.0.0.2/",
        "http://[::1",
        "http://[::ffff:127.0.0.1]/",
        "http://192.0.2.1/",
        "https://127.0.0.1/",
        "HTTP://127.0.0.1/",
        "http:127.0.0.1/",
        "//127.0.0.1/",
        "javascript:alert(1)//127.0.0.1/",
        "data:text/html,x",
    ],
)
def test_an_address_that_only_looks_like_a_loopback_address_is_refused(address: str) -> None:
    assert not Client("notes", "Notes", frozenset()).accepts_redirect(address)


def test_no_redirect_leads_to_such_an_address(visitor: Visit) -> None:
    for address in ("http://evil.example\\@127.0.0.1/", "http://127.0.0.1/\r\nSet-Cookie: a=b", 'http://127.0.0.1/"é'):
        answer = visitor(redirect_uri=address).visit()
        assert (answer.status_code, answer.location) == (400, None)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/",
        "http://127.0.0.1:65535/a/b.c",
        "http://127.0.0.1",
        "http://[::1]:8080/callback",
        "http://localhost:8080/callback",
    ],
)
def test_any_port_and_path_of_a_loopback_address_is_accepted(visitor: Visit, trade: Trade, address: str) -> None:
    person = visitor(redirect_uri=address)
    code = sent_to(person.press(person.log_in(), "allow"), address)["code"]
    assert trade(code)[1]["error"] == "invalid_grant"  # the usual address is another
    assert trade(code, redirect_uri=address)[0] == 200


class TestARegisteredAddress:
    @pytest.fixture
    def notes(self, backend: Backend, api_key: str) -> str:
        found = backend.store.read(lambda connection: accounts.find_client(connection, api_key))
        assert found is not None
        return found

    @pytest.mark.parametrize("address", [WEB, "https://notes.example.org", "com.example.notes:/done"])
    def test_is_compared_exactly(
        self, backend: Backend, notes: str, visitor: Visit, trade: Trade, address: str
    ) -> None:
        for _ in range(2):  # a second time is no error
            backend.store.write(lambda connection: clients.register(connection, notes, address))
        for other in (address + "x", address[:-1], address.replace("notes", "Notes"), address + "/"):
            assert visitor(redirect_uri=other).visit().status_code == 400
        person = visitor(redirect_uri=address)
        answer = sent_to(person.press(person.log_in(), "allow"), address.split("?")[0])
        assert answer.get("from") == ("sync" if "?" in address else None)
        assert trade(answer["code"], redirect_uri=address)[0] == 200
        backend.store.write(lambda connection: clients.forget(connection, notes, address))
        assert visitor(redirect_uri=address).visit().status_code == 400

    def test_belongs_to_one_app_only(self, app: Flask, backend: Backend, notes: str) -> None:
        backend.store.write(lambda connection: clients.register(connection, notes, WEB))
        _, other = backend.store.write(lambda connection: accounts.add_app(connection, "mail"))
        assert Visitor(app, other, redirect_uri=WEB).visit().status_code == 400


@pytest.mark.parametrize(
    ("asked", "code", "sentence"),
    [
        ({"response_type": None}, "invalid_request", "response_type: is missing"),
        ({"response_type": "token"}, "unsupported_response_type", "response_type: must be code"),
        ({"response_type": 'co"de\\'}, "unsupported_response_type", "response_type: must be code"),
        ({"state": None}, "invalid_request", "state: is missing"),
        ({"scope": "everything"}, "invalid_scope", "The requested scope is invalid, unknown, or malformed."),
        ({"code_challenge": None}, "invalid_request", "code_challenge: must be 43 characters of base64url"),
        ({"code_challenge": CHALLENGE + "="}, "invalid_request", "code_challenge: must be 43 characters of base64url"),
        ({"code_challenge": CHALLENGE + "\n"}, "invalid_request", "code_challenge: must be 43 characters of base64url"),
        ({"code_challenge_method": None}, "invalid_request", "code_challenge_method: must be S256"),
        ({"code_challenge_method": "plain"}, "invalid_request", "code_challenge_method: must be S256"),
        (
            {"code_challenge": None, "code_challenge_method": None},
            "invalid_request",
            "code_challenge_method: must be S256",
        ),
    ],
)
def test_all_other_errors_are_sent_to_the_app_by_a_redirect(
    visitor: Visit, asked: dict[str, str | None], code: str, sentence: str
) -> None:
    person = visitor(**asked)
    answer = sent_to(person.visit())
    assert (answer.pop("error"), answer.pop("error_description")) == (code, sentence)
    assert answer == ({"state": "a state"} if "state" in person.asked else {})
    assert sent_to(person.post({"action": "log_in"}))["error"] == code


def test_a_repeated_parameter_is_shown_to_the_user(visitor: Visit) -> None:
    person = visitor()
    for name in person.asked:
        answer = person.visit(f"{urlencode(person.asked)}&{name}=x")
        assert (answer.status_code, answer.location) == (400, None)


@pytest.mark.parametrize("query", ["", "%ff", "=", "&&&", "state=%00", "a=b&" * 21, "client_id=%ed%a0%80", "x" * 4000])
def test_no_query_is_a_500(visitor: Visit, query: str) -> None:
    assert 400 <= visitor().visit(query).status_code < 500


def test_the_state_is_returned_unchanged(visitor: Visit) -> None:
    state = 'é💩 &?#%00=+"\\/\r\n<b>'
    person = visitor(state=state)
    assert sent_to(person.press(person.log_in(), "allow"))["state"] == state


def test_declining_redirects_without_a_code(visitor: Visit) -> None:
    person = visitor()
    for open_page in (person.visit, person.log_in):
        answer = sent_to(person.press(open_page(), "decline"))
        assert (answer["error"], answer["state"]) == ("access_denied", "a state")
        assert "code" not in answer


class TestACode:
    WRONG = (
        {"code": "x" * 48},
        {"redirect_uri": CALLBACK + "x"},
        {"redirect_uri": "http://localhost:53123/callback"},
        {"code_verifier": "a" * 43},
    )

    @pytest.mark.parametrize("wrong", WRONG)
    def test_is_bound_to_the_address_and_the_challenge(
        self, visitor: Visit, trade: Trade, wrong: dict[str, str]
    ) -> None:
        code = visitor().allow()
        status, answer = trade(code, **wrong)
        assert (status, answer["error"]) == (400, "invalid_grant")
        assert trade(code)[0] == 200  # a mistake does not cost it

    def test_is_bound_to_the_client(self, visitor: Visit, trade: Trade, backend: Backend) -> None:
        _, other = backend.store.write(lambda connection: accounts.add_app(connection, "mail"))
        code = visitor().allow()
        assert trade(code, client_id=other)[1]["error"] == "invalid_grant"
        assert trade(code)[0] == 200
        assert trade(code, client_id=other)[1]["error_description"] == "Invalid 'code' in request."

    @pytest.mark.parametrize("name", ["code", "redirect_uri", "code_verifier", "client_id"])
    def test_is_refused_without_the_other_parameters(self, visitor: Visit, trade: Trade, name: str) -> None:
        assert trade(visitor().allow(), **{name: None}) == (
            400,
            {"error": "invalid_request", "error_description": f"{name}: is missing"},
        )

    def test_is_refused_for_an_unknown_client(self, visitor: Visit, trade: Trade) -> None:
        status, answer = trade(visitor().allow(), client_id="nobody")
        assert (status, answer["error"]) == (401, "invalid_client")

    @pytest.mark.parametrize("verifier", ["a" * 42, "a" * 129, "a" * 42 + "é", "a" * 43 + "\n", "a" * 42 + " "])
    def test_is_refused_with_a_malformed_verifier(self, visitor: Visit, trade: Trade, verifier: str) -> None:
        status, answer = trade(visitor().allow(), code_verifier=verifier)
        assert (status, answer["error"]) in {(400, "invalid_request"), (400, "invalid_grant")}

    @pytest.mark.parametrize(("age", "status"), [(59, 200), (60, 400)])
    def test_is_valid_for_a_minute(
        self, visitor: Visit, trade: Trade, monkeypatch: pytest.MonkeyPatch, age: int, status: int
    ) -> None:
        code = visitor().allow()
        monkeypatch.setattr(codes, "now", lambda: schema.now() + timedelta(seconds=age) // timedelta(microseconds=1))
        assert trade(code)[0] == status

    def test_is_deleted_after_it_has_expired(
        self, visitor: Visit, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stored() -> set[str]:
            hashes = select(schema.codes.c.code_hash)
            return set(backend.store.read(lambda connection: connection.execute(hashes).scalars().all()))

        old = codes._hash(visitor().allow())
        assert old in stored()
        monkeypatch.setattr(codes, "now", lambda: schema.now() + 60_000_000)
        new = codes._hash(visitor().allow())
        assert {old, new} & stored() == {new}

    def test_does_not_outlive_a_log_out_everywhere(self, visitor: Visit, trade: Trade, app: Flask) -> None:
        code = visitor().allow()
        app.test_cli_runner().invoke(args=["synckit", "user", "logout", "alice@example.org"])
        assert trade(code)[1]["error"] == "invalid_grant"

    def test_is_stored_as_a_hash_and_never_logged(
        self, visitor: Visit, trade: Trade, backend: Backend, api_key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        code = visitor().allow()
        stored = backend.store.read(lambda connection: str(connection.execute(select(schema.codes)).all()))
        assert codes._hash(code) in stored
        tokens = trade(code)[1]
        trade(code)
        assert "was used twice" in caplog.text
        secrets = [code, api_key, tokens["access_token"], tokens["refresh_token"]]
        assert not [secret for secret in secrets if secret in caplog.text + stored]


class TestACodeThatComesTwice:
    def test_ends_the_session_that_it_began_with_its_tokens_and_its_streams(
        self, app: Flask, visitor: Visit, trade: Trade, send: Send, api_key: str
    ) -> None:
        code = visitor().allow()
        tokens = trade(code)[1]
        caller = Caller(send, tokens["access_token"])
        device = caller.register()
        with open_stream(app.test_client(), tokens["app_id"], tokens["access_token"], device_id=device) as stream:
            assert stream.next_frame() == CONNECTED
            status, answer = trade(code)
            assert (status, answer["error"]) == (400, "invalid_grant")
            assert stream.next_frame() == b": bye revoked\n\n"
        assert caller.get("/status")[0] == 401
        renewal = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": api_key}
        assert send("POST", "/oauth/token", renewal, {})[1]["error"] == "invalid_grant"

    def test_even_without_its_verifier_and_after_a_minute(
        self, visitor: Visit, trade: Trade, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = visitor().allow()
        caller = Caller(send, trade(code)[1]["access_token"])
        monkeypatch.setattr(codes, "now", lambda: schema.now() + 3600_000_000)
        assert trade(code, code_verifier="stolen" * 10)[1]["error"] == "invalid_grant"
        assert caller.get("/status")[0] == 401

    def test_ends_no_other_session(self, visitor: Visit, trade: Trade, send: Send, log_in: Callable[..., Any]) -> None:
        code, other = visitor().allow(), visitor().allow()
        callers = [Caller(send, trade(other)[1]["access_token"]), Caller(send, log_in()[1]["token"])]
        trade(code)
        trade(code)
        assert [caller.get("/status")[0] for caller in callers] == [200, 200]

    def test_of_two_at_once_the_second_ends_the_first_ones_session(self, visitor: Visit, backend: Backend) -> None:
        """Both have found the code before either took it."""
        code = visitor().allow()
        mine = select(schema.codes).where(schema.codes.c.code_hash == codes._hash(code))
        row = backend.store.read(lambda connection: connection.execute(mine).one())
        first, second, third = (
            backend.store.write(lambda connection: codes.redeem(connection, row, None)) for _ in range(3)
        )
        assert isinstance(first, sessions.Session)
        assert second == codes.Replayed(sessions.Holder(row.app_id, row.user_id, None))
        assert third == codes.Replayed(None)


class TestUserinfo:
    def test_returns_the_user_of_the_token(self, log_in: Callable[..., Any], app: Flask) -> None:
        answer = log_in()[1]
        told = app.test_client().get("/oauth/userinfo", headers={"Authorization": f"Bearer {answer['token']}"})
        assert (told.status_code, told.headers["Cache-Control"]) == (200, "no-store")
        assert told.get_json() == {
            "sub": answer["user_id"],
            "user_id": answer["user_id"],
            "app_id": answer["app_id"],
            "username": "alice@example.org",
            "display_name": "alice@example.org",
            "email": "alice@example.org",
            "avatar_url": None,
        }

    @pytest.mark.parametrize(
        ("headers", "challenge"),
        [
            ({}, "Bearer"),
            ({"Authorization": "Bearer nonsense"}, 'Bearer error="invalid_token"'),
            ({"Authorization": "Basic eDp5"}, 'Bearer error="invalid_token"'),
        ],
    )
    def test_refuses_as_rfc_6750_says(self, app: Flask, headers: dict[str, str], challenge: str) -> None:
        answer = app.test_client().get("/oauth/userinfo", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, challenge)
        assert answer.get_json()["error"] == "invalid_token"

    def test_refuses_a_user_who_is_not_stored(self, alice: Caller) -> None:
        status, answer = alice.get("/oauth/userinfo")
        assert (status, answer["error"]) == (401, "user_not_found")


def test_the_browser_never_caches_an_address_with_a_code(visitor: Visit) -> None:
    person = visitor()
    answer = person.press(person.log_in(), "allow")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert quote(CALLBACK, safe=":/") in answer.location
