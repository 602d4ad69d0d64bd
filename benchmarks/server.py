"""A real server to be measured: started on a free port of the loopback, pinned to one core, killed in the end.

    with gunicorn(key, folder) as server:      one gevent worker running benchmarks.host
        server.private_kib()                   the private memory of its processes
        with server.usage() as usage: ...      the processor time of these processes and of their core

All processes of its session are killed at the end in any case, so neither Ctrl-C nor a failed start leaves one.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
STARTS_WITHIN = 20.0
CONNECTIONS = 20_000
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, GENERATOR_CORE = CORES[0], CORES[-1]
"""The same core on a machine with one; the shares in the report show it."""

BARE_HOST = "benchmarks.host:app"
BACKEND = "benchmarks.host:create_backend()"
FOR_FIGURES: dict[str, object] = {"worker-class": "gevent", "keep-alive": 75}
"""gunicorn's options for measurements: it must not close a pushing connection just when it is used."""

_LISTENING = re.compile(r"http://127\.0\.0\.1:(\d+)")
_CLK_TCK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Usage:
    """Elapsed time and processor times between two moments, in seconds; zero until the second moment."""

    seconds: float = 0.0
    server_cpu: float = 0.0
    generator_cpu: float = 0.0
    others_cpu: float = 0.0
    """Processor time of other processes on the server's core."""

    def shares(self) -> dict[str, float]:
        """Return the three processor times as shares of the elapsed time."""
        return {
            "server_share": self.server_cpu / self.seconds,
            "generator_share": self.generator_cpu / self.seconds,
            "others_share": self.others_cpu / self.seconds,
        }


class Server:
    """One server in a session of its own, pinned to the first core.

    Its port is the one given, or else the one in its log. It does not get this process's environment variables for
    Python, gunicorn, Flask or this project.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        env: Mapping[str, str],
        *,
        port: int | None = None,
        core: int | None = SERVER_CORE,
        starts_within: float = STARTS_WITHIN,
    ) -> None:
        self.log_file = folder / "server.log"
        with self.log_file.open("wb") as log:
            self._master = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                env=_environment(env),
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, CORES if core is None else {core}),
            )
        try:
            self.port = self._wait_for_port(command[0], port, starts_within)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all server processes at once, without a drain."""
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        self._master.wait()

    def get(self, path: str) -> str:
        """Return the body of a GET request."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=STARTS_WITHIN) as answer:
            text: str = answer.read().decode()
        return text

    def private_kib(self, *pids: int) -> int:
        """Return Private_Dirty of these processes, or of all server processes, together."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids or self.processes()]
        return sum(int(value) for text in rollups for value in re.findall(r"Private_Dirty:\s+(\d+) kB", text))

    def descriptors(self) -> int:
        """Return how many descriptors the server processes have open."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.processes())

    def threads(self) -> int:
        """Return how many native threads the server processes have."""
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.processes())

    def log(self) -> str:
        """Return the log of the server and its application."""
        return self.log_file.read_text(errors="replace")

    def reload(self) -> None:
        """Make a gunicorn master replace its workers."""
        self._master.send_signal(signal.SIGHUP)

    @contextmanager
    def usage(self, generator: int | None = None) -> Iterator[Usage]:
        """Measure the block: server and generator (default: this process) by their CPU clocks, the core by ticks."""
        pid = os.getpid() if generator is None else generator
        usage, before = Usage(), self._clocks(pid)
        yield usage
        usage.seconds, usage.server_cpu, usage.generator_cpu, core = (
            now - then for now, then in zip(self._clocks(pid), before, strict=True)
        )
        generator_here = usage.generator_cpu if GENERATOR_CORE == SERVER_CORE else 0.0
        usage.others_cpu = max(0.0, core - usage.server_cpu - generator_here)

    def _clocks(self, generator: int) -> tuple[float, float, float, float]:
        server = sum(time.clock_gettime(_cpu_clock(pid)) for pid in self.processes())
        return time.perf_counter(), server, time.clock_gettime(_cpu_clock(generator)), _core_busy(SERVER_CORE)

    def processes(self) -> list[int]:
        """Return the ids of the processes in the server's session, the master's first."""
        found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return sorted(pid for pid in found if _session(pid) == self._master.pid)

    def _wait_for_port(self, command: str, port: int | None, within: float) -> int:
        until = time.monotonic() + within
        while time.monotonic() < until and self._master.poll() is None:
            listening = None if port else _LISTENING.search(self.log())
            found = int(listening[1]) if listening else port
            if found and _accepts(found):
                return found
            time.sleep(0.02)
        raise RuntimeError(f"{command} did not start:\n{self.log()}")


def gunicorn(
    key: str,
    folder: Path,
    *,
    app: str = BARE_HOST,
    options: Mapping[str, object] = FOR_FIGURES,
    core: int | None = SERVER_CORE,
    settings: Mapping[str, str] | None = None,
    root: Path = ROOT,
    under: Sequence[str] = (),
    starts_within: float = STARTS_WITHIN,
) -> Server:
    """Start one worker with the project's own configuration; `options` are gunicorn's, `settings` the environment's.

    `root` holds the packages and the configuration. `under` is the command that runs Python, a valgrind for example.
    """
    every = {"config": root / "gunicorn.conf.py", "bind": "127.0.0.1:0", "workers": 1, **options}
    flags = [text for name, value in every.items() for text in (f"--{name}", str(value))]
    command = [*under, sys.executable, "-m", "gunicorn", *flags, "--no-control-socket", app]
    env = {"SYNCKIT_JWT_KEY": key, "BENCHMARK_FOLDER": str(folder), "PYTHONPATH": str(root)} | dict(settings or {})
    return Server(command, folder, env, core=core, starts_within=starts_within)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without variables that would change a server."""
    foreign = ("SYNCKIT_", "FLASK_", "GUNICORN_", "GEVENT_", "PYTHON")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return clean | {"SYNCKIT_WORKER_CONNECTIONS": str(CONNECTIONS), "PYTHONPATH": str(ROOT), **settings}


def _accepts(port: int) -> bool:
    """Return whether a server listens on the port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _session(pid: int) -> int | None:
    """Return the session of a process, or None if it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _cpu_clock(pid: int) -> int:
    """Return the clock of all processor time of a process (clock_getcpuclockid(3))."""
    return (~pid << 3) | 2


def _core_busy(core: int) -> float:
    """Return the seconds since boot in which a core was not idle."""
    fields = re.findall(rf"^cpu{core} (.+)$", Path("/proc/stat").read_text(), re.MULTILINE)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _CLK_TCK
