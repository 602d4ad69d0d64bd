"""Commands about apps, users and devices that are there already, and about who is connected."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Table, select

from synckit_notify.backend import Backend, accounts, presence
from synckit_notify.backend.admin import account_deletion
from synckit_notify.backend.database import schema
from synckit_notify.testing import CONNECTED, open_stream

from ..support.backend import PASSWORD, SQLITE_ONLY, Caller, Run, Send, change, last_word, refused
from ..support.tokens import make_token
from ..support.visitor import Visitor, grant

pytestmark = pytest.mark.usefixtures("quick_passwords")

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
        """See that no token of any kind counts."""
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
    assert re.fullmatch(r"\S{36}  0 users  0 changes  mail\ufffd\[31m", first)
    assert second == f"{alice_there.app}  1 users  1 changes  notes"
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


def test_whoever_is_disabled_is_out_everywhere_and_told_what_a_wrong_password_is_told(
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


def test_a_code_that_was_given_before_is_worth_nothing_after(
    run: Run, app: Flask, send: Send, credentials: dict[str, str]
) -> None:
    code = Visitor(app, credentials["api_key"]).allow()
    run("user", "disable", ALICE)
    assert send("POST", "/oauth/token", grant(credentials["api_key"], code), {})[1]["error"] == "invalid_grant"


def test_whoever_is_enabled_again_logs_in_with_the_old_password_and_finds_everything(
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


def test_a_deleted_account_leaves_nothing_but_its_id(
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


def test_the_same_address_may_have_a_new_account_that_is_empty(
    run: Run, alice_there: Person, log_in: Callable[..., Any], send: Send
) -> None:
    run("user", "delete", ALICE, "--yes")
    run("user", "add", ALICE, "--password", PASSWORD)
    answer = log_in()[1]
    assert answer["user_id"] != alice_there.id
    assert Caller(send, answer["token"]).get("/status")[1]["change_count"] == 0


def test_nobody_is_deleted_unasked(run: Run, app: Flask, alice_there: Person) -> None:
    result = app.test_cli_runner().invoke(args=["synckit", "user", "delete", ALICE], input="n\n")
    assert (result.exit_code, "with 1 changes, for ever?" in result.output) == (1, True)
    assert alice_there.calls.get("/status")[0] == 200
    run("user", "delete", ALICE, stdin="y\n")
    assert alice_there.calls.get("/status")[0] == 401


def test_many_changes_are_deleted_some_at_a_time_and_an_interrupted_command_goes_on(
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
def test_what_was_under_way_when_the_account_was_deleted_stores_nothing(
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
    assert line.split()[2:] == ["linux", "notes", "laptop"]
    with open_stream(app.test_client(), alice_there.app, alice_there.pasted, device_id=alice_there.device) as stream:
        assert stream.next_frame() == CONNECTED
        run("devices", "delete", alice_there.device)
        assert stream.next_frame() == BYE
    assert alice_there.calls.get("/status")[0] == 401  # its session has ended
    assert run("devices", "list", ALICE) == ""
    assert "no such device" in refused(app, "devices", "delete", alice_there.device)


class TestConnected:
    @pytest.fixture
    def app(self, make_app: Callable[..., Flask]) -> Flask:
        return make_app(SYNCKIT_SWEEP_SECONDS="0.1")

    def test_it_names_the_app_the_person_and_the_devices(self, run: Run, app: Flask, alice_there: Person) -> None:
        stranger = make_token("stranger", "elsewhere")
        with (
            open_stream(app.test_client(), alice_there.app, alice_there.pasted, device_id=alice_there.device),
            open_stream(app.test_client(), alice_there.app, alice_there.pasted),
            open_stream(app.test_client(), "elsewhere", stranger, device_id="x"),
        ):
            lines = run("connected", "--wait", "0.5").splitlines()
            assert f"notes  {ALICE}  2 streams  laptop" in lines
            assert "elsewhere  stranger  1 streams  x" in lines
            assert lines[-1] == "3 streams, 1 processes answered"
            few = run("connected", "--wait", "0.5", "--limit", "1")
            assert "and 1 more" in few
            assert "stranger" not in few

    def test_nobody_is_connected(self, run: Run) -> None:
        assert run("connected", "--wait", "0").splitlines()[-1] == "0 streams, 0 processes answered"

    def test_nothing_of_it_stays(self, run: Run, app: Flask, backend: Backend) -> None:
        with open_stream(app.test_client(), "notes", make_token()) as stream:
            assert stream.next_frame() == CONNECTED
            run("connected", "--wait", "0.3")
            time.sleep(0.3)
            assert backend.store.read(lambda connection: connection.execute(select(schema.roll_calls)).all()) == []

    def test_a_question_is_answered_once_and_an_old_one_not_at_all(self, backend: Backend) -> None:
        question = backend.store.write(presence.ask)
        assert backend.store.read(presence.unanswered) == [question]
        presence.answer(backend.store, [question], [("notes", "alice", None)] * 3)
        assert backend.store.read(presence.unanswered) == []
        present = backend.store.read(lambda connection: presence.heard(connection, question))
        assert list(present.processes.values()) == [3]
        assert present.streams == {("notes", "alice", None): 3}
        old = schema.now() - presence.LIFE_MICROSECONDS - 1
        backend.store.write(lambda connection: connection.execute(schema.roll_calls.update().values(asked_at=old)))
        assert backend.store.read(presence.unanswered) == []
        backend.store.write(presence.ask)
        presence.answer(backend.store, [question], [])
        present = backend.store.read(lambda connection: presence.heard(connection, question))
        assert present.processes == {}

    def test_a_process_with_very_many_streams_counts_what_it_does_not_name(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(presence, "MAX_REPORTED", 2)
        question = backend.store.write(presence.ask)
        presence.answer(backend.store, [question], [("notes", str(user), None) for user in range(5)])
        present = backend.store.read(lambda connection: presence.heard(connection, question))
        assert (list(present.processes.values()), present.streams.total()) == ([5], 2)


@SQLITE_ONLY
def test_no_secret_is_in_the_database_in_the_clear(
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


def test_a_disabled_account_takes_a_wrong_password_no_faster(backend: Backend, credentials: dict[str, str]) -> None:
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
