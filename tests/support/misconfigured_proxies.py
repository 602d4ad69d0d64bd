"""nginx and HAProxy in front of a server: first with a mistake in their configuration, then with the advised lines.

The mistake is one level above the place of the advised lines, so these override it.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .programs import need
from .server import STARTS_WITHIN, free_port

NGINX = """
daemon off; master_process off; pid nginx.pid; error_log nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {mistake}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            {advised}
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    {mistake}
frontend devices
    bind 127.0.0.1:{port}
    default_backend server
    {frontend}
backend server
    server one 127.0.0.1:{upstream}
    {backend}
"""


@contextmanager
def nginx(folder: Path, upstream: int, mistake: str = "", *advised: str) -> Iterator[int]:
    """Run nginx and yield its port; lines for a location go there."""
    port = free_port()
    config = NGINX.format(port=port, upstream=upstream, mistake=mistake, advised="\n".join(advised))
    file = folder / "nginx.conf"
    file.write_text(config)
    with _running([need("nginx"), "-p", str(folder), "-e", "nginx.log", "-c", str(file)], folder, port):
        yield port


@contextmanager
def haproxy(folder: Path, upstream: int, mistake: str = "", *advised: str) -> Iterator[int]:
    """Run HAProxy and yield its port; a line goes where its comment says."""
    places = {name: "\n    ".join(line for line in advised if name in line) for name in ("frontend", "backend")}
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, upstream=upstream, mistake=mistake, **places))
    with _running([need("haproxy"), "-db", "-f", str(file)], folder, port):
        yield port


@contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + STARTS_WITHIN
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the proxy did not start:\n{(folder / 'output.log').read_text()}")
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
