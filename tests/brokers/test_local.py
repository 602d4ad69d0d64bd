"""local://: processes of one user on one machine hear each other, without a server and with nothing to clean up."""

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synckit_notify.brokers import Gap, Notice, connect
from synckit_notify.brokers.local_folder import MAX_FOLDER_BYTES, OLD_SECONDS, LocalFolder, default_folder
from synckit_notify.errors import ConfigurationError

from ..support.broker_process import BrokerProcess
from ..support.broker_servers import LocalServer
from ..support.brokers import Heard, MakeBroker, MakeProcess
from ..support.wait import until

ALICE = Notice("notes", "alice")
NOBODY = 65534


@pytest.fixture
def folder(local_server: LocalServer) -> Path:
    return local_server.folder


@pytest.fixture
def url(local_server: LocalServer) -> str:
    return local_server.url


def sockets(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_socket()]


def as_root() -> None:
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs root, for a second user")


class TestProcesses:
    @pytest.mark.parametrize("words", [(), ("gevent",)], ids=["threads", "gevent"])
    def test_hear_each_other_and_a_short_command(self, url: str, words: tuple[str, ...], broker: MakeBroker) -> None:
        with BrokerProcess(url, "synckit", *words) as one, BrokerProcess(url, "synckit", *words) as other:
            assert one.heard("listening")
            assert other.heard("listening")
            one.tell("publish alice")
            assert other.heard("notice alice")
            broker(url).publish(Notice("notes", "command"))
            assert one.heard("notice command")
            assert other.heard("notice command")
            assert "notice alice" not in one.lines

    def test_of_two_services_do_not_hear_each_other(self, url: str, process: MakeProcess) -> None:
        one, same, foreign = process(url), process(url), process(url, "staging")
        one.broker.publish(ALICE)
        assert until(lambda: same.heard.messages == [ALICE])
        assert foreign.heard.messages == []

    def test_that_were_killed_leave_nothing_behind(self, url: str, folder: Path, broker: MakeBroker) -> None:
        with BrokerProcess(url) as one:
            assert one.heard("listening")
            assert len(sockets(folder)) == 1
            one.kill()
            assert len(sockets(folder)) == 1
            broker(url).publish(ALICE)
            assert sockets(folder) == []

    def test_that_end_remove_their_socket(self, url: str, folder: Path) -> None:
        with BrokerProcess(url) as one:
            assert one.heard("listening")
            assert one.end() == 0
            assert sockets(folder) == []

    def test_that_were_killed_are_forgotten_though_a_forked_child_lives(
        self, url: str, folder: Path, broker: MakeBroker
    ) -> None:
        with BrokerProcess(url) as one:
            assert one.heard("listening")
            one.tell("fork")
            assert one.heard("forked")
            os.kill(one.process.pid, signal.SIGKILL)
            one.process.wait()
            broker(url).publish(ALICE)
            assert sockets(folder) == []
            os.killpg(one.process.pid, signal.SIGKILL)

    def test_in_a_unit_with_a_private_tmp_are_reached(self, process: MakeProcess) -> None:
        as_root()
        hidden = "/var/tmp" if sys.prefix.startswith("/tmp/") else "/tmp"  # the tests may run from /tmp
        private = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh")
        namespace = f"test-{os.getpid()}-{time.time_ns()}"
        here = process("local://", namespace)
        with BrokerProcess("local://", namespace, prefix=private) as unit:
            assert unit.heard("listening"), unit.errors
            here.broker.publish(ALICE)
            assert unit.heard("notice alice")
            unit.tell("publish bob")
            assert until(lambda: here.heard.messages == [Notice("notes", "bob")])


class TestTheFolder:
    def test_belongs_to_the_user_alone(self, url: str, folder: Path, process: MakeProcess) -> None:
        process(url)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(each.stat().st_mode) for each in sockets(folder)] == [0o600]

    def test_may_be_removed_under_a_running_service(self, url: str, folder: Path, process: MakeProcess) -> None:
        one, other = process(url), process(url)
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
        assert until(lambda: one.heard.gaps == 1 and other.heard.gaps == 1 and one.ready() and other.ready())
        one.broker.publish(ALICE)
        assert until(lambda: other.heard.messages == [ALICE])

    @pytest.mark.parametrize(
        ("make", "sentence"),
        [
            (lambda path: path.write_text(""), "must be a directory"),
            (lambda path: path.symlink_to("/dev/shm"), "must be a directory"),
            (lambda path: (path.mkdir(), path.chmod(0o755)), "mode 0700"),
            (lambda path: (path.mkdir(), path.chmod(0o777)), "mode 0700"),
            (lambda path: (path.mkdir(mode=0o700), os.chown(path, NOBODY, NOBODY)), "must belong to uid"),
            (lambda path: (path / "deeper").exists(), None),
        ],
        ids=["a file", "a link", "others may look", "others may write", "another's", "missing"],
    )
    def test_that_is_not_safe_is_one_error_and_no_broker(
        self, make, sentence: str | None, folder: Path, broker: MakeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        if sentence == "must belong to uid":
            as_root()
        make(folder)
        one = broker(f"local://{folder}")
        heard = Heard()
        one.start(heard)
        one.publish(ALICE)
        if sentence is None:
            assert until(lambda: one.status().connected)
            assert not caplog.records
            return
        assert until(lambda: caplog.records)
        time.sleep(0.3)
        assert not one.status().connected
        [line] = [record.getMessage() for record in caplog.records]
        assert sentence in line
        assert "local:///another/folder" in line
        assert caplog.records[0].levelname == "ERROR"

    def test_is_used_as_soon_as_it_is_corrected(self, folder: Path, broker: MakeBroker) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        one = broker(f"local://{folder}")
        one.start(Heard())
        time.sleep(0.2)
        folder.chmod(0o700)
        assert until(lambda: one.status().connected)

    def test_is_out_of_reach_for_a_second_user(self, url: str, folder: Path, process: MakeProcess) -> None:
        as_root()
        folder.parent.chmod(0o755)
        process(url)
        attempts = f"""
import os, socket
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
def refused(call):
    try: call()
    except PermissionError: return True
    return False
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
print([refused(call) for call in (
    lambda: os.listdir({str(folder)!r}),
    lambda: s.bind({str(folder / "x")!r}),
    lambda: s.connect({str(sockets(folder)[0])!r}),
    lambda: os.symlink("gap", {str(folder / "x.gap")!r}),
)])
"""
        run = subprocess.run([sys.executable, "-c", attempts], capture_output=True, text=True, timeout=60)
        assert run.stdout.strip() == "[True, True, True, True]", run.stderr

    def test_that_a_second_user_made_first_is_not_used(self, folder: Path, broker: MakeBroker) -> None:
        as_root()
        folder.mkdir(mode=0o700)
        os.chown(folder, NOBODY, NOBODY)
        one = broker(f"local://{folder}")
        one.start(Heard())
        one.publish(ALICE)
        time.sleep(0.3)
        assert list(folder.iterdir()) == []

    def test_of_a_group_serves_several_users(self, folder: Path) -> None:
        as_root()
        group = 54321
        folder.parent.chmod(0o755)
        folder.mkdir()
        os.chown(folder, 0, group)
        folder.chmod(0o2770)
        url = f"local://{folder}"
        with (
            BrokerProcess(url, "synckit", f"uid=54001,gid={group}") as one,
            BrokerProcess(url, "synckit", f"uid=54002,gid={group}") as other,
        ):
            assert one.heard("listening"), one.errors
            assert other.heard("listening"), other.errors
            one.tell("publish alice")
            assert other.heard("notice alice")
            other.tell("publish bob")
            assert one.heard("notice bob")

    def test_of_an_earlier_boot_is_cleaned_after_a_week(self, folder: Path, process: MakeProcess) -> None:
        local = LocalFolder(folder, "synckit", chosen_by_operator=True)
        local.prepare()
        old, young = (folder / f"{local.new_socket().name[:8]}.0000beef.{name}" for name in ("old", "young"))
        for path in old, young:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.bind(str(path))
        week_ago = time.time() - OLD_SECONDS - 60
        os.utime(old, (week_ago, week_ago))
        process(f"local://{folder}").broker.publish(ALICE)
        assert (old.exists(), young.exists()) == (False, True)

    def test_is_cleaned_of_what_a_killed_process_of_another_service_left(
        self, url: str, folder: Path, process: MakeProcess
    ) -> None:
        with BrokerProcess(url, "killed") as killed, BrokerProcess(url, "alive") as alive:
            assert killed.heard("listening")
            assert alive.heard("listening")
            killed.kill()
            assert len(sockets(folder)) == 2
            process(url)
            assert len(sockets(folder)) == 2
            process(url, "alive").broker.publish(ALICE)
            assert alive.heard("notice alice")

    def test_keeps_no_mark_of_a_socket_that_is_gone(self, folder: Path, process: MakeProcess) -> None:
        local = LocalFolder(folder, "synckit", chosen_by_operator=True)
        local.prepare()
        name = local.new_socket().name
        local.mark(name)
        process(f"local://{folder}").broker.publish(ALICE)
        assert not local.take_mark(name)

    def test_has_the_same_name_in_a_shell_and_in_a_unit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = default_folder()
        for name in ("TMPDIR", "XDG_RUNTIME_DIR", "HOME", "USER"):
            monkeypatch.setenv(name, "/elsewhere")
        assert default_folder() == before


@pytest.mark.parametrize(
    "url", ["local://folder", "local://user@/x", "local:///x?y=1", "local:///" + MAX_FOLDER_BYTES * "x"]
)
def test_a_url_that_names_no_usable_folder_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_BROKER_URL"):
        connect(url)


def test_a_folder_with_a_space_is_quoted_in_the_url(folder: Path, process: MakeProcess) -> None:
    spaced = folder.with_name("a b")
    one, other = (process(f"local://{str(spaced).replace(' ', '%20')}") for _ in range(2))
    one.broker.publish(ALICE)
    assert until(lambda: other.heard.messages == [ALICE])


def test_a_process_without_free_descriptors_tells_everybody_to_look_as_soon_as_it_has_one(
    url: str, broker: MakeBroker, process: MakeProcess
) -> None:
    listener, publisher = process(url), broker(url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[socket.socket] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(socket.socket())
        publisher.publish(ALICE)
        assert publisher.status().pending == 1
    finally:
        for each in taken:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert until(lambda: listener.heard.gaps == 1)
    assert until(lambda: publisher.status().pending == 0)


def test_a_full_gap_is_told_to_a_worker_that_hears_nothing_else(url: str, process: MakeProcess) -> None:
    one, other = process(url), process(url)
    other.broker.publish(Gap())
    assert until(lambda: one.heard.gaps == 1)
