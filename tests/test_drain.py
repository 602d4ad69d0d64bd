"""However gunicorn stops a worker, every open stream ends cleanly and at once, and no request is refused.

Real servers without any hook: our own backend and a foreign host, both worker classes, with and without preloading.
"""

import contextlib
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.deployment import STOPS, STREAMS, Deployment, gone, hup, term
from .support.descriptors import many_descriptors
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import ROOT, gunicorn
from .support.tokens import make_token
from .support.wait import until, wait_until

ENDED_WITHIN = 2.5  # five times the promise
EXITED_WITHIN = 6.0  # four times the promise
FAREWELL = re.compile(rb": connected\n\nretry: \d+\n\n: bye draining\n\n")
OF_GUNICORN_23 = re.compile(r".*\[ERROR\] Worker \(pid:\d+\) was sent SIGTERM!\n")
"""Logged there for a worker that the master stopped itself, after HUP for example."""

AT_ONCE = 3_000
"""More devices than gunicorn's own 2,048, and fewer than Linux's 4,096."""

THOROUGH = pytest.mark.thorough
WORKERS = ["gevent", pytest.param("parked", marks=THOROUGH), pytest.param("gthread", marks=THOROUGH)]


@pytest.mark.parametrize(
    ("app", "preload"),
    [pytest.param("ours", ("--preload",), id="preloaded", marks=THOROUGH), pytest.param("foreign", (), id="foreign")],
)
@pytest.mark.parametrize("worker_class", WORKERS)
@pytest.mark.parametrize("stop", STOPS)
def test_every_stream_ends_cleanly_and_then_its_connection_and_its_worker(
    tmp_path: Path, stop: str, worker_class: str, preload: tuple[str, ...], app: str
) -> None:
    options = (*preload, "--max-requests", str(STREAMS + 5)) if stop == "max_requests" else preload
    with Deployment(tmp_path, app, worker_class, *options) as deployment:
        listeners = [deployment.listen() for _ in range(STREAMS)]
        [worker] = deployment.server.workers()
        STOPS[stop](deployment)
        began = time.monotonic()
        for listener in listeners:
            assert FAREWELL.fullmatch(listener.read_to_end(5.0)), listener.body
        assert time.monotonic() - began < ENDED_WITHIN
        for listener in listeners:
            assert listener.is_closed_by_server(within=1.0), "a pooled client would send its next request there"
        assert gone(worker, EXITED_WITHIN)
        if stop == "TERM":
            assert deployment.server.process.wait(EXITED_WITHIN) == 0
        log = OF_GUNICORN_23.sub("", deployment.server.log)
        assert not re.search(r"\[(WARNING|ERROR|CRITICAL)\]", log), log
        assert not deployment.server.tracebacks


def test_a_new_stream_on_a_draining_worker_is_told_to_come_back(tmp_path: Path) -> None:
    with Deployment(tmp_path, "foreign", "gevent", "--keep-alive", "5") as deployment:
        with Kept(deployment) as kept:
            kept.request("GET /")
            term(deployment)
            time.sleep(0.3)
            answer = kept.request(f"GET {deployment.prefix}/subscribe?app_id=notes", make_token())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert re.fullmatch(rb"[0-9A-F]+\r\nretry: \d+\n\n: bye draining\n\n\r\n0\r\n\r\n", body), body


def test_a_push_to_the_old_worker_reaches_the_new_one_within_five_seconds(tmp_path: Path) -> None:
    with Deployment(tmp_path, "foreign", "gevent", "--keep-alive", "25") as deployment, Kept(deployment) as kept:
        kept.request("GET /")
        [old] = deployment.server.workers()
        hup(deployment)
        while "Booting worker" not in deployment.server.log.partition("Handling signal: hup")[2]:
            time.sleep(0.02)
        with until_heard(deployment, old) as phone:
            pushed_at = time.monotonic()
            assert b"written" in kept.request("POST /notes/notes/alice?device=laptop")
            assert phone.next_news(5.0) == CHANGED
            assert time.monotonic() - pushed_at < 5.0


def until_heard(deployment: Deployment, old: int) -> Listener:
    """Subscribe until a stream lives, that is on the new worker."""
    while True:
        listener = deployment.listen("phone")
        if listener.next_frame() == CONNECTED:
            with pytest.raises(TimeoutError):
                listener.next_frame(0.5)
            assert not gone(old, 0), "the old worker must still be there for the push"
            return listener
        listener.close()


def test_devices_that_return_while_no_worker_accepts_find_a_place_in_the_queue(tmp_path: Path) -> None:
    options = ("--config", str(ROOT / "gunicorn.conf.py"))
    with (
        many_descriptors(AT_ONCE + 500),
        gunicorn("tests.support.minimal_host:create_app()", tmp_path, *options) as server,
        contextlib.ExitStack() as sockets,
    ):
        wait_until(server.workers)
        os.kill(server.workers()[0], signal.SIGSTOP)
        poll = select.epoll()
        sockets.callback(poll.close)
        for _ in range(AT_ONCE):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            poll.register(client, select.EPOLLOUT)
        assert until(lambda: len(poll.poll(0, AT_ONCE)) == AT_ONCE)


class Kept:
    """A kept connection that carries one request after the other."""

    def __init__(self, deployment: Deployment) -> None:
        self.socket = socket.create_connection(("127.0.0.1", deployment.server.port), 60)

    def request(self, line: str, token: str | None = None) -> bytes:
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self.socket.sendall(f"{line} HTTP/1.1\r\nHost: h\r\n{authorization}Content-Length: 0\r\n\r\n".encode())
        answer = b""
        while not _is_whole(answer):
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"the server closed the connection: {answer!r}")
            answer += data
        return answer

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if length := re.search(rb"Content-Length: (\d+)", head):
        return len(body) == int(length[1])
    return bool(separator) and body.endswith(b"\r\n0\r\n\r\n")


class Returning:
    """A client that subscribes again 50 ms after each clean end, and notes whatever is not clean, until it is stopped.

    Stopped at the end of its `with` block: a client that goes on after a failed test spoils all tests that follow.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.faults: list[str] = []
        self.connects = 0
        self._deployment = deployment
        self._over = False
        self._listener: Listener | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            try:
                self._listener = self._deployment.listen()
                self.connects += self._listener.status == 200
                self._listener.read_to_end(60.0)
            except (OSError, EOFError, ValueError) as error:
                if not self._over:
                    self.faults.append(repr(error))
            time.sleep(0.05)

    def stop(self) -> None:
        self._over = True
        while self._thread.is_alive():
            if self._listener is not None:
                with contextlib.suppress(OSError):
                    self._listener.socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.1)

    def __enter__(self) -> "Returning":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@pytest.fixture
def replaced_master() -> Iterator[list[int]]:
    """Process ids of masters that a test let start; ended with their workers."""
    masters: list[int] = []
    yield masters
    for master in masters:
        os.kill(master, signal.SIGQUIT)
        assert gone(master, 10.0)


@pytest.mark.thorough
@pytest.mark.parametrize("worker_class", WORKERS)
@pytest.mark.parametrize("change", ["HUP", "one worker", "USR2 and TERM"])
def test_clients_that_reconnect_get_no_reset_and_no_refusal(
    tmp_path: Path, change: str, worker_class: str, replaced_master: list[int]
) -> None:
    with (
        Deployment(tmp_path, "foreign", worker_class, workers=2) as deployment,
        contextlib.ExitStack() as stopping,
    ):
        clients = [stopping.enter_context(Returning(deployment)) for _ in range(STREAMS)]
        wait_until(lambda: all(client.connects for client in clients))
        before = set(deployment.server.workers())
        busiest = max(before, key=lambda pid: len(list(Path(f"/proc/{pid}/fd").iterdir())))
        master = deployment.server.process
        if change == "HUP":
            hup(deployment)
        elif change == "one worker":
            os.kill(busiest, signal.SIGTERM)
        else:
            master.send_signal(signal.SIGUSR2)
            wait_until(lambda: deployment.server.log.count("Booting worker") == 4)
            replaced_master += set(deployment.server.workers()) - before
            term(deployment)
        old = {busiest} if change == "one worker" else before
        assert all(gone(worker, EXITED_WITHIN) for worker in old)
        time.sleep(0.3)
        for client in clients:
            client.stop()
        assert [client.faults for client in clients] == [[]] * STREAMS
        assert sum(client.connects for client in clients) > STREAMS, "somebody must have been moved"
