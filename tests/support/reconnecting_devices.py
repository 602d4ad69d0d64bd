"""Many devices that reconnect after every end, while the service or the proxy is reloaded.

    outcome = disturb(route, 10, proxy.reload)      or hang_up(route, 10), which reloads the service

Every device connects again by itself, 50 to 200 ms after its stream has ended, however that was. Meanwhile somebody
pushes through the proxy without a pause, so that no moment of refusal goes unseen.
"""

import contextlib
import random
import signal
import ssl
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .curl import PATIENCE_SECONDS, Curl
from .proxy_scenarios import Route
from .raw_client import CHANGED, CONNECTED
from .wait import until


@dataclass
class Device:
    """A device that listens; `ends` counts how streams ended: clean, cut, refused, or another status than 200."""

    route: Route
    user: str
    ends: Counter[str] = field(default_factory=Counter)
    connected_at: float = 0.0
    heard: int = 0
    over: bool = False

    def live(self) -> None:
        """Listen, and come back, until it is over."""
        while not self.over:
            end = self._listen()
            if not self.over:
                self.ends[end] += 1
                time.sleep(random.uniform(0.05, 0.2))

    def hears(self) -> bool:
        """Return whether a push reaches this device; one that is just between two streams is given more of them."""
        before = self.heard
        for _ in range(10):
            self.route.push(self.user)
            if until(lambda: self.heard > before, 1.0):
                return True
        return False

    def _listen(self) -> str:
        try:
            with self.route.subscribe(self.user) as stream:
                return self._follow(stream) if stream.status == 200 else str(stream.status)
        except (ConnectionError, TimeoutError):
            return "refused"

    def _follow(self, stream: Curl) -> str:
        try:
            while not self.over:
                with contextlib.suppress(TimeoutError):
                    self._take(stream.next_frame(0.1))
        except EOFError:
            return "clean"
        except ConnectionError:
            return "cut"
        return "left"

    def _take(self, frame: bytes) -> None:
        self.heard += frame == CHANGED
        if frame == CONNECTED:
            self.connected_at = time.monotonic()


@dataclass
class Pushes:
    """Pushes without a pause through the proxy: how many got which status, and the longest wait for one."""

    url: str
    answers: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0
    over: bool = False

    def send(self) -> None:
        """Push until it is over; a connection that fails counts as status 0."""
        context = ssl._create_unverified_context()
        while not self.over:
            began = time.monotonic()
            request = urllib.request.Request(self.url, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS, context=context) as answer:
                    self.answers[answer.status] += 1
            except OSError as refusal:
                self.answers[getattr(refusal, "code", 0)] += 1
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.01)


@dataclass
class Outcome:
    """The outcome: how streams ended, after how many seconds the last device was back, and which devices receive."""

    ends: Counter[str]
    back_after: float
    all_hear: bool
    pushes: Pushes


def hang_up(route: Route, devices: int) -> Outcome:
    """Reload the service, and wait until the old worker is gone."""
    old = {*route.server.workers()}

    def settled() -> bool:
        return bool(workers := {*route.server.workers()}) and not old & workers

    return disturb(route, devices, lambda: route.server.process.send_signal(signal.SIGHUP), settled)


def disturb(
    route: Route, devices: int, disturbance: Callable[[], object], settled: Callable[[], object] = lambda: True
) -> Outcome:
    """Do something while devices listen, wait until it has settled, and tell how it went."""
    crowd = [Device(route, f"device-{number}") for number in range(devices)]
    pushes = Pushes(f"{route.url}/push/notes/somebody")
    with _running([device.live for device in crowd] + [pushes.send], [*crowd, pushes]):
        assert until(lambda: all(device.connected_at for device in crowd), PATIENCE_SECONDS)
        began = time.monotonic()
        disturbance()
        assert until(settled, PATIENCE_SECONDS)
        all_hear = all(device.hears() for device in crowd)
    back_after = max(0.0, max(device.connected_at for device in crowd) - began)
    return Outcome(sum((device.ends for device in crowd), Counter()), back_after, all_hear, pushes)


@contextlib.contextmanager
def _running(works: list[Callable[[], None]], lives: list[Device | Pushes]) -> Iterator[None]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for life in lives:
            life.over = True
        for thread in threads:
            thread.join()
