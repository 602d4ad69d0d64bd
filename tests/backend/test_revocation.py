"""Who may no longer: a deleted device, a changed password, a log-out everywhere, a session that ended."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

from synckit_notify.backend import Backend, accounts, passwords, sessions
from synckit_notify.testing import CONNECTED, OpenStream, open_stream

from ..support.backend import PASSWORD, Answer, Caller, Send
from ..support.shared_app import app
from ..support.visitor import Visitor, grant

__all__ = ["app"]

REVOKED = b": bye revoked\n\n"


class Device:
    """One device that has logged in and registered; `stream()` subscribes as the SDK does."""

    def __init__(self, app: Flask, send: Send, api_key: str, answer: Answer, name: str | None = None) -> None:
        status, tokens = answer
        assert status == 200, tokens
        self.token = tokens.get("token") or tokens["access_token"]
        self.refresh_token, self.user_id, self.app_id = tokens["refresh_token"], tokens["user_id"], tokens["app_id"]
        self._app, self._send, self._api_key = app, send, api_key
        self.calls = Caller(send, self.token)
        self.id = self.calls.register(name) if name else None

    def stream(self) -> OpenStream:
        stream = open_stream(self._app.test_client(), self.app_id, self.token, device_id=self.id)
        assert stream.next_frame() == CONNECTED
        return stream

    def refresh(self, token: str | None = None) -> Answer:
        form = {"grant_type": "refresh_token", "refresh_token": token or self.refresh_token, "client_id": self._api_key}
        return self._send("POST", "/oauth/token", form, {})

    def is_welcome(self) -> bool:
        """Whether its tokens count: both of them, or none."""
        answers = {self.calls.get("/status")[0], self.refresh()[0]}
        assert answers in ({200}, {401, 400})
        return answers == {200}


@pytest.fixture
def credentials(shared_app: Flask, backend: Backend) -> dict[str, str]:
    """The log-in of somebody whom no other test knows."""
    email, password_hash = f"{uuid.uuid4()}@example.org", passwords.hash_password(PASSWORD)
    backend.store.write(lambda connection: accounts.add_user(connection, email, password_hash))
    return dict(shared_app.config["CREDENTIALS"], email=email)


@pytest.fixture
def device(app: Flask, send: Send, credentials: dict[str, str]) -> Callable[..., Device]:
    """Log a device in, by name if it registers, with more fields if given."""

    def log_in(name: str | None = None, **fields: Any) -> Device:
        answer = send("POST", "/auth", credentials | fields, {})
        return Device(app, send, credentials["api_key"], answer, name)

    return log_in


Make = Callable[..., Device]


class TestADeletedDevice:
    def test_loses_its_tokens_and_its_stream_and_no_other_device_does(self, device: Make) -> None:
        phone, laptop = device("phone"), device("laptop")
        with phone.stream() as lost, laptop.stream() as kept:
            assert laptop.calls.delete(f"/devices/{phone.id}")[0] == 204
            assert lost.next_frame() == REVOKED
            with pytest.raises(TimeoutError):
                kept.next_frame(0.05)
        assert not phone.is_welcome()
        assert laptop.is_welcome()
        with pytest.raises(ConnectionRefusedError, match="401"):
            phone.stream()

    def test_loses_its_stream_also_if_that_never_said_whose_it_is(self, device: Make) -> None:
        phone, laptop = device("phone"), device("laptop")
        phone_id, phone.id = phone.id, None
        with phone.stream() as stream:
            laptop.calls.delete(f"/devices/{phone_id}")
            assert stream.next_frame() == REVOKED

    def test_may_have_deleted_itself(self, device: Make) -> None:
        phone = device("phone")
        assert phone.calls.delete(f"/devices/{phone.id}")[0] == 204
        assert not phone.is_welcome()

    def test_loses_every_session_that_it_registered_in_or_logged_in_with(
        self, device: Make, app: Flask, send: Send, credentials: dict[str, str]
    ) -> None:
        first, again = device("phone"), device("phone")
        assert first.id == again.id
        named = device(device_id=first.id)
        code = Visitor(app, credentials["api_key"], email=credentials["email"]).allow()
        answer = send("POST", "/oauth/token", grant(credentials["api_key"], code) | {"device_id": first.id}, {})
        browser = Device(app, send, credentials["api_key"], answer)
        laptop = device("laptop")
        laptop.calls.delete(f"/devices/{first.id}")
        assert [each.is_welcome() for each in (first, again, named, browser, laptop)] == [False] * 4 + [True]

    def test_is_told_by_a_session_to_the_last_one_that_it_registered_as(self, device: Make) -> None:
        moved = device("phone")
        old, new = moved.id, moved.calls.register("new phone")
        laptop = device("laptop")
        laptop.calls.delete(f"/devices/{old}")
        assert moved.is_welcome()
        laptop.calls.delete(f"/devices/{new}")
        assert not moved.is_welcome()

    def test_cannot_log_in_as_what_it_was(self, device: Make) -> None:
        phone, laptop = device("phone"), device("laptop")
        laptop.calls.delete(f"/devices/{phone.id}")
        again = device(device_id=phone.id)
        assert again.is_welcome()
        assert again.calls.post("/pull", {"device_id": phone.id, "cursor": 0})[0] == 404
        assert again.calls.register("phone") != phone.id

    def test_of_somebody_else_counts_as_none(self, device: Make, as_user: Callable[..., Caller]) -> None:
        bobs = as_user("bob").register("bob's")
        mine = device(device_id=bobs)
        assert as_user("bob").delete(f"/devices/{bobs}")[0] == 204
        assert mine.is_welcome()

    def test_is_named_by_a_text(self, send: Send, credentials: dict[str, str]) -> None:
        assert send("POST", "/auth", credentials | {"device_id": 7}, {})[0] == 422


class TestALogOut:
    def test_ends_this_session_and_its_stream(self, device: Make) -> None:
        laptop, phone = device("laptop"), device("phone")
        with laptop.stream() as mine, phone.stream() as other:
            assert laptop.calls.post("/logout") == (204, None)
            assert mine.next_frame() == REVOKED
            with pytest.raises(TimeoutError):
                other.next_frame(0.1)
        assert [laptop.is_welcome(), phone.is_welcome()] == [False, True]
        assert laptop.calls.post("/logout")[0] == 401

    def test_ends_the_access_tokens_of_earlier_renewals_too(self, device: Make, send: Send) -> None:
        laptop = device("laptop")
        renewed = laptop.refresh()[1]
        assert Caller(send, renewed["access_token"]).post("/logout")[0] == 204
        assert laptop.calls.get("/status")[0] == 401
        assert laptop.refresh(renewed["refresh_token"])[0] == 400

    def test_leaves_another_session_of_the_same_device(self, device: Make) -> None:
        first, second = device("laptop"), device("laptop")
        assert first.id == second.id
        first.calls.post("/logout")
        assert [first.is_welcome(), second.is_welcome()] == [False, True]

    def test_leaves_the_device_and_its_changes(self, device: Make) -> None:
        laptop = device("laptop")
        laptop.calls.push(str(laptop.id))
        laptop.calls.post("/logout")
        again = device("laptop")
        assert again.id == laptop.id
        assert len(again.calls.pull(str(again.id))["changes"]) == 1

    def test_of_a_session_without_a_device_ends_its_streams(self, device: Make) -> None:
        nameless = device()
        with nameless.stream() as stream:
            assert nameless.calls.post("/logout")[0] == 204
            assert stream.next_frame() == REVOKED

    def test_needs_a_session(self, alice: Caller) -> None:
        sentence = "this token belongs to no session: it is valid until it expires"
        assert alice.post("/logout") == (409, {"error": sentence})
        assert alice.get("/status")[0] == 200


class TestAChangedPassword:
    NEW = "a new password"

    def change(self, device: Device, old: str = PASSWORD, new: str = NEW) -> Answer:
        return device.calls.post("/password", {"old_password": old, "new_password": new})

    def test_logs_out_everywhere_and_the_device_that_asked_in_again(
        self, device: Make, app: Flask, send: Send, credentials: dict[str, str]
    ) -> None:
        asking, others = device("laptop"), [device("phone"), device("tablet"), device()]
        with ExitStack() as streams:
            opened = [streams.enter_context(each.stream()) for each in (asking, *others)]
            answer = self.change(asking)
            assert [stream.next_frame() for stream in opened] == [REVOKED] * 4
        assert [each.is_welcome() for each in (asking, *others)] == [False] * 4
        after = Device(app, send, credentials["api_key"], answer)
        assert (after.user_id, after.app_id) == (asking.user_id, asking.app_id)
        assert after.is_welcome()
        device(password=self.NEW).calls.delete(f"/devices/{asking.id}")
        assert not after.is_welcome()  # it is still that device

    def test_is_the_one_that_logs_in(self, device: Make, send: Send, credentials: dict[str, str]) -> None:
        self.change(device())
        assert send("POST", "/auth", credentials, {})[0] == 401
        assert device(password=self.NEW).is_welcome()

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"old_password": "wrong"}, 403),
            ({"old_password": None}, 422),
            ({"new_password": ""}, 422),
            ({"new_password": "x" * 1025}, 422),
            ({"new_password": "\0"}, 422),
        ],
    )
    def test_is_not_changed_by_what_is_wrong(self, device: Make, fields: dict[str, Any], status: int) -> None:
        laptop = device()
        body = {"old_password": PASSWORD, "new_password": self.NEW} | fields
        assert laptop.calls.post("/password", body)[0] == status
        assert laptop.is_welcome()
        assert device().is_welcome()

    def test_is_nothing_for_who_has_no_account_or_no_token(self, alice: Caller, send: Send) -> None:
        body = {"old_password": PASSWORD, "new_password": self.NEW}
        assert alice.post("/password", body)[0] == 403
        assert send("POST", "/password", body, {})[0] == 401

    def test_comes_before_a_log_in_that_was_checked_against_the_old_one(
        self, device: Make, backend: Backend, send: Send, credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both ways in take a tenth of a second to check a password; meanwhile it is changed."""
        user_id, begin = device().user_id, accounts.require_unchanged

        def overtaken(connection: Any, user: Any) -> None:
            sessions.set_password(connection, user_id, passwords._hasher.hash(self.NEW))
            begin(connection, user)

        monkeypatch.setattr(accounts, "require_unchanged", overtaken)
        assert send("POST", "/auth", credentials, {})[0] == 401

    def test_may_be_set_by_a_command_for_who_forgot_it(
        self, device: Make, app: Flask, credentials: dict[str, str]
    ) -> None:
        phone = device("phone")
        with phone.stream() as stream:
            words = ["synckit", "user", "password", credentials["email"].upper(), "--password", self.NEW]
            assert app.test_cli_runner().invoke(args=words).exit_code == 0
            assert stream.next_frame() == REVOKED
        assert not phone.is_welcome()
        assert device(password=self.NEW).is_welcome()
        missing = app.test_cli_runner().invoke(args=["synckit", "user", "password", "bob", "--password", "x"])
        assert (missing.exit_code, "no such account" in missing.output) == (1, True)


class TestASessionThatEnded:
    def test_takes_its_access_tokens_with_it_when_a_refresh_token_came_twice(self, device: Make) -> None:
        thief, other = device("phone"), device("laptop")
        second = thief.refresh()[1]["refresh_token"]
        assert thief.refresh(second)[0] == 200
        with thief.stream() as stream, other.stream() as kept:
            assert thief.refresh()[1]["error"] == "invalid_grant"
            assert stream.next_frame() == REVOKED
            with pytest.raises(TimeoutError):
                kept.next_frame(0.05)
        assert not thief.is_welcome()
        assert other.is_welcome()

    def test_takes_them_with_it_when_it_was_one_too_many(self, device: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
        three = [device() for _ in range(3)]
        assert [each.is_welcome() for each in three] == [False, True, True]

    def test_is_not_needed_for_a_token_that_names_none(self, alice: Caller) -> None:
        assert alice.get("/status")[0] == 200
