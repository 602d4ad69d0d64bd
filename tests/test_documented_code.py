"""The Python of the documents runs and does what they say, and their console output is the real one.

The blocks of a document are one program, run from top to bottom in a folder of its own. A real gunicorn with the
reference backend stands in the place of https://sync.example.org; each program has an app of its own there.
"""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import keyring
import pytest
from click.testing import CliRunner
from gunicorn.config import Config
from keyring.backends import fail

from synckit_notify import cli as client_command
from synckit_notify.client import (
    ChangeEntry,
    InvalidEnvelope,
    NotAuthenticated,
    PulledChange,
    SyncKitClient,
    SyncNotification,
    SyncNotifyStream,
)
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from .support import doc_commands
from .support.keychains import FileKeychain
from .support.markdown import DOCUMENTS, Block, blocks, blocks_of, name_of
from .support.service import Service
from .support.tokens import make_token
from .support.wait import wait_until

EMAIL, PASSWORD = "user@example.org", "password"
"""As the documents have them."""

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)

Names = dict[str, Any]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"))
    started.printed("user", "add", EMAIL, "--password", PASSWORD)
    yield started
    started.close()


class Account:
    """An app of its own for the user of the documents, and what the blocks of a program ask for."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.url = service, service.server.url
        said = service.printed("app", "add", name)
        self.app_id, self.api_key = re.findall(r"\b[0-9a-f-]{36,}\b", said)
        self.stages: dict[str, Callable[[Names], None]] = {
            "": lambda names: None,
            "gunicorn.conf.py": lambda names: None,
            "run with: a person at the browser": lambda names: names.update(print=self.log_in_in_the_browser),
            "run with: another device's change": self.push_from_another_device,
            "run with: a thread that closes the client": self.close_soon,
            "run with: a lost device": self.lose_a_device,
            "run with: a keychain": self.use_a_keychain,
            "run with: an app with a log-in of its own": self.log_in_without_the_sdk,
        }

    def settle(self, text: str) -> str:
        """Put this server and this app into the place of those of the documents."""
        return text.replace("https://sync.example.org", self.url).replace('api_key="..."', f'api_key="{self.api_key}"')

    def another_device(self, passphrase: str) -> SyncKitClient:
        client = SyncKitClient(self.url, api_key=self.api_key)
        with ExitStack() as on_error:
            on_error.callback(client.close)
            client.authenticate(EMAIL, PASSWORD)
            client.register_device("Phone", "android")
            client.setup_encryption(passphrase)
            on_error.pop_all()
        return client

    def push_from_another_device(self, names: Names) -> None:
        with self.another_device("a third passphrase") as phone:
            phone.push([ChangeEntry("tasks", "INSERT", "of the phone", AT, "hello")])

    def lose_a_device(self, names: Names) -> None:
        with SyncKitClient(self.url, api_key=self.api_key) as tablet:
            tablet.authenticate(EMAIL, PASSWORD)
            names["lost"] = tablet.register_device("Tablet", "android")

    def log_in_without_the_sdk(self, names: Names) -> None:
        session = SimpleNamespace(app_id=self.app_id, access_token="expired", fetched=0)
        session.renew = lambda: setattr(session, "access_token", self.token())
        session.fetch_what_is_new = lambda: setattr(session, "fetched", session.fetched + 1)
        names["session"] = session

    def use_a_keychain(self, names: Names) -> None:
        keyring.set_keyring(FileKeychain(self.service.folder / "keychain"))

    def close_soon(self, names: Names) -> None:
        """Close the client when it has pulled; a new one takes the place of a closed one, with the same state file."""
        if "client" in names and names["client"]._closed:
            names["client"] = SyncKitClient(self.url, api_key=self.api_key, state="tasks.state")
            names["client"].setup_encryption("a passphrase")

        def close() -> None:
            wait_until(lambda: "client" in names and names["client"].last_sync_time is not None)
            names["client"].close()

        threading.Thread(target=close, daemon=True).start()

    def log_in_in_the_browser(self, address: str) -> None:
        """Do what a person does who is shown the address of the log-in."""
        with httpx2.Client() as browser:
            for form in ({"action": "log_in", "email": EMAIL, "password": PASSWORD}, {"action": "allow"}):
                secret = re.search(r'name="secret" value="([^"]*)"', browser.get(address).text)
                assert secret is not None
                answer = browser.post(address, data=form | {"secret": unescape(secret[1])})
            assert answer.status_code == 302
            assert "Done" in browser.get(answer.headers["Location"]).text

    def token(self) -> str:
        return self.service.printed("token", "--app", self.app_id, "--user", EMAIL)


@pytest.fixture
def streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program's `for` over a stream come to an end: after its first CHANGED."""
    following, heard = SyncNotifyStream.__next__, set()

    def once(stream: SyncNotifyStream) -> SyncNotification:
        if stream in heard:
            stream.close()
        notification = following(stream)
        heard.update([stream] if notification is SyncNotification.CHANGED else [])
        return notification

    monkeypatch.setattr(SyncNotifyStream, "__next__", once)


def run(block: Block, account: Account, names: Names) -> None:
    """Run one block; a traceback names its line in the document."""
    account.stages[block.note](names)
    code = "\n" * (block.line - 1) + account.settle(block.text)
    exec(compile(code, str(block.document), "exec"), names)
    names.pop("print", None)
    if block.note == "gunicorn.conf.py":
        accept_as_configuration(names)
    for name in [name for name in names if name.startswith("test_")]:
        names.pop(name)()


def accept_as_configuration(names: Names) -> None:
    """Let gunicorn check its settings and the signatures of its hooks."""
    config = Config()
    known = [name for name in names if name in config.settings]
    assert known
    for name in known:
        config.set(name, names[name])


def push_is_heard(names: Names, account: Account) -> None:
    """A mounted backend: the other device hears of a push, and who has no token may not push."""
    key, client = names["app"].config["SYNCKIT_JWT_KEY"], names["app"].test_client()
    bearer = {"Authorization": f"Bearer {make_token(key=key)}"}
    with open_stream(client, "notes", make_token(key=key), device_id="phone") as stream:
        assert stream.next_frame() == CONNECTED
        assert client.post("/api/sync/push", json={"device_id": "laptop"}, headers=bearer).status_code == 200
        assert stream.next_frame() == CHANGED
    assert client.post("/api/sync/push", json={"device_id": "laptop"}).status_code == 401


def front_door(names: Names, account: Account) -> None:
    push_is_heard(names, account)
    with account.another_device("a passphrase") as phone:
        assert {device.name for device in phone.devices()} == {"Laptop", "Phone"}


def mounted(names: Names, account: Account) -> None:
    """The hooks of the program: revocation, the sweep, readiness, a token check of its own."""
    push_is_heard(names, account)
    app, token = names["app"], make_token(key=names["app"].config["SYNCKIT_JWT_KEY"])
    client = app.test_client()
    assert client.get("/api/sync/ready").json["host"] is True
    with open_stream(client, "notes", token) as stream:
        assert stream.next_frame() == CONNECTED
        names["nightly"]()
        assert stream.next_frame() == CHANGED
        headers = {"Authorization": f"Bearer {token}"}
        with app.test_request_context(method="POST", json={"device_id": "laptop"}, headers=headers):
            assert names["push_with_times"]() == {"stored": True}
        assert stream.next_frame() == CHANGED
        assert [row[:2] for row in names["changed_channels"](AT)] == [("notes", "alice")]
        names["log_out_everywhere"]("notes", "alice")
        assert stream.next_frame() == b": bye revoked\n\n"
    with pytest.raises(ConnectionRefusedError, match="the token was revoked"):
        open_stream(client, "notes", token)
    own = {"X-Session": "a secret of a session"}
    with open_stream(names["other"].test_client(), "notes", "", headers=own) as stream:
        assert stream.next_frame() == CONNECTED
    names["database"].close()
    assert names["session"].fetched == 1


def used(names: Names, account: Account) -> None:
    """The program of the SDK: both ways between two devices."""
    (row,) = names["rows"].values()
    for later, data in ((-1, "older"), (1, "newer")):
        names["store"]([replace(row, timestamp=row.timestamp + timedelta(seconds=later), data=data)])
    assert (row.data, [change.data for change in names["rows"].values()]) == ("hello", ["newer"])
    theirs = pulled(account, "a third passphrase")
    assert [(change.op, change.row_id) for change in theirs] == [("INSERT", "task-1"), ("DELETE", "task-0")]
    assert (names["status"].change_count, names["recent"].restarted) == (3, False)


def locked_out(names: Names, account: Account) -> None:
    """The recipe for a lost device."""
    with (
        SyncKitClient(account.url, api_key=account.api_key) as laptop,
        SyncKitClient(account.url, api_key=account.api_key) as lost,
    ):
        for device in laptop, lost:
            device.authenticate(EMAIL, PASSWORD)
            device.register_device("Laptop" if device is laptop else "Lost", "linux")
            device.setup_encryption("first")
        lost_id = next(each.id for each in laptop.devices() if each.name == "Lost")
        names["lock_out"](laptop, lost_id, PASSWORD, "another password", "first", "second")
        try:
            laptop.push([ChangeEntry("tasks", "INSERT", "task-1", AT, "new")])
            for call in lost.pull, lambda: lost.authenticate(EMAIL, PASSWORD):
                with pytest.raises(NotAuthenticated):
                    call()
        finally:
            laptop.change_password("another password", PASSWORD)
        with pytest.raises(InvalidEnvelope):
            account.another_device("first")
        assert [change.data for change in pulled(account, "second")] == ["new"]


def pulled(account: Account, passphrase: str) -> list[PulledChange]:
    with account.another_device(passphrase) as phone:
        return [change for change in phone.pull() if change.row_id != "of the phone"]


OUTCOMES = {
    "README.md": front_door,
    "docs/mounting.md": mounted,
    "docs/sdk.md": used,
    "docs/security.md": locked_out,
}
PROGRAMS = [document for document in DOCUMENTS if any(block.language == "python" for block in blocks_of(document))]


@pytest.mark.parametrize("document", PROGRAMS, ids=name_of)
@pytest.mark.usefixtures("streams_end", "quick_passphrases")
def test_the_python_of_a_document_runs(
    document: Path, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    account, names = Account(service, name_of(document)), {"__name__": "a document"}
    try:
        for block in blocks_of(document):
            if block.language == "python":
                run(block, account, names)
        OUTCOMES.get(name_of(document), lambda names, account: None)(names, account)
    finally:
        for opened in [value for value in names.values() if isinstance(value, SyncKitClient | sqlite3.Connection)]:
            opened.close()
        keyring.set_keyring(fail.Keyring())


GAP, FIGURE = "…", r"(?:under )?\d[\d.]*(?:, \d[\d.]*)*(?:, …)?(?: ms\b| s\b)?"


def pattern_of(line: str) -> str:
    """Return what a line of a sample stands for: figures and gaps may be others, and wider or narrower."""
    parts = re.split(rf"({FIGURE}|{GAP}| +)", line)
    kinds = {" ": " +", GAP: ".*"}
    return "".join(kinds.get(part[:1], FIGURE if re.fullmatch(FIGURE, part) else re.escape(part)) for part in parts)


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_a_console_shows_what_the_document_shows(
    block: Block, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(service, str(block))
    asked, *shown = block.text.splitlines()
    (words,) = doc_commands.commands(asked.removeprefix("$ "))
    known = {"--api-key": account.api_key, "--email": EMAIL, "--password": PASSWORD, "--app": account.app_id}
    words = [known.get(before, word) for before, word in pairwise(words)]
    settings = {"URL": account.url, "API_KEY": account.api_key, "EMAIL": EMAIL, "PASSWORD": PASSWORD}
    for name, value in (settings | {"TOKEN": account.token()}).items():
        monkeypatch.setenv(f"SYNCKIT_{name}", value)
    words = [account.url if word == "http://127.0.0.1:8000" else word for word in words]
    printed = CliRunner().invoke(client_command.main, words).output.rstrip()
    assert re.fullmatch("\n".join(map(pattern_of, shown)), printed, re.DOTALL), printed
