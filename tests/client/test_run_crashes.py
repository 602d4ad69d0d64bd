"""A process that runs a store is killed at any point: nothing is stored twice, and nothing is lost."""

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from synckit_notify.client import ChangeEntry, PullFilter

from ..support.crashing_run import AFTER, BEFORE
from ..support.dict_store import DictStore
from ..support.server import ROOT, clean_environment
from ..support.service import Service


def run_once(service: Service, folder: Path, point: str) -> int:
    command = [sys.executable, "-m", "tests.support.crashing_run", service.server.url, service.api_key, str(folder)]
    return subprocess.run([*command, point], cwd=ROOT, env=clean_environment(), timeout=60, check=False).returncode


@pytest.mark.parametrize("point", [*BEFORE, *(pytest.param(point, marks=pytest.mark.thorough) for point in AFTER)])
def test_a_killed_process_stores_nothing_twice_and_loses_nothing(service: Service, tmp_path: Path, point: str) -> None:
    reader = service.client(name=f"reader, {point}")
    start = reader.pull_filtered(PullFilter()).position
    service.client(name=f"other, {point}").push([ChangeEntry("tasks", "INSERT", "remote", datetime.now(UTC), point)])
    service.client(name=f"laptop, {point}", state=tmp_path / "state").close()
    store = DictStore(tmp_path / "rows")
    for row in "ab":
        store.edit("tasks", row, point)
    assert run_once(service, tmp_path, point) == -signal.SIGKILL
    edited = DictStore(tmp_path / "rows")
    edited.edit("tasks", "a", f"{point}, and again")
    assert run_once(service, tmp_path, "") == 0
    store = DictStore(tmp_path / "rows")
    assert not store.pending(9)
    log = [(each.row_id, each.data) for each in reader.pull_filtered(PullFilter().after(start))]
    assert len(log) == len(set(log)), "each change is in the log once"
    assert store.rows() == {("tasks", row): data for row, data in dict(log).items()}
    assert dict(log) == {"remote": point, "a": f"{point}, and again", "b": point}
