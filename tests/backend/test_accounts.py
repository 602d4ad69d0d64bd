"""Log-in, log-out, tokens and devices."""

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask

from synckit_notify.backend import Backend, sessions

from ..conftest import KEY
from .conftest import SQLITE_ONLY, Caller, Send, change
from .visitor import Visitor

LONG_KEY = "an example key of 48 bytes, or a little more than that"


def test_a_log_in_gives_a_token_that_works_for_an_hour(log_in: Callable[..., Any], send: Send) -> None:
    status, answer = log_in()
    assert status == 200
    claims = jwt.decode(answer["token"], KEY, ["HS256"])
    assert (claims["sub"], claims["app"]) == (answer["user_id"], answer["app_id"])
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 3600
    assert Caller(send, answer["token"]).get("/status")[0] == 200


def test_an_email_is_compared_without_case_and_spaces(log_in: Callable[..., Any]) -> None:
    assert log_in(email=" ALICE@example.ORG ")[0] == 200


@pytest.mark.parametrize("wrong", [{"email": "bob@example.org"}, {"password": "wrong"}, {"api_key": "wrong"}])
def test_whatever_is_wrong_in_a_log_in_the_answer_is_one(log_in: Callable[..., Any], wrong: dict[str, str]) -> None:
    assert log_in(**wrong) == (401, {"error": "the API key, the e-mail or the password is wrong"})


@SQLITE_ONLY
@pytest.mark.parametrize("way", ["the app", "the page"])
def test_an_unknown_account_costs_as_much_time_as_a_known_one(
    log_in: Callable[..., Any], app: Flask, credentials: dict[str, str], way: str
) -> None:
    person = Visitor(app, credentials["api_key"])
    page = person.visit()

    def seconds(email: str) -> float:
        started = time.thread_time()
        if way == "the app":
            log_in(email=email, password="wrong")
        else:
            person.press(page, "log_in", email=email, password="wrong")
        return time.thread_time() - started

    known = min(seconds("alice@example.org") for _ in range(3))
    unknown = min(seconds("bob@example.org") for _ in range(3))
    assert unknown == pytest.approx(known, rel=0.5)


def test_a_log_out_refuses_every_older_token_and_no_newer_one(
    backend: Backend, send: Send, log_in: Callable[..., Any]
) -> None:
    user = log_in()[1]["user_id"]
    for _ in range(3):  # within one second, of which a token's `iat` knows no parts
        before = Caller(send, log_in()[1]["token"])
        assert before.get("/status")[0] == 200
        backend.store.write(lambda connection: sessions.log_out(connection, user))
        assert before.get("/status")[0] == 401
        assert Caller(send, log_in()[1]["token"]).get("/status")[0] == 200


def test_a_token_says_who_issued_it_for_whom_and_with_which_key(make_app: Callable[..., Flask]) -> None:
    config = {"SYNCKIT_JWT_KEY": "", "SYNCKIT_JWT_KEYS": {"new": LONG_KEY, "old": LONG_KEY[::-1]}}
    app = make_app(**config, SYNCKIT_JWT_ISSUER="us", SYNCKIT_JWT_AUDIENCE="them", SYNCKIT_JWT_ALGORITHMS="HS384,HS256")
    token = app.extensions["synckit_backend"].signer.sign("notes", "alice", device="d1")
    assert jwt.get_unverified_header(token) == {"alg": "HS384", "kid": "new", "typ": "JWT"}
    claims = jwt.decode(token, LONG_KEY, ["HS384"], issuer="us", audience="them")
    assert claims["device"] == "d1"
    headers = {"Authorization": f"Bearer {token}"}
    assert app.test_client().get("/api/sync/status", headers=headers).status_code == 200


def test_a_device_is_found_again_by_its_name(alice: Caller, as_user: Callable[..., Caller]) -> None:
    status, first = alice.post("/devices", {"device_name": "laptop", "platform": "linux"})
    assert status == 200
    assert set(first) == {"id", "device_name", "created_at"}
    again = alice.post("/devices", {"device_name": "laptop", "platform": "macos"})[1]
    assert again == first
    assert alice.get("/devices") == (200, {"devices": [first | {"platform": "macos"}]})
    others = {alice.register("phone"), as_user("bob").register("laptop"), as_user("alice", "mail").register("laptop")}
    assert len(others | {first["id"]}) == 4


def test_a_device_with_an_installation_is_found_by_that_and_the_name_is_only_a_label(alice: Caller) -> None:
    named = alice.register("laptop")
    installed = alice.register("laptop", installation_id="one")
    reinstalled = alice.register("laptop", installation_id="two")
    assert len({named, installed, reinstalled}) == 3
    assert alice.register("my laptop", installation_id="one") == installed
    assert alice.register("laptop") == named
    names = [device["device_name"] for device in alice.get("/devices")[1]["devices"]]
    assert sorted(names) == ["laptop", "laptop", "my laptop"]


@pytest.mark.parametrize("fields", [{"platform": "amiga"}, {"device_name": "x" * 101}, {"installation_id": ""}])
def test_a_device_must_be_described_rightly(alice: Caller, fields: dict[str, str]) -> None:
    assert alice.post("/devices", {"device_name": "laptop", "platform": "linux"} | fields)[0] == 422


def test_a_deleted_device_is_unknown_and_what_it_pushed_stays(alice: Caller, as_user: Callable[..., Caller]) -> None:
    laptop, phone = alice.register("laptop"), alice.register("phone")
    alice.push(laptop)
    assert as_user("bob").delete(f"/devices/{laptop}")[0] == 404
    assert alice.delete(f"/devices/{laptop}") == (204, None)
    assert alice.delete(f"/devices/{laptop}")[0] == 404
    assert alice.post("/push", {"device_id": laptop, "changes": [change()]})[0] == 404
    assert alice.post("/pull", {"device_id": laptop, "cursor": 0})[0] == 404
    assert [row["device_id"] for row in alice.pull(phone)["changes"]] == [laptop]
