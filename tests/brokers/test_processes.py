"""The brokers in real processes: forked, short-lived, and on gevent."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from synckit_notify.brokers import Notice

from ..support.broker_servers import RemoteServer, Server
from ..support.brokers import MakeProcess
from ..support.server import ROOT, clean_environment
from ..support.wait import until

pytestmark = pytest.mark.thorough

HUB_CEILING_MS = 250
"""Five times the promise, since these tests share the machine; a hub that waited would stand for 700 at least."""


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", f"tests.support.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["plain", "gevent", "listening"])
def test_a_program_that_publishes_and_ends_at_once_loses_nothing(
    kind: str, server: Server, process: MakeProcess
) -> None:
    other = process(server.url)
    ended = run("publishing", server.url, kind)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert until(lambda: other.heard.messages == [Notice("notes", str(number)) for number in range(50)])


def test_a_program_that_publishes_ends_soon_even_if_the_broker_hangs(remote_server: RemoteServer) -> None:
    """Within two seconds and what the interpreter takes to start and end, on a busy machine."""
    url = remote_server.url
    remote_server.pause()
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        for ended in pool.map(lambda kind: run("publishing", url, kind), ["plain", "gevent", "listening"]):
            assert (ended.returncode, ended.stderr) == (0, "")
    assert 2.0 < time.monotonic() - started < 30.0


def test_a_forked_child_sends_over_a_connection_of_its_own(server: Server, process: MakeProcess) -> None:
    other = process(server.url)
    ended = run("publishing", server.url, "forked")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert until(lambda: len(other.heard.messages) >= 50)
    assert sorted(int(message.user) for message in other.heard.messages) == list(range(50))


def test_a_broker_that_hangs_does_not_stop_the_hub(remote_server: RemoteServer) -> None:
    """The smallest of some runs: whatever else the machine does may delay one of them."""
    gaps: list[float] = []
    while len(gaps) < 3 and not (gaps and gaps[-1] < HUB_CEILING_MS):
        ended = run("hung_broker", remote_server.url, remote_server.process_id)
        assert ended.returncode == 0, ended.stderr
        gaps.append(float(ended.stdout))
    assert min(gaps) < HUB_CEILING_MS, gaps
