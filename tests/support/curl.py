"""curl as a device: HTTP/1.1 or HTTP/2, through TLS or not, the bytes as they come, and its verdict on the end.

curl knows whether a body was complete, over HTTP/1.1 and HTTP/2 alike: it then exits with 0, and a stream that was cut
makes it exit with 18 (no last chunk) or 92 (stream reset). Certificates are not checked, since those of the tests are
signed by nobody.
"""

import os
import select
import subprocess
import time

from .raw_client import Frames

PATIENCE_SECONDS = 60.0
"""For anything that must come: on a busy machine a worker that starts keeps its first requests waiting for long."""

TIMES = "%{stderr}%{time_pretransfer} %{time_starttransfer}"


class Curl(Frames):
    """One open request; `status`, `version` and `headers` are there once it has been made."""

    def __init__(self, url: str, token: str | None = None, *options: str) -> None:
        super().__init__()
        command = ["curl", "--no-buffer", "--silent", "--insecure", "--include", "--write-out", TIMES, *options, url]
        if token:
            command += ["--header", f"Authorization: Bearer {token}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self._pipe = self.process.stdout.fileno()
        try:
            head = self._read_head(time.monotonic() + PATIENCE_SECONDS)
        except BaseException:
            self.close()
            raise
        lines = head.decode("latin-1").split("\r\n")
        self.version, status = lines[0].split()[:2]
        self.status = int(status)
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}

    def fileno(self) -> int:
        """For select: what has come."""
        return self._pipe

    def first_byte_seconds(self) -> float:
        """Return how long the answer took, from the request and not from the handshake on; known after the end."""
        assert self.process.stderr is not None
        asked, answered = map(float, self.process.stderr.read().split())
        return answered - asked

    def close(self) -> None:
        """Go away as a device does that is switched off by its user: the kernel closes the connection."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> "Curl":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_head(self, until: float) -> bytes:
        while b"\r\n\r\n" not in self.body:
            self.receive(until - time.monotonic())
            if self.ended_cleanly:
                break
        head, _, self.body = self.body.partition(b"\r\n\r\n")
        return head

    def receive(self, timeout: float) -> None:
        if timeout <= 0 or not select.select([self._pipe], [], [], timeout)[0]:
            raise TimeoutError("nothing came in time")
        data = os.read(self._pipe, 65536)
        self.body += data
        if not data:
            if self.process.wait():
                raise ConnectionError(f"the body was cut without its end: curl exits with {self.process.returncode}")
            self.ended_cleanly = True
