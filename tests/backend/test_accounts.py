"""Log-in, log-out, tokens and devices."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from flask import Flask

from synckit_notify.backend import Backend, accounts, last_seen, payloads, sessions
from synckit_notify.backend.database import schema
from synckit_notify.backend.request_fields import rfc3339

from ..support.backend import AT, SQLITE_ONLY, Caller, Send, change
from ..support.tokens import KEY
from ..support.visitor import Visitor

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
def test_every_failed_log_in_gets_the_same_answer(log_in: Callable[..., Any], wrong: dict[str, str]) -> None:
    assert log_in(**wrong) == (401, {"error": "the API key, the e-mail or the password is wrong"})


@SQLITE_ONLY
@pytest.mark.parametrize("way", ["the app", pytest.param("the page", marks=pytest.mark.thorough)])
def test_an_unknown_account_takes_as_long_as_a_known_one(
    real_passwords: None, log_in: Callable[..., Any], app: Flask, credentials: dict[str, str], way: str
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


def test_a_device_is_identified_by_its_name(alice: Caller, as_user: Callable[..., Caller]) -> None:
    status, first = alice.post("/devices", {"device_name": "laptop", "platform": "linux"})
    assert status == 200
    assert set(first) == {"id", "device_name", "created_at"}
    again = alice.post("/devices", {"device_name": "laptop", "platform": "macos"})[1]
    assert again == first
    status, listed = alice.get("/devices")
    (only,) = listed["devices"]
    assert only.pop("last_seen_at") >= first["created_at"]
    assert (status, only, listed["has_more"]) == (200, first | {"platform": "macos"}, False)
    others = {alice.register("phone"), as_user("bob").register("laptop"), as_user("alice", "mail").register("laptop")}
    assert len(others | {first["id"]}) == 4


def test_an_installation_id_identifies_a_device_and_its_name_is_a_label(alice: Caller) -> None:
    named = alice.register("laptop")
    installed = alice.register("laptop", installation_id="one")
    reinstalled = alice.register("laptop", installation_id="two")
    assert len({named, installed, reinstalled}) == 3
    assert alice.register("my laptop", installation_id="one") == installed
    assert alice.register("laptop") == named
    names = [device["device_name"] for device in alice.get("/devices")[1]["devices"]]
    assert sorted(names) == ["laptop", "laptop", "my laptop"]


@pytest.mark.parametrize("fields", [{"platform": "amiga"}, {"device_name": "x" * 101}, {"installation_id": ""}])
def test_a_device_with_a_wrong_field_is_refused(alice: Caller, fields: dict[str, str]) -> None:
    assert alice.post("/devices", {"device_name": "laptop", "platform": "linux"} | fields)[0] == 422


def test_a_deleted_device_is_unknown_and_its_changes_stay(alice: Caller, as_user: Callable[..., Caller]) -> None:
    laptop, phone = alice.register("laptop"), alice.register("phone")
    alice.push(laptop)
    assert as_user("bob").delete(f"/devices/{laptop}")[0] == 404
    assert alice.delete(f"/devices/{laptop}") == (204, None)
    assert alice.delete(f"/devices/{laptop}")[0] == 404
    assert alice.post("/push", {"device_id": laptop, "changes": [change()]})[0] == 404
    assert alice.post("/pull", {"device_id": laptop, "cursor": 0})[0] == 404
    assert [row["device_id"] for row in alice.pull(phone)["changes"]] == [laptop]


class TestAListOfDevices:
    def test_comes_in_pages_that_hold_each_device_once(self, alice: Caller, as_user: Callable[..., Caller]) -> None:
        registered = {alice.register(f"{n}", **{"installation_id": f"{n}"} if n % 2 else {}) for n in range(7)}
        as_user("bob").register()
        pages, after, has_more = [], "", True
        while has_more:
            _, answer = alice.get(f"/devices?limit=3&after={after}")
            has_more = answer["has_more"]
            pages.append([device["id"] for device in answer["devices"]])
            after = pages[-1][-1]
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [device for page in pages for device in page] == sorted(registered)

    def test_continues_after_a_device_that_was_deleted_meanwhile(self, alice: Caller) -> None:
        first, second = sorted(alice.register(name) for name in ("laptop", "phone"))
        assert alice.delete(f"/devices/{first}")[0] == 204
        assert [device["id"] for device in alice.get(f"/devices?after={first}")[1]["devices"]] == [second]

    def test_has_a_default_size(self, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(payloads.DevicesQuery.fields["limit"], "default", 2)
        for n in range(3):
            alice.register(f"{n}")
        answers = [alice.get(path)[1] for path in ("/devices", "/devices?limit=200")]
        assert [(len(answer["devices"]), answer["has_more"]) for answer in answers] == [(2, True), (3, False)]

    @pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=ten", "limit=-1", "limit=%C2%B2", "after=%00"])
    def test_out_of_bounds_names_the_parameter(self, alice: Caller, query: str) -> None:
        status, answer = alice.get(f"/devices?{query}")
        assert (status, answer["error"].partition(":")[0]) == (422, query.partition("=")[0])


class TestADeviceTooMany:
    @pytest.fixture(autouse=True)
    def _few_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accounts, "MAX_DEVICES", 3)

    def test_replaces_the_device_that_was_inactive_for_longest(
        self, alice: Caller, as_user: Callable[..., Caller]
    ) -> None:
        bobs = [as_user("bob").register(f"{n}") for n in range(3)]
        silent, *others = [alice.register(f"{n}") for n in range(3)]
        assert alice.register("0", platform="ios") == silent  # registered again: seen just now, and no device more
        assert alice.register("new") not in (silent, *others)
        assert {device["id"] for device in alice.get("/devices")[1]["devices"]} >= {silent, others[1]}
        assert alice.post("/pull", {"device_id": others[0], "cursor": 0})[0] == 404
        assert alice.post("/push", {"device_id": others[0], "changes": [change()]})[0] == 404
        assert alice.register("1") != others[0]  # as the SDK does at a 404: it registers once more
        assert {device["id"] for device in as_user("bob").get("/devices")[1]["devices"]} == set(bobs)

    def test_of_an_older_release_is_reduced_in_steps(self, alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accounts, "MAX_DEVICES", 100)
        for n in range(10):
            alice.register(f"{n}")
        monkeypatch.setattr(accounts, "MAX_DEVICES", 3)
        monkeypatch.setattr(accounts, "MAX_DELETED_AT_ONCE", 4)
        counts = []
        for n in range(10, 14):
            alice.register(f"{n}")
            counts.append(len(alice.get("/devices")[1]["devices"]))
        assert counts == [7, 4, 3, 3]

    def test_leaves_the_sessions_of_the_other_as_they_are(self, log_in: Callable[..., Any], send: Send) -> None:
        """It is not logged out: a person would have to do something."""
        token = log_in()[1]["token"]
        phone = Caller(send, token)
        phone.register("phone")
        for n in range(4):
            Caller(send, log_in()[1]["token"]).register(f"{n}")
        assert phone.get("/status")[0] == 200
        assert phone.register("phone")


class TestUpToWhereADeviceHasAppliedTheLog:
    """Stored with the time at which the device was last seen: once a minute, but at once when it goes back."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(last_seen, "COLLECTING_SECONDS", 0.0)

    @pytest.fixture
    def laptop(self, alice: Caller) -> str:
        laptop = alice.register()
        alice.push(laptop, *[change(str(number)) for number in range(9)])
        return laptop

    @staticmethod
    def stored(backend: Backend) -> int | None:
        for thread in [thread for thread in threading.enumerate() if "_store_all" in thread.name]:
            thread.join()
        found = schema.devices.select().where(schema.devices.c.name == "laptop")
        return backend.store.read(lambda connection: connection.execute(found).one().confirmed)

    @staticmethod
    def a_minute_later(backend: Backend) -> None:
        long_ago = schema.devices.update().values(last_seen_at=1)
        backend.store.write(lambda connection: connection.execute(long_ago) and None)

    def test_is_unknown_until_the_first_pull(self, alice: Caller, backend: Backend, laptop: str) -> None:
        self.a_minute_later(backend)
        alice.push(laptop)
        assert self.stored(backend) is None
        alice.pull(laptop)
        assert self.stored(backend) == 0

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, 5),
            ({"latest": False}, 5),
            ({"confirmed": 3}, 3),
            ({"confirmed": 7}, 7),
            ({"confirmed": 7, "tables": ["tasks"]}, 7),
            ({"tables": ["tasks"]}, 2),
            ({"since": AT}, 2),
            ({"until": AT}, 2),
        ],
    )
    def test_is_what_the_pull_says_or_the_cursor_of_a_pull_without_a_filter(
        self, alice: Caller, backend: Backend, laptop: str, fields: dict[str, object], expected: int
    ) -> None:
        alice.pull(laptop, 2)
        assert self.stored(backend) == 2
        self.a_minute_later(backend)
        alice.pull(laptop, 5, **fields)
        assert self.stored(backend) == expected

    def test_of_a_device_that_only_pulls_with_a_filter_is_0(self, alice: Caller, backend: Backend, laptop: str) -> None:
        alice.pull(laptop, 5, tables=["tasks"])
        assert self.stored(backend) == 0

    def test_rises_once_a_minute_and_goes_back_at_once(self, alice: Caller, backend: Backend, laptop: str) -> None:
        seen = []
        for cursor in (4, 8, 6, 3, 5):
            alice.pull(laptop, cursor)
            seen.append(self.stored(backend))
        assert seen == [4, 4, 4, 3, 3]
        self.a_minute_later(backend)
        alice.pull(laptop, 8)
        alice.push(laptop)
        assert self.stored(backend) == 8

    @pytest.mark.parametrize("value", [-1, 2**63, "1", 1.5, True])
    def test_must_be_a_cursor(self, alice: Caller, laptop: str, value: object) -> None:
        status, answer = alice.post("/pull", {"device_id": laptop, "cursor": 0, "confirmed": value})
        assert (status, answer["error"].partition(":")[0]) == (422, "confirmed")

    def test_beyond_the_log_is_a_conflict(self, alice: Caller, laptop: str) -> None:
        assert alice.post("/pull", {"device_id": laptop, "cursor": 0, "confirmed": 10})[0] == 409


class TestWhenADeviceWasLastSeen:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(last_seen, "COLLECTING_SECONDS", 0.0)

    @staticmethod
    def forget(backend: Backend, moment: int | None = None) -> None:
        """Let all devices have been silent since a moment; those of schema version 3 have none."""
        backend.store.write(
            lambda connection: connection.execute(schema.devices.update().values(last_seen_at=moment)) and None
        )

    @staticmethod
    def stored(backend: Backend) -> list[int | None]:
        threads = [thread for thread in threading.enumerate() if "_store_all" in thread.name]
        for thread in threads:
            thread.join()
        rows = schema.devices.select().order_by(schema.devices.c.name)
        return [row.last_seen_at for row in backend.store.read(lambda connection: connection.execute(rows).all())]

    @pytest.mark.parametrize("known", [None, 1])
    def test_is_stored_after_a_pull_and_after_a_push(self, alice: Caller, backend: Backend, known: int | None) -> None:
        began = schema.now()
        laptop, phone = alice.register("laptop"), alice.register("phone")
        alice.register("silent")
        self.forget(backend, known)
        alice.pull(laptop)
        alice.push(phone)
        of_laptop, of_phone, of_silent = self.stored(backend)
        assert (of_laptop or 0) >= began
        assert (of_phone or 0) >= began
        assert of_silent == known
        listed = {each["device_name"]: each["last_seen_at"] for each in alice.get("/devices")[1]["devices"]}
        assert listed["silent"] == (None if known is None else "1970-01-01T00:00:00.000001Z")
        assert listed["laptop"] == rfc3339(of_laptop or 0)

    def test_is_stored_once_a_minute(self, alice: Caller, backend: Backend) -> None:
        laptop = alice.register("laptop")
        alice.pull(laptop)
        self.stored(backend)
        lately = schema.now() - last_seen.PRECISION_MICROSECONDS + 30_000_000
        self.forget(backend, lately)
        alice.pull(laptop)
        assert self.stored(backend) == [lately]

    def test_does_not_fail_a_pull_when_nothing_can_be_stored(
        self, alice: Caller, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        laptop = alice.register("laptop")
        alice.pull(laptop)
        self.forget(backend)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            alice.pull(laptop)
        assert self.stored(backend) == [None]
        alice.pull(laptop)
        assert self.stored(backend) != [None]
