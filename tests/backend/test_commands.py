"""`flask --app wsgi synckit ...`"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from flask import Flask

from synckit_notify.backend import Backend, changelog
from synckit_notify.backend.database import schema
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from ..support.backend import SQLITE_ONLY, Caller, Run, Send, change, last_word, refused
from ..support.server import ROOT, clean_environment
from ..support.tokens import KEY, make_token


def test_from_nothing_to_a_log_in(run: Run, send: Send) -> None:
    api_key = last_word(run("app", "add", "notes"))
    user = last_word(run("user", "add", "a@example.org", "--password", "secret"))
    credentials = {"email": "a@example.org", "password": "secret", "api_key": api_key}
    status, answer = send("POST", "/auth", credentials, {})
    assert (status, answer["user_id"]) == (200, user)


def test_a_password_is_asked_for_twice(run: Run, app: Flask) -> None:
    assert "Repeat" in run("user", "add", "a@example.org", stdin="secret\nsecret\n")
    assert "an account a@example.org already" in refused(app, "user", "add", "A@example.org", "--password", "secret")


@pytest.mark.parametrize("words", [["app", "add", ""], ["app", "add", "\udc80"], ["user", "add", " ", "--password=x"]])
def test_invalid_names_are_refused(app: Flask, words: list[str]) -> None:
    assert refused(app, *words).startswith("Error: ")


def test_an_app_has_a_log_mode_that_can_be_changed(run: Run, app: Flask) -> None:
    def modes() -> list[str]:
        return [line.split("  ")[3] for line in run("app", "list").splitlines()]

    run("app", "add", "a")
    run("app", "add", "b", "--log", "rows")
    run("app", "add", "c", "--log", "history")
    assert modes() == ["history", "rows", "history"]
    assert last_word(run("app", "set", "a", "--log", "rows")) == "rows"
    assert last_word(run("app", "set", "b", "--log", "history")) == "history"
    assert modes() == ["rows", "history", "history"]
    assert "there is no such app: d" in refused(app, "app", "set", "d", "--log", "rows")
    for words in (["set", "a"], ["set", "a", "--log", "columns"], ["add", "d", "--log", ""]):
        assert app.test_cli_runner().invoke(args=["synckit", "app", *words]).exit_code == 2


def test_a_token_needs_no_stored_app_or_user(run: Run, send: Send) -> None:
    lines = run("token", "--app", "notes", "--user", "alice", "--device", "d1").splitlines()
    claims = jwt.decode(lines[-1], KEY, ["HS256"])
    assert (claims["app"], claims["sub"], claims["device"]) == ("notes", "alice", "d1")
    assert claims["exp"] - claims["iat"] == 7 * 24 * 3600  # nothing renews what a person has pasted
    assert Caller(send, lines[-1]).get("/status")[0] == 200


@pytest.mark.parametrize("words", [["--expires-in", "-5"], ["--expires-in=-5"]])
def test_a_token_may_have_expired_already(run: Run, send: Send, words: list[str]) -> None:
    token = last_word(run("token", "--app", "notes", "--user", "alice", *words))
    assert Caller(send, token).get("/status")[0] == 401


def test_an_app_is_named_by_id_or_name_and_a_user_by_id_or_email(run: Run, app: Flask) -> None:
    app_id = run("app", "add", "My notes").split(" the id ")[1].split()[0]
    user_id = last_word(run("user", "add", "a@example.org", "--password", "secret"))
    for app_words in (app_id, "My notes"):
        for user_words in (user_id, "A@example.org"):
            token = last_word(run("token", "--app", app_words, "--user", user_words))
            claims = jwt.decode(token, KEY, ["HS256"])
            assert (claims["app"], claims["sub"]) == (app_id, user_id)
    run("app", "add", "My notes")
    assert "2 apps have the name My notes: use the id" in refused(app, "token", "--app", "My notes", "--user", "x")


def test_a_log_out_refuses_old_tokens_and_ends_the_streams(run: Run, app: Flask, send: Send) -> None:
    user = last_word(run("user", "add", "a@example.org", "--password", "secret"))
    old = Caller(send, last_word(run("token", "--app", "notes", "--user", user)))
    old.register()
    with open_stream(app.test_client(), "notes", make_token(user)) as stream:
        assert stream.next_frame() == CONNECTED
        run("user", "logout", "a@example.org")
        assert stream.next_frame() == b": bye revoked\n\n"
    assert old.get("/status")[0] == 401
    new = Caller(send, last_word(run("token", "--app", "notes", "--user", "a@example.org")))
    assert new.get("/status")[0] == 200
    assert "no such account" in refused(app, "user", "logout", "b@example.org")


@SQLITE_ONLY
@pytest.mark.parametrize(
    "address",
    [
        "http://notes.example.org/",
        "http://127.0.0.1/",
        "https://",
        "https://notes.example.org/#part",
        "https://user@notes.example.org/",
        "https://notes.example.org\\@evil.example/",
        "https://nötes.example.org/",
        "javascript:alert(1)",
        "data:text/html,x",
        "notes:/done",
        "file:///etc/passwd",
        "com.example.notes:/done#part",
        "https://notes.example.org/" + "x" * 2048,
        "",
    ],
)
def test_an_unsafe_redirect_address_is_refused(run: Run, app: Flask, address: str) -> None:
    run("app", "add", "notes")
    assert "Error: the address must be https://" in refused(app, "app", "redirect", "notes", address)


def test_redirect_addresses_are_added_and_removed(run: Run, app: Flask) -> None:
    run("app", "add", "notes")
    for words in (["notes", "https://notes.example.org/done"], ["notes", "com.example.notes:/done?a=b"]):
        assert "may now redirect to" in run("app", "redirect", *words)
        assert "no longer redirect to" in run("app", "redirect", *words, "--remove")
        assert "no such address" in refused(app, "app", "redirect", *words, "--remove")
    assert "no such app" in refused(app, "app", "redirect", "mail", "https://mail.example.org/")


def test_publish_tells_streams_here_and_marks_the_channel(run: Run, app: Flask, backend: Backend) -> None:
    started = datetime.now(UTC)
    with open_stream(app.test_client(), "notes", make_token()) as stream:
        assert stream.next_frame() == CONNECTED
        assert "next sweep" in run("publish", "notes", "alice")
        assert stream.next_frame() == CHANGED
        run("publish", "notes", "alice", "--device", "d1")
        assert stream.next_frame() == CHANGED
    ((app_id, user, _),) = backend.store.read(lambda connection: changelog.changed_channels(connection, started))
    assert (app_id, user) == ("notes", "alice")


def test_after_a_restore_clients_start_again(run: Run, alice: Caller) -> None:
    laptop = alice.register()
    stale = alice.pull(laptop)["epoch"]
    fresh = last_word(run("restored"))
    assert alice.post("/pull", {"device_id": laptop, "cursor": 0, "epoch": stale})[0] == 409
    assert alice.pull(laptop)["epoch"] == fresh


def test_from_the_shell_in_a_fresh_clone(clone: Path) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "synckit", "app", "add", "notes"]
    env = clean_environment() | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert printed.stderr == ""
    assert len(last_word(printed.stdout)) == 64
    assert sorted(path.name for path in (clone / "instance").iterdir()) == ["jwt.key", "synckit.db"]


class TestAChangeThatDevicesCannotProcess:
    @pytest.fixture
    def laptop(self, alice: Caller, backend: Backend) -> str:
        """A device with three changes; the second has a time that servers of an older release have accepted."""
        laptop = alice.register()
        alice.push(laptop, change("1"), change("2", op="DELETE", data=None), change("3"))
        second = schema.changes.update().where(schema.changes.c.seq == 2).values(timestamp="9999-12-31T23:59:60Z")
        backend.store.write(lambda connection: connection.execute(second) and None)
        return laptop

    def test_is_blanked_in_its_place_and_devices_are_notified(
        self, run: Run, app: Flask, alice: Caller, laptop: str
    ) -> None:
        before = alice.pull(laptop)["changes"]
        with open_stream(app.test_client(), "notes", make_token("alice")) as stream:
            assert stream.next_frame() == CONNECTED
            printed = run("changes", "delete", "notes", "alice", "2", "--yes")
            assert stream.next_frame() == CHANGED
        assert f"DELETE tasks/2  {before[1]['received_at']}  device {laptop}" in printed
        assert last_word(printed) == "2"
        page = alice.pull(laptop)
        blank = {"op": "UPDATE", "data": None, "timestamp": before[1]["received_at"]}
        blank["order_at"] = "0001-01-01T00:00:00.000000Z"  # so that it wins over no other version of its row
        assert page["changes"] == [before[0], before[1] | blank, before[2]]
        assert (page["cursor"], alice.push(laptop)) == (3, 4)

    def test_becomes_a_change_that_no_device_can_push(self, run: Run, alice: Caller, laptop: str) -> None:
        """So readers know it from any change, and pass it by."""
        run("changes", "delete", "notes", "alice", "2", "--yes")
        pushed = alice.pull(laptop)["changes"][1]
        assert alice.post("/push", {"device_id": laptop, "changes": [pushed]})[0] == 422

    def test_needs_confirmation_and_must_exist(self, run: Run, app: Flask, alice: Caller, laptop: str) -> None:
        before = alice.pull(laptop)["changes"]
        words = ["synckit", "changes", "delete", "notes", "alice", "2"]
        assert app.test_cli_runner().invoke(args=words, input="n\n").exit_code == 1
        assert alice.pull(laptop)["changes"] == before
        assert "no change 4 of this user" in refused(app, "changes", "delete", "notes", "alice", "4", "--yes")
        assert "no change 1 of this user" in refused(app, "changes", "delete", "mail", "alice", "1", "--yes")
        run("changes", "delete", "notes", "alice", "2", stdin="y\n")
        assert alice.pull(laptop)["changes"] != before
