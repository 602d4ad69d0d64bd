"""The examples of apps that use the SDK run as they stand, on a real server, and do what their READMEs say."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .support.server import ROOT, clean_environment
from .support.service import EMAIL, PASSWORD, Service
from .support.wait import wait_until

EXAMPLES = ROOT / "examples"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path / "service")
    yield started
    started.close()


class Program:
    """A running example: `types` sends it a line, `printed` is what it has printed so far."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self._file = folder / f"{'-'.join(command[1:])}.out"
        with self._file.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                text=True,
            )

    @property
    def printed(self) -> str:
        return self._file.read_text()

    def types(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end_input(self) -> int:
        """End its input, and return its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(30)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def environment(service: Service) -> dict[str, str]:
    return clean_environment() | {
        "PYTHONPATH": str(ROOT),
        "SYNCKIT_URL": service.server.url,
        "SYNCKIT_API_KEY": service.api_key,
        "SYNCKIT_EMAIL": EMAIL,
        "SYNCKIT_PASSWORD": PASSWORD,
        "SYNCKIT_PASSPHRASE": "a passphrase",
    }


@contextmanager
def started(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[Program]:
    with Program([str(EXAMPLES / command[0]), *command[1:]], folder, env) as program:
        yield program


def test_asyncio(tmp_path: Path, service: Service) -> None:
    env = environment(service)
    with ExitStack() as stack:
        laptop, phone = (
            stack.enter_context(started(["asyncio/notes.py", name], tmp_path, env)) for name in ("laptop", "phone")
        )
        laptop.types("Buy milk")
        wait_until(lambda: phone.printed == "Buy milk\n")
        phone.types("and bread")
        wait_until(lambda: laptop.printed == "and bread\n")
        service.server.stop()
        laptop.types("written without network")
        assert laptop.end_input() == 0, laptop.printed
        service.server = service.start(service.server.port)
        with started(["asyncio/notes.py", "laptop"], tmp_path, env):
            wait_until(lambda: "written without network" in phone.printed)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("app", "in_step"),
    [
        pytest.param(EXAMPLES / "todo" / "todo.py", "up_to_date", id="with run"),
        pytest.param(ROOT / "benchmarks" / "todo_on_primitives.py", "connected", id="on the primitives"),
    ],
)
def test_todo(tmp_path: Path, service: Service, app: Path, in_step: str) -> None:
    def todo(*words: str) -> str:
        command = [sys.executable, str(app), *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, env=env).stdout

    env = environment(service)
    todo("laptop", "add", "Buy", "milk")
    with started([str(app), "laptop", "sync"], tmp_path, env) as laptop:
        wait_until(lambda: in_step in laptop.printed)
        with started([str(app), "phone", "sync"], tmp_path, env):
            wait_until(lambda: "[ ] Buy milk" in todo("phone", "list"))
            todo("phone", "done", todo("phone", "list")[:4])
            wait_until(lambda: "[x] Buy milk" in todo("laptop", "list"))
            service.server.stop()
            todo("laptop", "add", "and bread")
            service.server = service.start(service.server.port)
            wait_until(lambda: "[ ] and bread" in todo("phone", "list"))
    with ExitStack() as stack:  # the other example on the same account
        tablet, watch = (
            stack.enter_context(started(["asyncio/notes.py", name], tmp_path, env)) for name in ("tablet", "watch")
        )
        watch.types("a note")
        wait_until(lambda: tablet.printed == "a note\n")
