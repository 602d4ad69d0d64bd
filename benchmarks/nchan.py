"""nchan, the publish/subscribe module of nginx: one worker, no token check, no log.

The query parameter `user` is a subscriber's channel; a push has it in its path. nchan keeps 16 messages per channel, as
many as this project. The pings carry this project's comment, so that the generator counts them.
"""

import re
import shutil
import subprocess
from pathlib import Path

from .server import CONNECTIONS, Server, free_port

MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)

CONFIGURATION = """
load_module {module};
daemon off;
pid nginx.pid;
error_log stderr error;
worker_processes 1;
worker_rlimit_nofile {connections};
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    keepalive_timeout 75;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    nchan_message_buffer_length 16;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location = /api/sync/subscribe {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_user;
            nchan_subscriber_first_message newest;
            nchan_eventsource_ping_interval {keepalive}s;
            nchan_eventsource_ping_comment keepalive;
        }}
        location ~ ^/push/bench/(.+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
        }}
    }}
}}
"""


def missing() -> str:
    """Return the command that installs what is missing, or an empty string."""
    if shutil.which("nginx") and _module():
        return ""
    return "apt-get install nginx libnginx-mod-nchan"


def version() -> str:
    """Return the versions of nginx and of the package with nchan."""
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    query = ["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"]
    package = (
        subprocess.run(query, capture_output=True, text=True, check=False).stdout if shutil.which(query[0]) else ""
    )
    number = re.search(r"[\d.]+", nginx)
    return f"nginx {number[0] if number else 'unknown'}, nchan {package or 'unknown'}"


def start(folder: Path, keepalive: int) -> Server:
    """Start nginx with the module, its files in the folder."""
    port = free_port()
    text = CONFIGURATION.format(module=_module(), connections=CONNECTIONS, port=port, keepalive=keepalive)
    (folder / "nginx.conf").write_text(text)
    return Server(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], folder, {}, port=port)


def _module() -> Path | None:
    return next((path for path in MODULES if path.exists()), None)
