"""pushpin, the proxy of Fanout: it holds the streams, and a Flask application behind it says so by GRIP headers.

    stream ──▶ condure ──▶ pushpin-proxy ──▶ zurl ──▶ gunicorn with benchmarks.pushpin_host: "hold this for channel ..."
    push ──▶ the same way ──▶ the application ──▶ pushpin-handler's HTTP endpoint ──▶ condure ──▶ streams

All these processes are the server: pushpin starts condure, zurl and two services of its own; gunicorn is started beside
it in the same session. pushpin's limit of 2,500 messages a second is off.
"""

import http.client
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .server import CONNECTIONS, STARTS_WITHIN, Server, free_port

PROGRAMS = ("pushpin", "zurl", "condure")
INTERNAL = Path("/usr/lib/pushpin/internal.conf")
DEBIANS_ZURL = "ipc:///var/run/zurl/"
"""Where Debian's internal configuration expects a zurl that runs as a service of the machine."""

CONFIGURATION = """
[global]
include={folder}/internal.conf
rundir={folder}
ipc_prefix=bench-

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={folder}
log_level=1
client_maxconn={connections}

[proxy]
routesfile=routes

[handler]
push_in_spec=ipc://{{rundir}}/{{ipc_prefix}}push-in
push_in_sub_specs=
push_in_http_addr=127.0.0.1
push_in_http_port={publish_port}
command_spec=ipc://{{rundir}}/{{ipc_prefix}}command
message_rate=0
message_hwm=1000000
"""


def missing() -> str:
    """Return the command that installs what is missing, or an empty string."""
    return "" if all(map(shutil.which, PROGRAMS)) and INTERNAL.exists() else "apt-get install pushpin zurl"


def version() -> str:
    """Return the versions of pushpin and of its two helpers."""
    return ", ".join(f"{program} {_output(program, '--version').split()[-1]}" for program in PROGRAMS)


def start(folder: Path, key: str, keepalive: int) -> Server:
    """Start pushpin with its services, and gunicorn with the application."""
    folder = Path(tempfile.mkdtemp(prefix="pushpin-", dir=folder))  # no socket of an earlier start
    port, publish_port, application_port = free_port(), free_port(), free_port()
    (folder / "internal.conf").write_text(internal_configuration(INTERNAL.read_text()))
    (folder / "pushpin.conf").write_text(
        CONFIGURATION.format(folder=folder, port=port, publish_port=publish_port, connections=CONNECTIONS)
    )
    (folder / "routes").write_text(f"* 127.0.0.1:{application_port}\n")
    options = {"bind": f"127.0.0.1:{application_port}", "worker-class": "gevent", "keep-alive": 75, "backlog": 2048}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        *flags,
        "--no-control-socket",
        "benchmarks.pushpin_host:application()",
    ]
    pushpin = ["pushpin", f"--config={folder / 'pushpin.conf'}", "--merge-output"]
    env = {"BENCH_JWT_KEY": key, "BENCH_KEEPALIVE": str(keepalive), "BENCH_PUBLISH_PORT": str(publish_port)}
    server = Server(["sh", "-c", f"{shlex.join(gunicorn)} & exec {shlex.join(pushpin)}"], folder, env, port=port)
    try:
        _wait_until_answered(server)
    except BaseException:
        server.kill()
        raise
    return server


def internal_configuration(debians: str) -> str:
    """Return pushpin's internal configuration with the sockets of the zurl that pushpin itself starts."""
    return debians.replace(DEBIANS_ZURL, "ipc://{rundir}/{ipc_prefix}")


def _wait_until_answered(server: Server) -> None:
    """Return when a request reaches the application: condure accepts connections before the others are ready."""
    until = time.monotonic() + STARTS_WITHIN
    while not _answers(server):
        if time.monotonic() > until:
            raise RuntimeError(f"pushpin did not start:\n{server.log()}")
        time.sleep(0.05)


def _answers(server: Server) -> bool:
    """Return whether a request is answered at once; pushpin forgets one that comes while it starts."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=1)
    try:
        connection.request("GET", "/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "unknown"
