"""A client made before a fork works in both processes, or raises what to do (preloaded workers, Celery)."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from ..support.server import ROOT, clean_environment, gunicorn
from ..support.service import EMAIL, PASSWORD, Service


def run(case: str, service: Service, folder: Path) -> list[str]:
    """Run one of the programs in `forking`; return the lines that it printed, sorted."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.forking"]
    command += [case, service.server.url, service.api_key, str(folder / "tasks.state")]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return sorted(done.stdout.splitlines())


def test_forked_processes_never_get_each_others_answers(service: Service, tmp_path: Path) -> None:
    assert run("together", service, tmp_path) == ["child ended with 0"] * 2 + ["wrong: {}"] * 3


@pytest.mark.thorough
def test_forked_processes_renew_tokens_without_ending_each_others_session(service: Service, tmp_path: Path) -> None:
    assert run("renewals", service, tmp_path) == ["child ended with 0", "child: right", *["parent: right"] * 4]


@pytest.mark.parametrize(
    ("case", "advice"),
    [("in_memory", "state=<file>"), pytest.param("given_http", "leave http out", marks=pytest.mark.thorough)],
)
def test_a_client_that_cannot_be_shared_after_a_fork_tells_what_to_do(
    service: Service, tmp_path: Path, case: str, advice: str
) -> None:
    *ended, told, parent = run(case, service, tmp_path)
    assert set(ended) == {"child ended with 0"}
    assert told.startswith("child: StateError: this client was made before the process was forked")
    assert advice in told
    assert "make a client in each process" in told
    assert parent == "parent: right"


def test_locks_that_other_threads_hold_at_the_fork_do_not_reach_the_child(service: Service, tmp_path: Path) -> None:
    assert run("busy_threads", service, tmp_path) == ["child ended with 0"] * 2 + ["child: right"] * 2


@pytest.mark.thorough
def test_a_stream_belongs_to_the_process_that_made_it(service: Service, tmp_path: Path) -> None:
    lines = run("stream", service, tmp_path)
    assert lines[0] == "SyncNotification.CHANGED"
    assert lines[1:5] == ["child ended with 0"] * 4
    assert lines[5].startswith("child: StateError: this stream was made before the process was forked")
    assert "make a stream in this process" in lines[5]
    assert lines[6:] == ["child: right", "parent: connected"]


HOST = f"""
import os
from datetime import UTC, datetime
from flask import Flask
from synckit_notify.client import ChangeEntry, SyncKitClient

client = SyncKitClient(os.environ["URL"], api_key=os.environ["API_KEY"], state=os.environ["STATE"], encrypt=False)
client.authenticate({EMAIL!r}, {PASSWORD!r})
client.register_device("backend", "linux")
app = Flask(__name__)

@app.post("/note/<row>")
def note(row):
    return str(client.push([ChangeEntry("notes", "INSERT", row, datetime.now(UTC), "x" * 20_000)]))
"""


@pytest.mark.thorough
def test_a_preloaded_client_works_in_every_gevent_worker(service: Service, tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(HOST)
    env = {"URL": service.server.url, "API_KEY": service.api_key, "STATE": str(tmp_path / "tasks.state")}
    env["PYTHONPATH"] = f"{ROOT}:{tmp_path}"
    with gunicorn("preloaded:app", tmp_path / "server", "--preload", workers=2, env=env) as server:
        with ThreadPoolExecutor(12) as pool:
            posts = [pool.submit(httpx2.post, f"{server.url}/note/{n}", timeout=60) for n in range(24)]
            answers = [post.result() for post in posts]
        assert [answer.status_code for answer in answers] == [200] * 24, server.log
    assert {change.row_id for change in service.client(name="phone").pull()} >= {str(n) for n in range(24)}
