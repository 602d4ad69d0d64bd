"""What a proxy must not let through, tested with a service that echoes every request.

with echo() as port, Nginx(folder, port) as proxy:
    revealed_metrics(proxy.url)     spellings of the metrics' path that got through
    believed_lies(proxy.url)        headers of a client that arrived as if they were the proxy's
"""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .curl import Curl

METRICS = (
    "/api/sync/metrics",
    "/api/sync/metrics/",
    "//api/sync//metrics",
    "/api/%73ync/%6Detrics",
    "/api/sync%2Fmetrics",
    "/x/../api/./sync/metrics",
)
LIES = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "SCRIPT_NAME": "/api"}


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers every path with the headers that it was sent."""

    def do_GET(self) -> None:
        """Send the headers back."""
        body = json.dumps(dict(self.headers.items())).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def echo() -> Iterator[int]:
    """Run the service that echoes and yield its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def revealed_metrics(url: str) -> list[str]:
    """Return the spellings of the metrics' path that reached the service."""
    return [path for path in METRICS if _status(url + path) == 200]


def believed_lies(url: str) -> list[str]:
    """Return the headers of a client that reached the service in place of the proxy's own."""
    headers = [word for name, value in LIES.items() for word in ("--header", f"{name}: {value}")]
    with Curl(f"{url}/api/sync/live", None, *headers) as answer:
        sent = {name.lower(): value for name, value in json.loads(answer.read_to_end()).items()}
    truth = {"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "https"}
    return [name for name in map(str.lower, LIES) if sent.get(name) != truth.get(name)]


def _status(url: str) -> int:
    with Curl(url, None, "--path-as-is") as answer:
        return answer.status
