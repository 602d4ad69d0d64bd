"""gunicorn with two workers, and a database that becomes unavailable, full or read-only."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..support.backend import Caller, change, over_http, start
from ..support.postgresql import PostgreSQL
from ..support.programs import need
from ..support.raw_client import CHANGED, CONNECTED, Listener
from ..support.server import GUNICORN, Server
from ..support.tokens import KEY, make_token
from ..support.wait import until

SUBSCRIBE = "/api/sync/subscribe?app_id=notes"
WORKERS = 2
MIB = 2**20

WITH_SMALL_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def caller(server: Server) -> Caller:
    return Caller(over_http(server.url), make_token())


def answers(server: Server, status: int, times: int = 8) -> bool:
    """Return whether a route that reads the database has this status in every worker."""
    return all(caller(server).get("/status")[0] == status for _ in range(times))


@contextmanager
def streams(server: Server, number: int) -> Iterator[list[Listener]]:
    """Open streams until both workers have some."""
    with ExitStack() as stack:
        opened = [stack.enter_context(Listener(server.port, SUBSCRIBE, make_token())) for _ in range(number)]
        assert [stream.next_frame() for stream in opened] == [CONNECTED] * number
        yield opened


def worker_of(stream: Listener, server: Server) -> int:
    """Return the process that serves a stream: the one that holds the other end of its connection."""
    _, port = stream.socket.getsockname()
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    ends = f":{server.port:04X}", f":{port:04X}"
    inode = next(line[9] for line in lines if (line[1][-5:], line[2][-5:]) == ends)
    for pid in server.workers():
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        if f"socket:[{inode}]" in links:
            return pid
    raise LookupError("no worker has this connection")


def test_a_service_that_starts_without_its_database_works_once_it_exists(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    url = f"sqlite:///{folder}/some.db"
    with start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_WORKERS=str(WORKERS), SYNCKIT_DATABASE_URL=url) as server:
        assert until(lambda: len(server.workers()) == WORKERS and answers(server, 503), 20.0)
        assert Caller(over_http(server.url), None).get("/live")[0] == 200
        assert Caller(over_http(server.url), None).get("/ready")[0] == 503
        told = "the service starts without its database and answers 503"
        assert until(lambda: server.log.count(told) == WORKERS, 20.0)
        folder.mkdir()
        assert until(lambda: answers(server, 200), 20.0)
        alice = caller(server)
        laptop = alice.register()
        with streams(server, 4) as opened:
            alice.push(laptop)
            assert [stream.next_news() for stream in opened] == [CHANGED] * 4
        assert not server.tracebacks
        assert server.log.count(told) == WORKERS


def test_a_disk_that_is_full_for_a_while_refuses_pushes_alone(clone: Path) -> None:
    """The limit of a file's size stands for the disk: SQLite meets an error in the middle of a write."""
    env = {"SYNCKIT_BIND": "127.0.0.1:0", "SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production"}
    command = ["-c", WITH_SMALL_FILES, str(MIB), GUNICORN]
    with Server(command, clone, r"Listening at: http://127\.0\.0\.1:(\d+)", env) as server:
        alice = caller(server)
        laptop = alice.register()
        alice.pull(laptop)  # the first one of a device writes

        def push() -> int:
            return alice.post("/push", {"device_id": laptop, "changes": [change(data="x" * 200_000)]})[0]

        check_pushes_alone_are_refused(server, alice, laptop, push)
        for pid in server.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        check_all_is_well_again(alice, laptop, push)


def check_pushes_alone_are_refused(server: Server, alice: Caller, laptop: str, push: Callable[[], int]) -> None:
    stored, statuses = alice.get("/status")[1]["change_count"], [200]
    while statuses[-1] == 200 and len(statuses) < 50:
        statuses.append(push())
    statuses += [push() for _ in range(3)]
    assert statuses[-4:] == [503] * 4
    stored += statuses.count(200) - 1
    status, answer = alice.get("/ready")
    assert (status, answer["writable"]) == (200, False)
    assert alice.get("/status")[1]["change_count"] == stored
    assert alice.pull(laptop, limit=1)["cursor"] == min(1, stored)
    assert server.log.count("the database cannot be written") == 1
    assert not server.tracebacks


def check_all_is_well_again(alice: Caller, laptop: str, push: Callable[[], int]) -> None:
    head = alice.get("/status")[1]["cursor"]
    assert push() == 200
    assert [row["seq"] for row in alice.pull(laptop, head)["changes"]] == [head + 1]
    assert alice.get("/ready")[1]["writable"]


@contextmanager
def small_disk(folder: Path, owner: str | None = None) -> Iterator[Path]:
    """Mount a file system of 3 MiB in memory."""
    need("mount")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr}")
    try:
        if owner is not None:
            shutil.chown(folder, owner, owner)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill a file system."""
    file = folder / "ballast"
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            return file


@pytest.mark.thorough
def test_a_file_system_that_is_full_for_a_while_refuses_pushes_alone(clone: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        url = f"sqlite:///{folder}/some.db"
        with start(clone, SYNCKIT_JWT_KEY=KEY, SYNCKIT_ENV="production", SYNCKIT_DATABASE_URL=url) as server:
            alice = caller(server)
            laptop = alice.register()
            alice.pull(laptop)  # the first one of a device writes

            def push() -> int:
                return alice.post("/push", {"device_id": laptop, "changes": [change(data="x" * 50_000)]})[0]

            assert push() == 200
            ballast = fill(folder)
            check_pushes_alone_are_refused(server, alice, laptop, push)
            ballast.unlink()
            check_all_is_well_again(alice, laptop, push)


@pytest.mark.thorough
class TestOnPostgreSQL:
    @pytest.fixture
    def server(self, clone: Path, postgresql: PostgreSQL) -> Iterator[Server]:
        settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_DATABASE_URL": postgresql.emptied()}
        with start(clone, SYNCKIT_WORKERS=str(WORKERS), SYNCKIT_KEEPALIVE_SECONDS="0.5", **settings) as server:
            assert until(lambda: answers(server, 200), 20.0)
            yield server

    @pytest.mark.parametrize("how", ["a killed worker", "a reload"])
    def test_a_worker_that_starts_without_the_database_does_not_stop_the_others(
        self, server: Server, postgresql: PostgreSQL, how: str
    ) -> None:
        alice = caller(server)
        laptop = alice.register()
        with streams(server, 8) as opened:
            before = server.workers()
            serving = {stream: worker_of(stream, server) for stream in opened}
            with postgresql.away():
                new = WORKERS if how == "a reload" else 1
                if how == "a reload":
                    server.process.send_signal(signal.SIGHUP)
                else:
                    os.kill(before[0], signal.SIGKILL)
                assert until(lambda: len(set(server.workers()) - set(before)) == new, 30.0)
                assert until(lambda: server.log.count("the service starts without its database") >= 1, 30.0)
                assert until(lambda: answers(server, 503), 30.0)
                assert server.process.poll() is None
                if how == "a killed worker":
                    for stream in opened:
                        if serving[stream] != before[0]:
                            stream.next_frame()  # a keepalive
            assert until(lambda: answers(server, 200), 30.0)
            staying = [stream for stream in opened if serving[stream] in server.workers()]
            alice.push(laptop)
            assert [stream.next_news(15.0) for stream in staying] == [CHANGED] * len(staying)
            assert len(staying) == sum(pid != before[0] for pid in serving.values()) or how == "a reload"
        assert not server.tracebacks
        assert "secret" not in server.log

    def test_a_database_that_becomes_read_only_refuses_pushes_alone(self, clone: Path, postgresql: PostgreSQL) -> None:
        settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_DATABASE_URL": postgresql.emptied()}
        with start(clone, **settings) as server, postgresql.connect() as connection:
            alice = caller(server)
            laptop = alice.register()
            alice.pull(laptop)  # the first one of a device writes

            def push() -> int:
                return alice.post("/push", {"device_id": laptop, "changes": [change()]})[0]

            assert push() == 200
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
            try:
                assert until(lambda: push() == 503)
                check_pushes_alone_are_refused(server, alice, laptop, push)
            finally:
                connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                connection.execute("SELECT pg_reload_conf()")
            assert until(lambda: push() == 200)
            check_all_is_well_again(alice, laptop, push)

    def test_a_tablespace_that_is_full_for_a_while_refuses_pushes_alone(
        self, clone: Path, postgresql: PostgreSQL, bare: str
    ) -> None:
        with ExitStack() as stack:
            folder = stack.enter_context(
                small_disk(postgresql.folder / "disk", "postgres" if os.geteuid() == 0 else None)
            )
            admin = stack.enter_context(postgresql.connect())
            admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_DATABASE_URL": bare}
            try:
                with start(clone, **settings) as server, postgresql.connect("bare") as connection:
                    assert until(lambda: answers(server, 200), 20.0)
                    connection.execute("ALTER TABLE changes SET TABLESPACE small")
                    alice = caller(server)
                    laptop = alice.register()

                    def push() -> int:
                        noise = os.urandom(40_000).hex()
                        return alice.post("/push", {"device_id": laptop, "changes": [change(data=noise)]})[0]

                    assert push() == 200
                    ballast = fill(folder)
                    check_pushes_alone_are_refused(server, alice, laptop, push)
                    ballast.unlink()
                    check_all_is_well_again(alice, laptop, push)
            finally:
                admin.execute("DROP DATABASE bare WITH (FORCE)")
                admin.execute("DROP TABLESPACE small")
                admin.execute("CREATE DATABASE bare")  # for its fixture to drop
