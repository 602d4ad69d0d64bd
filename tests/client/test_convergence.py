"""Pushes, pulls, faults and crashes in any order: all devices end with the rows of the server's log.

The devices are real clients with state files, the server is the real backend, batches and pages are small. Between them
is a line that loses requests and answers, and lets a process die before a request, after its answer, and in the middle
of an apply. An app is a set of rows in which the later change wins; that, and not the order of arrival, is what makes
its rows those of the log.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from synckit_notify.backend import Backend, changelog, create_app, log_heads, log_pages
from synckit_notify.client import serialization
from synckit_notify.client.client import SyncKitClient
from synckit_notify.client.errors import NetworkError, ServerError
from synckit_notify.client.models import Account, ChangeEntry, PulledChange
from synckit_notify.client.state import Tokens

from ..support.tokens import KEY, make_token

ROWS, DEVICES = "abcdefgh", ("laptop", "phone", "tablet")
START = datetime(2026, 1, 31, 12, tzinfo=UTC)

Row = tuple[datetime, str, Any]
"""When it was changed, how, and what it holds; a deleted row is kept, so that an older change does not revive it."""

Rows = dict[str, Row]


class Crash(BaseException):
    """Simulates that the process dies here."""


class BadLine(httpx2.BaseTransport):
    """Passes requests to the backend, except for the scheduled faults."""

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport
        self.faults: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "lose the request":
            raise httpx2.ConnectError("lost")
        if fault == "die before":
            raise Crash
        if fault == "answer 503":
            return httpx2.Response(503, json={"error": "busy"})
        response = self._transport.handle_request(request)
        response.read()
        if fault == "lose the answer":
            raise httpx2.ReadTimeout("lost")
        if fault == "die after":
            raise Crash
        return response


def apply(rows: Rows, change: ChangeEntry | PulledChange) -> None:
    """Let the later change win."""
    if change.row_id not in rows or change.timestamp > rows[change.row_id][0]:
        rows[change.row_id] = (change.timestamp, change.op, change.data)


class App:
    """One device: its rows and its outbox, which an app keeps on its disk, and a client that may die at any moment."""

    def __init__(self, name: str, folder: Path, account: Account, transport: httpx2.BaseTransport) -> None:
        self.rows: Rows = {}
        self.outbox: list[ChangeEntry] = []
        self.handing_over: list[ChangeEntry] = []
        self.line = BadLine(transport)
        self._name, self._file, self._account = name, folder / f"{name}.state", account
        self.start()
        self.client._state.log_in(account, Tokens(make_token(account.user_id, account.app_id), None, None, 0.0))
        self.client.register_device(name, "linux")

    def start(self) -> None:
        http = httpx2.Client(transport=self.line)
        self.client = SyncKitClient(
            "http://server", api_key="key", state=self._file, encrypt=False, http=http, wait=lambda seconds: None
        )

    def write(self, change: ChangeEntry) -> None:
        apply(self.rows, change)
        self.outbox.append(change)

    def push(self) -> None:
        """Push like an app: repeat the same entries until they are known to be sent, then push new ones."""
        while self.handing_over or self.outbox:
            if not self.handing_over:
                self.handing_over, self.outbox = self.outbox, []
            self.client.push(self.handing_over)
            self.handing_over = []

    def pull(self, how: str, die_after: int | None) -> None:
        if how == "apply":
            self.client.pull(apply=lambda page: self._take(page, die_after))
            return
        result = self.client.pull()
        self._take(result, die_after)
        if how == "confirm":
            result.confirm()

    def _take(self, changes: Any, die_after: int | None) -> None:
        for number, change in enumerate(changes):
            if number == die_after:
                raise Crash
            apply(self.rows, change)

    def survive(self, work: Any, faults: list[str]) -> None:
        """Work on a bad connection; a process that dies is started again."""
        self.line.faults = list(faults)
        try:
            work()
        except (NetworkError, ServerError):
            event("an error came through")
        except Crash:
            event("a process died")
            self.client.close()
            self.start()
        finally:
            self.line.faults = []


FAULTS = ["none", "lose the request", "lose the answer", "answer 503", "die before", "die after"]
faults = st.just([]) | st.lists(st.sampled_from(FAULTS), max_size=5)
device = st.sampled_from(DEVICES)
writes = st.tuples(st.just("write"), device, st.sampled_from(ROWS), st.sampled_from(["INSERT", "UPDATE", "DELETE"]))
pushes = st.tuples(st.just("push"), device, faults)
pulls = st.tuples(
    st.just("pull"),
    device,
    st.sampled_from(["apply", "confirm", "forget"]),
    st.none() | st.integers(0, 3),
    faults,
)
strangers = st.tuples(st.just("stranger"), device)  # what no device of the app can read
restores = st.tuples(st.just("restore"), device)  # seldom: reading all again mends what was lost before
syncing = st.lists(st.one_of(writes, writes, pushes, pulls, strangers), min_size=5, max_size=30)
stories = syncing | st.builds(lambda one, restore, two: [*one, restore, *two], syncing, restores, syncing)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("backend")
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "development"}, instance_path=folder)
    found: Backend = app.extensions["synckit_backend"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serialization, "MAX_CHANGES", 2)
        patch.setattr(changelog, "MAX_CHANGES", 3)
        yield {"backend": found, "transport": httpx2.WSGITransport(app), "users": iter(range(10**6))}
    found.store.dispose()


def log_of(backend: Backend, account: Account) -> list[Any]:
    """Return the server's log without unreadable changes."""
    owner, query = (account.app_id, account.user_id), log_pages.Query(cursor=0)
    page = backend.store.read(lambda c: log_pages.read_page(c, *owner, log_heads.read(c, *owner).seq, 0, query))
    rows, _, has_more = page
    assert not has_more
    return [row for row in rows if row.row_id != "unreadable"]


def push_as_a_stranger(backend: Backend, one: "App") -> None:
    """Store a change in another form than the app's, as a `curl` line or a forger does."""
    change = changelog.Change("tasks", "INSERT", "unreadable", "2026-01-31T12:00:00Z", "ciphertext")
    account, device = one.client._session.account(), one.client._state.device_id()
    backend.store.write(lambda c: changelog.push(c, account.app_id, account.user_id, device, [change], None))


def rows_of(log: list[Any]) -> dict[str, tuple[str, str]]:
    """Return the rows that result from the log."""
    latest: dict[str, Any] = {}
    for row in log:
        if row.row_id not in latest or row.timestamp > latest[row.row_id].timestamp:
            latest[row.row_id] = row
    return {row_id: (row.op, row.timestamp) for row_id, row in latest.items()}


def tell(app: dict[str, App], story: list[Any], backend: Backend) -> None:
    for minute, (what, name, *how) in enumerate(story):
        one = app[name]
        match what:
            case "write":
                row, op = how
                data = None if op == "DELETE" else {"minute": minute}
                one.write(ChangeEntry("tasks", op, row, START + timedelta(minutes=minute), data))
            case "stranger":
                push_as_a_stranger(backend, one)
            case "restore":
                backend.store.write(changelog.renew_epoch)
            case "push":
                one.survive(one.push, how[0])
            case "pull":
                one.survive(lambda one=one, how=how: one.pull(how[0], how[1]), how[2])  # type: ignore[misc]


@pytest.mark.thorough
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=stories)
def test_all_devices_end_with_the_rows_of_the_log(backend: Mapping[str, Any], story: list[Any]) -> None:
    account = Account(f"user {next(backend['users'])}", "notes")
    folder = Path(tempfile.mkdtemp())
    app = {name: App(name, folder, account, backend["transport"]) for name in DEVICES}
    try:
        tell(app, story, backend["backend"])
        for one in app.values():
            one.push()
        for one in app.values():
            one.pull("apply", None)
        written = sum(what == "write" for what, *_ in story)
        log = log_of(backend["backend"], account)
        rows = rows_of(log)
        for one in app.values():
            held = {row: (op, at.isoformat(timespec="microseconds")) for row, (at, op, _) in one.rows.items()}
            assert held == {row: (op, at.replace("Z", "+00:00")) for row, (op, at) in rows.items()}
            assert one.client.pending_changes == 0
        assert len(log) == len({row.timestamp for row in log}) == written, "every write is in the log, once"
    finally:
        for one in app.values():
            one.client.close()
        shutil.rmtree(folder)
