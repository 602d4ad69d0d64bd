"""Run as a program: a process with a broker that prints each message it receives, and publishes what it reads.

python -m tests.support.broker_process URL NAMESPACE [gevent] [uid=N,gid=N]

In: lines `publish USER`, `burst COUNT`, `fork` (a child that sleeps for a minute),
`busy SECONDS` (hold the interpreter), `status`.
Out: `listening`, `gap`, `notice USER`, `disconnect USER`, `forked` (by the child), and the answers `done`,
`status gaps=N pending=N`.
"""

import os
import subprocess
import sys
import threading
import time

if "gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()
from synckit_notify.brokers import Disconnect, Gap, Message, Notice, connect
from synckit_notify.runtime.gevent_compat import run_in_native_thread

from .server import ROOT, clean_environment
from .wait import until


def change_user(uid: int, gid: int) -> None:
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)


def main() -> None:
    broker = connect(sys.argv[1], sys.argv[2])  # imports all it needs: another user may not read these files
    for word in sys.argv[3:]:
        if word.startswith("uid="):
            change_user(*(int(part.partition("=")[2]) for part in word.split(",")))

    def receive(message: Message) -> None:
        match message:
            case Gap():
                say("gap")
            case Notice(user=user):
                say(f"notice {user}")
            case Disconnect(user=user):
                say(f"disconnect {user}")

    broker.start(receive)
    say("listening")
    while line := run_in_native_thread(sys.stdin.readline):
        match line.split():
            case ["publish", user]:
                broker.publish(Notice("notes", user))
            case ["burst", count]:
                for number in range(int(count)):
                    broker.publish(Notice("notes", str(number)))
            case ["fork"]:
                if os.fork() == 0:
                    say("forked")
                    time.sleep(60)
                    os._exit(0)
            case ["busy", seconds]:
                until_then = time.monotonic() + float(seconds)
                while time.monotonic() < until_then:
                    pass
            case ["status"]:
                found = broker.status()
                say(f"status connected={found.connected} gaps={found.gaps} pending={found.pending}")
        say("done")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # at once: a child writes too


class BrokerProcess:
    """Such a process, started; a context manager that kills it."""

    def __init__(self, url: str, namespace: str = "synckit", *words: str, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, "-m", "tests.support.broker_process", url, namespace, *words]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "BrokerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def tell(self, line: str) -> None:
        """Send a line, and wait until it is done."""
        before = self.lines.count("done")
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert until(lambda: self.lines.count("done") > before, 60.0), (self.lines, self.errors)

    def heard(self, *lines: str) -> bool:
        """Return whether all of these were printed within some seconds."""
        return until(lambda: set(lines) <= set(self.lines))

    def end(self) -> int:
        """Close its input, and return its exit status."""
        self.process.stdin.close()
        return self.process.wait(20)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for each in (self.process.stdin, self.process.stdout, self.process.stderr):
            each.close()

    @staticmethod
    def _read(stream, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))


if __name__ == "__main__":
    main()
