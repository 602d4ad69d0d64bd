"""The program of the README runs twice with the account that the server prints, and a third time without a network."""

import shlex
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.client import RunState, SyncKitClient
from synckit_notify.client.models import to_text

from .support.backend import make_clone, start
from .support.markdown import blocks_of
from .support.programs import need
from .support.server import ROOT, Server, clean_environment
from .support.wait import until, wait_until

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)

(BLOCK,) = [block for block in blocks_of(ROOT / "README.md") if "SyncKitClient(" in block.text]

IN_THE_CLEAR = [
    {"table": "tasks", "op": "INSERT", "row_id": "1", "timestamp": to_text(AT), "data": "ciphertext"},
    {"table": "notes", "op": "INSERT", "row_id": "n1", "timestamp": to_text(AT), "data": "aXYtaXYtaXYt.bm90ZQ=="},
    {"table": "notes", "op": "DELETE", "row_id": "n1", "timestamp": to_text(AT), "data": None},
]
"""As a `curl` line and a page write."""


def use_as_the_server_printed(server: Server, folder: Path) -> tuple[str, str, str]:
    """Do what somebody does in the first minutes: the lines as printed, a page or an app that does not encrypt.

    Return the account's API key, e-mail and password.
    """
    assert until(lambda: "synckit demo" in server.log, 20.0), server.log
    push, demo = [line for line in server.log.splitlines() if "/push'" in line or "synckit demo --url" in line]
    subprocess.run(push, shell=True, check=True, timeout=60, capture_output=True)
    words = shlex.split(demo)
    module = [sys.executable, "-m", "synckit_notify.cli", *words[1:]]
    done = subprocess.run(module, cwd=folder, env=clean_environment() | {"PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 0
    api_key, email, password = (words[words.index(f"--{name}") + 1] for name in ("api-key", "email", "password"))
    with SyncKitClient(server.url, api_key=api_key, encrypt=False) as page:
        page.authenticate(email, password)
        body = {"device_id": page.register_device("page", "web").id, "changes": IN_THE_CLEAR}
        page._session.call("POST", "/api/sync/push", body, idempotent=False)
    return api_key, email, password


@contextmanager
def running(code: str, states: list[RunState]) -> Iterator[SyncKitClient]:
    """Run a program that ends with `client.run(...)` in a thread, until the block closes its client."""
    names: dict[str, Any] = {"__name__": "a document"}
    states.clear()

    def execute() -> None:
        exec(compile(code, "README.md", "exec"), names)
        names["database"].close()

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    wait_until(lambda: states)
    client: SyncKitClient = names["client"]
    try:
        yield client
    finally:
        client.close()
        thread.join(20)
    assert not thread.is_alive()
    assert states[-1] is RunState.CLOSED


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[RunState]:
    """The states of `run`, in a program that does not ask for them."""
    told: list[RunState] = []
    monkeypatch.setattr(
        SyncKitClient, "run", partialmethod(SyncKitClient.run, on_state=lambda state, reason: told.append(state))
    )
    return told


def write_a_task(title: str) -> None:
    """Write as the app, with a connection of its own."""
    with closing(sqlite3.connect("tasks.db", timeout=20)) as database, database:
        database.execute("INSERT INTO tasks VALUES (?, ?)", (str(uuid.uuid4()), title))


def test_it_runs_again_and_without_a_network_with_an_account_that_everything_else_was_tried_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, states: list[RunState]
) -> None:
    need("curl")
    clone = make_clone(tmp_path)
    with start(clone) as server:
        api_key, email, password = use_as_the_server_printed(server, tmp_path)
        code = BLOCK.text.replace("https://sync.example.org", server.url).replace('api_key="..."', f"{api_key=}")
        code = code.replace("user@example.org", email).replace('"password"', f'"{password}"')
        monkeypatch.chdir(tmp_path)
        phone = SyncKitClient(server.url, api_key=api_key)
        phone.authenticate(email, password)
        pushed = phone.status().change_count
        for title in "Buy milk", "Buy bread":  # the second time as on any other day
            with running(code, states):
                write_a_task(title)
                pushed += 1
                wait_until(lambda: phone.status().change_count == pushed)  # noqa: B023
    with running(code, states):
        write_a_task("Buy tea")
        wait_until(lambda: RunState.WAITING in states)
        with start(clone, SYNCKIT_BIND=f"127.0.0.1:{server.port}"), phone:
            wait_until(lambda: phone.status().change_count == pushed + 1)
            phone.register_device("Phone", "android")
            assert not phone.setup_encryption("a passphrase").created
            told: list[str] = []
            result = phone.pull(on_unreadable=lambda change: told.append(change.table))
            assert [change.data for change in result] == [{"title": f"Buy {what}"} for what in ("milk", "bread", "tea")]
    assert (told.count("synckit_demo"), told.count("notes"), told.count("tasks") > 0) == (5, 2, True)
    assert "changes that cannot be read were left out: " in caplog.text


def test_it_has_at_most_ten_lines() -> None:
    assert len(list(filter(None, BLOCK.text.splitlines()))) <= 10
