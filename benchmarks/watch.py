"""What well-behaved clients notice of a server under attack: one loop that listens, pushes and requests /live.

    with Watch(server, key, streams, period) as watch:   three devices per user; the period of the keepalives
        watch.look(is_running, sample)                   listen; push and request /live now and then
        watch.delays()                                   how late everything was meanwhile, in seconds

A keepalive is due one period after the last bytes of its stream; how late it is, is the gap minus the period. What has
not come at the end counts as late as it is by then: a server that stands still must not look punctual.
"""

import json
import time
import urllib.request
from collections.abc import Callable, Sequence

from .load import Caller, Load, Stream, ignore, make_token
from .server import Server

DEVICES_EACH = 3
PUSH_EVERY, ASK_EVERY, SAMPLE_EVERY = 0.4, 0.1, 0.25
PUSHED_USER = "user-0"
LIVE = b"GET /api/sync/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class RepeatedRequest:
    """A request that is sent again and again, one at a time, and the seconds until it was answered."""

    def __init__(self, every: float, answers: int = 1) -> None:
        self.seconds: list[float] = []
        self._every = every
        self._answers = answers
        self._missing = 0
        self._asked_at = 0.0

    def due(self, now: float) -> bool:
        """Return whether to send it again; if so, it counts as sent."""
        if self._missing or now < self._asked_at + self._every:
            return False
        self._asked_at, self._missing = now, self._answers
        return True

    def answered(self) -> None:
        """Count an answer."""
        self._missing -= 1
        self.seconds.append(time.perf_counter() - self._asked_at)

    def overdue(self, now: float) -> list[float]:
        """Return for how long each missing answer has been awaited."""
        return [now - self._asked_at] * self._missing


class Watch:
    """All well-behaved streams and requests; a context manager that closes them."""

    def __init__(self, server: Server, key: str, streams: int, period: float) -> None:
        self._period = period
        self._late: list[float] = []
        self._pushes = RepeatedRequest(PUSH_EVERY, DEVICES_EACH)
        self._requests = RepeatedRequest(ASK_EVERY)
        self._received_at: dict[Stream, float] = {}
        self._load = Load(server.port, key, self._push)
        self._token = make_token(key, PUSHED_USER)
        self._device = register_device(server.port, self._token)
        users = [f"user-{n}" for n in range(-(-streams // DEVICES_EACH))]
        self._load.open(self._load.requests(users, DEVICES_EACH), self._changed, self._kept_alive)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self._load.__exit__(*error)

    def look(self, is_running: Callable[[], bool], sample: Callable[[], None] = ignore) -> None:
        """Listen, push and request while `is_running`; raises RuntimeError or OSError if a stream ends."""
        for seconds in (self._late, self._pushes.seconds, self._requests.seconds):
            seconds.clear()
        sample_at = 0.0
        while is_running():
            now = time.perf_counter()
            if self._pushes.due(now):
                self._load.push(PUSHED_USER)
            if self._requests.due(now):
                self._load.call(LIVE, self._answered)
            if now >= sample_at:
                sample()
                sample_at = now + SAMPLE_EVERY
            self._load.poll(0.02)

    def delays(self) -> dict[str, Sequence[float]]:
        """Return all delays of the last `look`, in seconds."""
        now = time.perf_counter()
        overdue = [late for at in self._received_at.values() if (late := now - at - self._period) > 0]
        return {
            "keepalive": self._late + overdue,
            "push": self._pushes.seconds + self._pushes.overdue(now),
            "live": self._requests.seconds + self._requests.overdue(now),
        }

    def _changed(self, stream: Stream, frames: int) -> None:
        self._received_at[stream] = time.perf_counter()
        self._pushes.answered()

    def _kept_alive(self, stream: Stream) -> None:
        now = time.perf_counter()
        if stream in self._received_at:
            self._late.append(max(0.0, now - self._received_at[stream] - self._period))
        self._received_at[stream] = now

    def _answered(self, caller: Caller, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"/live answered {answer!r}")
        self._requests.answered()

    def _push(self, user: str) -> bytes:
        return backend_push(self._token, self._device)


def backend_push(token: str, device: str) -> bytes:
    """Return a push of one change to the reference backend."""
    change = {"table": "t", "op": "INSERT", "row_id": "1", "timestamp": "2026-01-01T00:00:00Z", "data": "x"}
    body = json.dumps({"device_id": device, "changes": [change]})
    head = f"POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Bearer {token}\r\n\r\n{body}".encode()


def register_device(port: int, token: str) -> str:
    """Register a device at the reference backend, which only pushes; return its id."""
    body = json.dumps({"device_name": "pusher", "platform": "linux"}).encode()
    url = f"http://127.0.0.1:{port}/api/sync/devices"
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["id"])
