"""A server that answers each request with a script of bytes and pauses, valid or not."""

import contextlib
import socketserver
import time
from itertools import takewhile

Script = list[bytes | float]


def head(status: str, *headers: str) -> bytes:
    """Return the status line and headers of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def page(status: str, text: str, *headers: str) -> Script:
    """Return a complete answer with this body."""
    body = text.encode()
    return [head(status, f"Content-Length: {len(body)}", "Connection: close", *headers), body]


def chunk(frame: bytes) -> bytes:
    return f"{len(frame):x}\r\n".encode() + frame + b"\r\n"


END = chunk(b"")
STREAM = head(
    "200 OK",
    "Server: nginx",
    "Content-Type: text/event-stream",
    "Cache-Control: no-store, no-transform",
    "SyncKit-Keepalive: 1.2",
    "Transfer-Encoding: chunked",
)
HEALTH: dict[str, Script] = {
    "GET /api/sync/live": page("200 OK", '{"live": true}', "Server: nginx"),
    "GET /api/sync/ready": page("200 OK", '{"ready": true, "host": true, "broker": "memory", "streams": 0, "fill": 0}'),
}


class Scripted(socketserver.ThreadingTCPServer):
    """Answers each request with its script of bytes and pauses in seconds, then closes; `asked` records their heads."""

    daemon_threads = True

    def __init__(self, scripts: dict[str, Script]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.scripts = scripts
        self.asked: list[str] = []
        self.visitors = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(socketserver.StreamRequestHandler):
    """One connection to a Scripted server."""

    server: Scripted

    def handle(self) -> None:
        self.server.visitors += 1
        lines = [line.decode().strip() for line in takewhile(lambda line: line != b"\r\n", self.rfile)]
        if not lines:
            return
        self.server.asked.append("\n".join(lines))
        method, target, _ = lines[0].split()
        place = f"{method} {target.partition('?')[0]}"
        for step in self.server.scripts.get(place, self.server.scripts.get("*", [])):
            if isinstance(step, float):
                time.sleep(step)
                continue
            with contextlib.suppress(OSError):  # the doctor has heard enough
                self.wfile.write(step)
