"""Commands about apps, users and devices that already exist."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Table, select

from synckit_notify.backend import Backend, accounts
from synckit_notify.backend.admin import account_deletion
from synckit_notify.backend.database import schema
from synckit_notify.testing import CONNECTED, open_stream

from ..support.backend import PASSWORD, SQLITE_ONLY, Caller, Run, Send, change, last_word, refused
from ..support.visitor import Visitor, grant

ALICE = "alice@example.org"
BYE = b": bye revoked\n\n"


class Person:
    """Alice, logged in, with a device that has pushed, an envelope, and a token without a session."""

    def __init__(self, send: Send, log_in: Callable[..., Any], run: Run) -> None:
        status, self.answer = log_in()
        assert status == 200, self.answer
        self._send = send
        self.id, self.app = self.answer["user_id"], self.answer["app_id"]
        self.calls = Caller(send, self.answer["token"])
        self.pasted = last_word(run("token", "--app", self.app, "--user", self.id))
        self.device = self.calls.register()
        self.calls.push(self.device, push_id="first")
        assert self.calls.put("/keys", {"envelope": "sealed"})[0] == 200

    def is_out(self, api_key: str) -> None:
        """Check that every kind of token is refused."""
        assert self.calls.get("/status")[0] == 401
        assert Caller(self._send, self.pasted).get("/status")[0] == 401
        renewal = {"grant_type": "refresh_token", "refresh_token": self.answer["refresh_token"], "client_id": api_key}
        assert self._send("POST", "/oauth/token", renewal, {})[1]["error"] == "invalid_grant"


@pytest.fixture
def alice_there(send: Send, log_in: Callable[..., Any], run: Run) -> Person:
    return Person(send, log_in, run)


def test_apps_are_listed_with_their_use_and_their_addresses(run: Run, alice_there: Person) -> None:
    run("app", "add", "mail\x1b[31m")
    run("app", "redirect", "notes", "https://notes.example.org/done")
    first, second, address = run("app", "list").splitlines()
    assert re.fullmatch(r"\S{36}  0 users  0 changes  history  mail\ufffd\[31m", first)
    assert second == f"{alice_there.app}  1 user  1 change  history  notes"
    assert address.strip() == "https://notes.example.org/done"


def test_users_are_listed_page_by_page_without_a_hash(run: Run, app: Flask) -> None:
    for name in ("carol", "alice", "bob"):
        run("user", "add", f"{name}@example.org", "--password", "secret")
    run("user", "disable", "bob@example.org")
    allow_all = run("user", "list")
    assert [line.split()[2:] for line in allow_all.splitlines()] == [
        ["enabled", "alice@example.org"],
        ["disabled", "bob@example.org"],
        ["enabled", "carol@example.org"],
    ]
    assert "argon2" not in allow_all
    page = run("user", "list", "--limit", "1", "--after", "Alice@example.org")
    assert "bob@example.org" in page
    assert "carol" not in page
    assert "--after bob@example.org" in page


def test_a_disabled_account_is_logged_out_everywhere_and_answered_like_a_wrong_password(
    run: Run, app: Flask, alice_there: Person, log_in: Callable[..., Any], credentials: dict[str, str]
) -> None:
    person = Visitor(app, credentials["api_key"])
    page = person.log_in()
    with open_stream(app.test_client(), alice_there.app, alice_there.pasted) as stream:
        assert stream.next_frame() == CONNECTED
        run("user", "disable", "Alice@example.org")
        assert stream.next_frame() == BYE
    alice_there.is_out(credentials["api_key"])
    assert log_in() == log_in(password="wrong") == log_in(email="nobody@example.org")
    assert log_in()[0] == 401
    assert person.press(page, "allow").status_code == 403
    assert person.press(person.visit(), "log_in", email=ALICE, password=PASSWORD).status_code == 403
    for words in (["user", "logout", ALICE], ["user", "password", ALICE, "--password", PASSWORD]):
        run(*words)
        assert log_in()[0] == 401  # neither lets anybody in again
    assert "is disabled" in refused(app, "token", "--app", "notes", "--user", ALICE)


def test_a_code_issued_before_the_account_was_disabled_is_refused(
    run: Run, app: Flask, send: Send, credentials: dict[str, str]
) -> None:
    code = Visitor(app, credentials["api_key"]).allow()
    run("user", "disable", ALICE)
    assert send("POST", "/oauth/token", grant(credentials["api_key"], code), {})[1]["error"] == "invalid_grant"


def test_an_enabled_account_has_its_old_password_and_data(
    run: Run, app: Flask, send: Send, alice_there: Person, log_in: Callable[..., Any], credentials: dict[str, str]
) -> None:
    run("user", "disable", ALICE)
    run("user", "disable", ALICE)
    run("user", "enable", ALICE)
    alice_there.is_out(credentials["api_key"])
    again = Caller(send, log_in()[1]["token"])
    assert len(again.pull(alice_there.device)["changes"]) == 1
    assert "not disabled" in refused(app, "user", "enable", ALICE)


def rows_of(backend: Backend, table: Table, column: str, value: str) -> int:
    def count(connection: Connection) -> int:
        return len(connection.execute(select(table).where(table.c[column] == value)).all())

    return backend.store.read(count)


def test_a_deleted_account_leaves_only_its_id(
    run: Run,
    app: Flask,
    backend: Backend,
    alice_there: Person,
    credentials: dict[str, str],
    as_user: Callable[..., Caller],
) -> None:
    bob = as_user("bob", alice_there.app)
    bobs_device = bob.register()
    bob.push(bobs_device, push_id="first")
    Visitor(app, credentials["api_key"]).allow()
    with open_stream(app.test_client(), alice_there.app, alice_there.pasted) as stream:
        assert stream.next_frame() == CONNECTED
        assert "is deleted" in run("user", "delete", ALICE, "--yes")
        assert stream.next_frame() == BYE
    alice_there.is_out(credentials["api_key"])
    for table in (schema.changes, schema.heads, schema.devices, schema.sessions, schema.codes, schema.envelopes):
        assert rows_of(backend, table, "user_id", alice_there.id) == 0, table.name
    assert rows_of(backend, schema.pushes, "device_id", alice_there.device) == 0
    assert rows_of(backend, schema.users, "email", ALICE) == 0
    assert rows_of(backend, schema.pushes, "device_id", bobs_device) == 1
    assert len(bob.pull(bobs_device)["changes"]) == 1
    assert ALICE not in run("user", "list")
    for words in (["delete", ALICE, "--yes"], ["enable", alice_there.id], ["disable", ALICE]):
        assert "no such account" in refused(app, "user", *words)


def test_a_new_account_with_the_same_address_is_empty(
    run: Run, alice_there: Person, log_in: Callable[..., Any], send: Send
) -> None:
    run("user", "delete", ALICE, "--yes")
    run("user", "add", ALICE, "--password", PASSWORD)
    answer = log_in()[1]
    assert answer["user_id"] != alice_there.id
    assert Caller(send, answer["token"]).get("/status")[1]["change_count"] == 0


def test_deleting_asks_for_confirmation(run: Run, app: Flask, alice_there: Person) -> None:
    result = app.test_cli_runner().invoke(args=["synckit", "user", "delete", ALICE], input="n\n")
    assert (result.exit_code, "with 1 changes permanently?" in result.output) == (1, True)
    assert alice_there.calls.get("/status")[0] == 200
    run("user", "delete", ALICE, stdin="y\n")
    assert alice_there.calls.get("/status")[0] == 401


def test_changes_are_deleted_in_batches_and_an_interrupted_command_continues(
    run: Run, app: Flask, backend: Backend, alice_there: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_deletion, "CHANGES_AT_ONCE", 10)
    alice_there.calls.push(alice_there.device, *[change()] * 24)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    user = alice_there.id
    backend.store.write(lambda connection: account_deletion.disable(connection, user))
    with pytest.raises(KeyboardInterrupt):
        account_deletion.delete_account(backend.store, user, interrupt)
    assert rows_of(backend, schema.changes, "user_id", user) == 15
    run("user", "delete", ALICE, "--yes")
    assert rows_of(backend, schema.changes, "user_id", user) == 0


@pytest.mark.parametrize("path", ["push", "devices", "keys"])
def test_requests_in_flight_when_the_account_is_deleted_store_nothing(
    run: Run, backend: Backend, alice_there: Person, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    authenticate = backend.notifier.authenticate

    def then_delete(request: Any) -> Any:
        found = authenticate(request)
        run("user", "delete", ALICE, "--yes")
        return found

    monkeypatch.setattr(backend.notifier, "authenticate", then_delete)
    calls, device = alice_there.calls, alice_there.device
    status, _ = {
        "push": lambda: calls.post("/push", {"device_id": device, "changes": [change()]}),
        "devices": lambda: calls.post("/devices", {"device_name": "late", "platform": "web"}),
        "keys": lambda: calls.put("/keys", {"envelope": "a late one"}),
    }[path]()
    assert status == 401
    for table in (schema.changes, schema.heads, schema.devices, schema.envelopes):
        assert rows_of(backend, table, "user_id", alice_there.id) == 0


def test_devices_are_listed_and_deleted_as_their_user_can(
    run: Run, app: Flask, alice_there: Person, log_in: Callable[..., Any]
) -> None:
    (line,) = run("devices", "list", ALICE).splitlines()
    assert line.split()[0] == alice_there.device
    assert line.split()[3:] == ["linux", "notes", "laptop"]
    with open_stream(app.test_client(), alice_there.app, alice_there.pasted, device_id=alice_there.device) as stream:
        assert stream.next_frame() == CONNECTED
        run("devices", "delete", alice_there.device)
        assert stream.next_frame() == BYE
    assert alice_there.calls.get("/status")[0] == 401  # its session has ended
    assert run("devices", "list", ALICE) == ""
    assert "no such device" in refused(app, "devices", "delete", alice_there.device)
    assert "no such account: nobody@example.org" in refused(app, "devices", "list", "nobody@example.org")


@SQLITE_ONLY
def test_the_database_contains_no_secret_in_plain_text(
    alice_there: Person, app: Flask, send: Send, credentials: dict[str, str], log_in: Callable[..., Any], tmp_path: Path
) -> None:
    code = Visitor(app, credentials["api_key"]).allow()
    renewal = {"grant_type": "refresh_token", "refresh_token": alice_there.answer["refresh_token"]}
    renewed = send("POST", "/oauth/token", renewal | {"client_id": credentials["api_key"]}, {})[1]
    given = send("POST", "/oauth/token", grant(credentials["api_key"], code), {})[1]
    secrets = [credentials["api_key"], PASSWORD, code, alice_there.pasted, alice_there.answer["token"]]
    for answer in (alice_there.answer, renewed, given):
        secrets += [answer["refresh_token"], answer["refresh_token"].partition(".")[2]]
    stored = b"".join(file.read_bytes() for file in (tmp_path / "instance").glob("synckit.db*"))
    assert ALICE.encode() in stored
    assert not [secret for secret in secrets if secret.encode() in stored]


def test_a_disabled_account_takes_as_long_to_refuse_a_password(backend: Backend, credentials: dict[str, str]) -> None:
    checked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "synckit_notify.backend.passwords._verify", lambda stored, password: checked.append(stored) or True
        )
        user = backend.store.read(lambda connection: accounts.account_of(connection, ALICE))
        assert user is not None
        backend.store.write(lambda connection: account_deletion.disable(connection, user.id))
        assert accounts.recognise(backend.store, ALICE, PASSWORD) is None
    assert checked == [user.password_hash]
