"""The pages of a log-in: what they show, whom they let through, and what protects them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from synckit_notify.backend import Backend, accounts, passwords, sessions
from synckit_notify.backend.oauth import pages

from ..support.backend import PASSWORD, SQLITE_ONLY, add_account
from ..support.shared_app import app, credentials
from ..support.visitor import CALLBACK, Visitor, sent_to

__all__ = ["app", "credentials"]

TLS = "https://localhost"

pytestmark = pytest.mark.parametrize("shared_app", ["sqlite"], indirect=True)


@pytest.fixture
def person(app: Flask, credentials: dict[str, str]) -> Visitor:
    """Alice, sent by the app `notes`."""
    return Visitor(app, credentials["api_key"])


def cookie(answer: TestResponse) -> str:
    (value,) = answer.headers.getlist("Set-Cookie")
    return value


def refused(person: Visitor, page: TestResponse, **fields: str) -> str:
    """Log in in vain, and return the page."""
    answer = person.press(page, "log_in", **fields)
    assert (answer.status_code, answer.location) == (403, None)
    return re.sub(r'(name="secret"|name="email") .*', "", answer.text)


def test_every_page_is_kept_out_of_frames_caches_and_referrers_and_runs_no_script(person: Visitor) -> None:
    answers = [
        person.visit(),
        person.log_in(),
        person.visit("client_id=nobody"),
        person.post({"action": "allow"}),
        person.press(person.visit(), "allow"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 422, 302]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "<script" not in answer.text
        assert "style=" not in answer.text
        assert answer.status_code == 302 or answer.content_type == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        (CALLBACK, "http://127.0.0.1:53123"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:53123/callback", "http:"),  # the policy's grammar has no word for that host
    ],
)
def test_a_form_may_only_lead_here_and_to_the_app(person: Visitor, address: str, allowed: str) -> None:
    person.asked["redirect_uri"] = address
    policy = person.visit().headers["Content-Security-Policy"].split("; ")
    assert f"form-action 'self' {allowed}" in policy


def test_the_cookie_is_sent_by_this_browser_to_this_site_only(person: Visitor) -> None:
    answer = person.visit()
    assert re.fullmatch(r"synckit=[\w.-]+; Expires=[^;]+; Max-Age=600; HttpOnly; Path=/; SameSite=Lax", cookie(answer))
    assert "Vary" not in answer.headers or answer.headers["Vary"] == "Cookie"


def test_with_tls_no_other_host_can_read_or_set_the_cookie(app: Flask, credentials: dict[str, str]) -> None:
    person = Visitor(app, credentials["api_key"], base_url=TLS)
    kept = cookie(person.visit())
    assert re.fullmatch(
        r"__Host-synckit=[\w.-]+; Expires=[^;]+; Max-Age=600; Secure; HttpOnly; Path=/; SameSite=Lax", kept
    )
    assert "alice@example.org" in person.log_in().text
    assert "code" in sent_to(person.press(person.visit(), "allow"))


def test_the_cookie_cannot_be_changed_and_is_not_signed_with_the_tokens_key(person: Visitor, backend: Backend) -> None:
    consent = person.log_in()
    secret = re.findall(r'name="secret" value="([^"]*)"', consent.text)[0]
    found = person.browser.get_cookie("synckit")
    assert found is not None
    forged = pages.URLSafeTimedSerializer(backend.signer.key).dumps([secret, "somebody", None])
    for value in (found.value[:-1], "A" + found.value[1:], "", "é", forged):
        person.browser.set_cookie("synckit", value)
        assert "Log in to use" in person.press(consent, "allow").text


@pytest.mark.parametrize("action", ["log_in", "allow", "decline", "switch"])
@pytest.mark.parametrize("secret", ["", "guessed", "é"])
def test_without_the_secret_of_the_page_nothing_is_done(person: Visitor, action: str, secret: str) -> None:
    person.log_in()
    credentials = {"email": "alice@example.org", "password": PASSWORD}
    answer = person.post({"action": action, "secret": secret} | credentials)
    assert (answer.status_code, answer.location) == ((403 if secret else 422), None)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("action", ["log_in", "allow"])
def test_the_secret_of_another_browser_does_nothing(person: Visitor, app: Flask, action: str) -> None:
    mine, other = person.visit() if action == "log_in" else person.log_in(), Visitor(app, person.asked["client_id"])
    for stranger in (other, person):
        answer = stranger.press(mine, action, email="alice@example.org", password=PASSWORD)
        assert (answer.status_code, "open for too long" in answer.text) == (
            (403, True) if stranger is other else ((303 if action == "log_in" else 302), False)
        )


def test_a_log_in_changes_the_secret(person: Visitor) -> None:
    before = person.visit()
    person.log_in()
    assert "open for too long" in person.press(before, "log_in", email="mallory@example.org", password="x").text


def test_a_failed_log_in_does_not_show_which_part_was_wrong(person: Visitor) -> None:
    page = person.visit()
    wrong = [
        {"email": "alice@example.org", "password": "wrong"},
        {"email": "bob@example.org", "password": "wrong"},
        {"email": "bob@example.org", "password": PASSWORD},
    ]
    assert len({refused(person, page, **fields) for fields in wrong}) == 1
    hopeless = [{"email": "", "password": ""}, {"email": "a" * 255, "password": "x"}, {"email": "a", "password": "\0"}]
    for fields in hopeless:
        assert "The e-mail or the password is wrong." in refused(person, page, **fields)


def test_names_of_users_and_apps_are_escaped(app: Flask, backend: Backend, person: Visitor) -> None:
    mark = "<b>\"'&"
    _, api_key = backend.store.write(lambda connection: accounts.add_app(connection, mark))
    page = Visitor(app, api_key).visit()
    assert mark not in page.text
    assert "&lt;b&gt;&#34;&#39;&amp;" in page.text
    answer = person.press(person.visit(), "log_in", email=mark, password="x")
    assert mark not in answer.text


def test_a_url_that_is_not_ascii_is_redirected_to(person: Visitor) -> None:
    query = "&".join(f"{name}={value}" for name, value in (person.asked | {"state": "é💩"}).items()).encode()
    secret = re.findall(r'name="secret" value="([^"]*)"', person.visit().text)[0]
    form = {"secret": secret, "action": "log_in", "email": "alice@example.org", "password": PASSWORD}
    raw = {"QUERY_STRING": query.decode("latin-1")}  # as a server gives it, whose client did not encode it
    answer = person.browser.post("/oauth/authorize", data=form, environ_overrides=raw)
    assert answer.status_code == 303
    assert "&state=%C3%A9%F0%9F%92%A9&" in answer.location
    assert "Allow notes" in person.visit(answer.location.removeprefix("?")).text


def test_a_log_in_lasts_ten_minutes(person: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    consent = person.log_in()
    assert pages.VISIT_SECONDS == 600
    monkeypatch.setattr(pages, "VISIT_SECONDS", -1)
    answer = person.press(consent, "allow")
    assert answer.status_code == 403
    assert "open for too long" in answer.text
    assert "Password" in answer.text


@pytest.mark.parametrize("action", ["allow", "decline"])
def test_a_decision_ends_the_log_in(person: Visitor, action: str) -> None:
    answer = person.press(person.log_in(), action)
    assert "synckit=; Expires=Thu, 01 Jan 1970" in cookie(answer)
    assert "Password" in person.visit().text


def test_the_user_can_switch_to_another_account(person: Visitor) -> None:
    answer = person.press(person.log_in(), "switch")
    assert answer.status_code == 303
    assert "Password" in person.visit().text


@pytest.mark.parametrize("way", ["logged out", "a new password"])
def test_a_log_out_everywhere_ends_it_too(
    person: Visitor, backend: Backend, log_in: Callable[..., Any], way: str
) -> None:
    user, same_again = log_in()[1]["user_id"], passwords.hash_password(PASSWORD)
    consent = person.log_in()
    if way == "logged out":
        backend.store.write(lambda connection: sessions.log_out(connection, user))
    else:
        backend.store.write(lambda connection: sessions.set_password(connection, user, same_again))
    answer = person.press(consent, "allow")
    assert (answer.status_code, answer.location) == (403, None)
    assert "Please log in again." in answer.text


def test_a_log_out_at_the_time_of_the_consent_comes_first(
    person: Visitor, backend: Backend, monkeypatch: pytest.MonkeyPatch, log_in: Callable[..., Any]
) -> None:
    user_id = log_in()[1]["user_id"]
    consent = person.log_in()
    stale = backend.store.read(lambda connection: accounts.account(connection, user_id))
    backend.store.write(lambda connection: sessions.log_out(connection, user_id))
    monkeypatch.setattr(pages, "_user", lambda visit: stale if visit.user else None)
    answer = person.press(consent, "allow")
    assert (answer.status_code, "Please log in again." in answer.text) == (403, True)


def test_the_page_names_the_web_host_it_continues_to(person: Visitor, app: Flask, backend: Backend) -> None:
    assert "Allow this only if you have just started a log-in" in person.log_in().text
    app.test_cli_runner().invoke(args=["synckit", "app", "redirect", "notes", "https://notes.example.org/done"])
    person.asked["redirect_uri"] = "https://notes.example.org/done"
    page = person.visit()
    assert "Afterwards you continue on <strong>notes.example.org</strong>" in page.text
    assert "form-action 'self' https://notes.example.org;" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 422), (b"action=allow", 422), (b"\xff", 400), (b"a=b&" * 21, 400), (b"x" * (16 * 1024 + 1), 413)],
)
def test_a_malformed_form_is_an_error_page_and_no_500(person: Visitor, body: bytes, status: int) -> None:
    person.visit()
    query = {name: value for name, value in person.asked.items() if value}
    answer = person.browser.post("/oauth/authorize", query_string=query, data=body)
    assert answer.status_code == status
    assert "This log-in cannot continue" in answer.text


def test_an_unknown_action_is_refused(person: Visitor) -> None:
    secret = re.findall(r'name="secret" value="([^"]*)"', person.visit().text)[0]
    assert person.post({"secret": secret, "action": "format the disk"}).status_code == 422


@SQLITE_ONLY
def test_a_cookie_of_one_service_is_refused_by_another(
    make_app: Callable[..., Flask], tmp_path: Any, person: Visitor
) -> None:
    config = {
        "SYNCKIT_JWT_KEY": "another key of 32 bytes, or more...",
        "SYNCKIT_DATABASE_URL": f"sqlite:///{tmp_path}/b",
    }
    other = make_app(**config)
    consent = person.log_in()
    stranger = Visitor(other, add_account(other.extensions["synckit_backend"])["api_key"])
    found = person.browser.get_cookie("synckit")
    assert found is not None
    stranger.browser.set_cookie("synckit", found.value)
    assert "open for too long" in stranger.press(consent, "allow").text
