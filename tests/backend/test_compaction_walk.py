"""A random walk of devices over a log that `flask synckit compact` compacts at any moment, with a clock of its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from synckit_notify.backend import (
    Backend,
    accounts,
    changelog,
    compaction,
    last_seen,
    log_pages,
    pulls,
    retirement,
    winners,
)
from synckit_notify.backend.admin import compact
from synckit_notify.backend.database import schema

from ..support.backend import Caller, Run, keep_rows
from ..support.compaction_walk import START, Walk


class Notes:
    """Stores what LastSeen collects only when the walk lets it, so that it may be late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waiting: list[Callable[[], None]] = []
        monkeypatch.setattr(last_seen, "COLLECTING_SECONDS", 0.0)
        monkeypatch.setattr(last_seen, "threading", SimpleNamespace(Thread=self._thread))

    def _thread(self, target: Callable[[], None], daemon: bool) -> Any:
        return SimpleNamespace(start=lambda: self._waiting.append(target))

    def store(self) -> None:
        while self._waiting:
            self._waiting.pop()()


@pytest.mark.parametrize("seed", range(4))
def test_every_device_ends_with_the_rows_of_a_log_that_forgets_nothing(
    alice: Caller, backend: Backend, run: Run, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    keep_rows(backend)
    for module, name, value in (
        (compaction, "PAUSE_SECONDS", 0.0),
        (compaction, "EXAMINED_AT_ONCE", 7),
        (compaction, "DROPPED_AT_ONCE", 2),
        (compaction, "MAX_LATE", 5),
        (winners, "MAX_AT_ONCE", 7),
        (log_pages, "MAX_EXAMINED", 5),
    ):
        monkeypatch.setattr(module, name, value)
    notes = Notes(monkeypatch)
    moment = schema.from_datetime(START)

    def advance(seconds: float) -> None:
        nonlocal moment
        moment += int(seconds * 1_000_000)
        if walk is None or walk.chance.random() < 0.3:
            notes.store()

    for user in (accounts, changelog, compact, last_seen, pulls, retirement):
        monkeypatch.setattr(user, "now", lambda: moment)
    walk = None
    walk = Walk(seed, alice.post, advance, lambda days: run("compact", "notes", "--keep-days", str(days)))
    walk.run(moves=120)
    assert min(walk.counted.values()) > 0
    rows = backend.store.read(lambda connection: connection.execute(schema.changes.select()).all())
    assert len(rows) < len(walk.model)
