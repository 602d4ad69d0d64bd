"""The proxies of `deploy/`, run from the files that are shipped: nothing but ports, paths and times is replaced.

    with Nginx(folder, upstream_port) as proxy:     or Haproxy, Caddy
        proxy.url                                   https://localhost:...
        proxy.reload()

A replacement whose place is not found in the file raises, so a file that changes cannot slip out of its test.
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from .server import ROOT, children, clean_environment, free_port

DEPLOY = ROOT / "deploy"
STARTS_WITHIN = 20.0


class Proxy:
    """A proxy in front of a service on the loopback; a context manager that ends it.

    `idle_limit` replaces the 75 s after which the shipped file lets a silent stream go, `shutdown_limit` the 15 minutes
    for which an old process lives on after a reload, `times` whatever other time a test cannot wait for.
    """

    name: str
    file: str
    idle_limits: tuple[str, ...]
    shutdown_limit: str

    def __init__(
        self,
        folder: Path,
        upstream: int,
        *,
        idle_limit: str = "75s",
        shutdown_limit: str = "15m",
        times: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, self.plain_port, self.admin_port = (free_port() for _ in range(3))
        self.config = folder / self.file
        places = self._places(*certificate(folder)) | {"127.0.0.1:8000": f"127.0.0.1:{upstream}"}
        places |= {f"{name} 75s": f"{name} {idle_limit}" for name in self.idle_limits}
        places |= {f"{self.shutdown_limit} 15m": f"{self.shutdown_limit} {shutdown_limit}"}
        self.config.write_text(shipped(self.file, places | dict(times)))
        self._log = (folder / "output.log").open("wb")
        self.process = subprocess.Popen(
            self._command(),
            cwd=folder,
            stdout=self._log,
            stderr=self._log,
            env=clean_environment() | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
            start_new_session=True,
        )
        try:
            self._wait_for_port()
        except BaseException:
            self.__exit__()
            raise

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def logs(self) -> str:
        """Everything the proxy has written."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.log")))

    def workers(self) -> list[int]:
        """The process ids of the children, old ones included."""
        return children(self.process.pid)

    def holds(self) -> tuple[int, int]:
        """Return how much memory the processes hold alone, in KiB, and how many descriptors."""
        processes = [Path(f"/proc/{pid}") for pid in (self.process.pid, *self.workers())]
        rollups = [(process / "smaps_rollup").read_text() for process in processes]
        memory = sum(int(value) for text in rollups for value in re.findall(r"Private_Dirty:\s+(\d+) kB", text))
        return memory, sum(len(list((process / "fd").iterdir())) for process in processes)

    def reload(self) -> None:
        """Read the configuration again, as an administrator would have it done."""
        self.process.send_signal(signal.SIGHUP)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def _places(self, chain: Path, key: Path) -> dict[str, str]:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _wait_for_port(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start:\n{self.logs}")


class Nginx(Proxy):
    name = "nginx"
    file = "nginx.conf"
    idle_limits = ("proxy_read_timeout",)
    shutdown_limit = "worker_shutdown_timeout"

    def _places(self, chain: Path, key: Path) -> dict[str, str]:
        return {
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen [::]:80;": f"listen 127.0.0.2:{self.plain_port};",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "listen [::]:443": f"listen 127.0.0.2:{self.port}",
            "/etc/ssl/sync.example.org/fullchain.pem": str(chain),
            "/etc/ssl/sync.example.org/privkey.pem": str(key),
            "/var/log/nginx": str(self.folder),
            "/run/nginx.pid": str(self.folder / "nginx.pid"),
        }

    def _command(self) -> list[str]:
        return ["nginx", "-c", str(self.config), "-g", "daemon off;"]


class Haproxy(Proxy):
    name = "HAProxy"
    file = "haproxy.cfg"
    idle_limits = ("timeout client", "timeout server")
    shutdown_limit = "hard-stop-after"

    def _places(self, chain: Path, key: Path) -> dict[str, str]:
        pem = self.folder / "both.pem"
        pem.write_text(chain.read_text() + key.read_text())
        return {
            "bind :80": f"bind 127.0.0.1:{self.plain_port}",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "/etc/haproxy/sync.example.org.pem": str(pem),
            "log /dev/log": "log stdout format raw",
        }

    def _command(self) -> list[str]:
        return ["haproxy", "-W", "-db", "-f", str(self.config)]

    def reload(self) -> None:
        self.process.send_signal(signal.SIGUSR2)


class Caddy(Proxy):
    name = "Caddy"
    file = "Caddyfile"
    idle_limits = ("read_timeout",)
    shutdown_limit = "grace_period"

    def _places(self, chain: Path, key: Path) -> dict[str, str]:
        return {
            "http_port 80": f"http_port {self.plain_port}",
            "https_port 443": f"https_port {self.port}",
            "localhost:2019": f"localhost:{self.admin_port}",
            "\n{$SITE_HOST:sync.example.org} {": "\nlocalhost {",
            "# tls /etc/caddy/fullchain.pem /etc/caddy/privkey.pem": f"tls {chain} {key}",
            "/var/log/caddy": str(self.folder),
        }

    def _command(self) -> list[str]:
        return ["caddy", "run", "--config", str(self.config), "--adapter", "caddyfile"]

    def reload(self) -> None:
        subprocess.run(
            ["caddy", "reload", "--config", self.config, "--adapter", "caddyfile", "--force"],
            check=True,
            stderr=self._log,
        )


def shipped(name: str, places: dict[str, str]) -> str:
    """Return a file of `deploy/` with all places replaced at once; LookupError for one that it does not have."""
    text = (DEPLOY / name).read_text()
    if missing := [place for place in places if place not in text]:
        raise LookupError(f"deploy/{name} does not contain {missing}")
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that nobody signed, and return its file and that of its key."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return chain, key
