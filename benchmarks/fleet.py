"""A fleet of devices in one thread: each has a real socket, its own token, and the rules of the SDK (`Lifecycle`).

    with Fleet(port, key, 10_000) as fleet:
        fleet.open()                      connect all, a few at a time
        fleet.forget_the_past()           from here on attempts, answers and times are counted
        fleet.run_until(condition, 60)    read, and connect again when the SDK would
        fleet.lose_network()              all connections end, and every attempt fails until has_network is True again

A reconnect takes a seventh of the processor time here that it takes in the server.
"""

import heapq
import math
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

from synckit_notify import sse
from synckit_notify.client.connection import LIMITS
from synckit_notify.client.lifecycle import Action, Lifecycle
from synckit_notify.client.schedule import RetryPolicy

from .load import AT_ONCE, SOURCES, subscription

DEVICES_EACH = 3
AGE_SECONDS = 3600.0
"""The age that the SDK sees of the first streams. After a short stream a device would return earlier."""

REST_SECONDS = 0.005
"""Between two looks at the sockets, so that one look serves several devices."""

_BIND_ADDRESS_NO_PORT = 24  # ip(7); the port is chosen at connect, by both addresses
_CONNECTED = sse.Comment("connected")
_COMMENTS = {f": {text}".encode(): sse.Comment(text) for text in ("connected", "keepalive", "bye draining")}
_READ = 4096
_TURN_SECONDS = 0.05


class Device:
    """One device: what the SDK remembers, the current connection, and what happened since the past was forgotten."""

    __slots__ = ("attempts", "back_at", "head", "hit", "life", "number", "request", "sock", "started_at", "unsent")

    def __init__(self, number: int, request: bytes) -> None:
        self.number = number
        self.request = request
        self.life = Lifecycle(lambda state, reason: None, policy=RetryPolicy(), random=random.random)
        self.sock: socket.socket | None = None
        self.head: bytes | None = b""
        """The beginning of the answer; None when its head is complete."""
        self.unsent = b""
        self.started_at = 0.0
        self.attempts = 0
        self.hit = False
        """Whether it lost its stream, or had none when the past was forgotten."""
        self.back_at: float | None = None
        """When the current stream received `: connected`; None while there is no stream."""


class Fleet:
    """All devices; a context manager that closes their connections. Times are seconds of the monotonic clock."""

    def __init__(self, port: int, key: str, devices: int) -> None:
        self.devices = [
            Device(n, subscription(port, key, str(n // DEVICES_EACH), n % DEVICES_EACH)) for n in range(devices)
        ]
        self.open_streams = 0
        self.changes: list[tuple[float, int]] = []
        """Every moment at which a stream opened (1) or ended (-1)."""
        self.failures: Counter[str] = Counter()
        """Attempts that failed, by status or error."""
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._of_descriptor: dict[int, Device] = {}
        self._due: list[tuple[float, int]] = []
        self._look_at = 0.0
        self.has_network = True
        """Whether attempts reach the server."""
        self._age = AGE_SECONDS

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for device in self._of_descriptor.values():
            if device.sock is not None:
                device.sock.close()
        self._epoll.close()

    def open(self) -> None:
        """Connect all devices, at most `AT_ONCE` at a time; raises RuntimeError if one is refused."""
        heard_at, begun = time.monotonic(), 0
        while self.open_streams < len(self.devices):
            before = self.open_streams
            while begun < len(self.devices) and begun - self.open_streams < AT_ONCE:
                self._connect(self.devices[begun])
                begun += 1
            self._turn()
            heard_at = time.monotonic() if self.open_streams > before else heard_at
            if self.failures or time.monotonic() > heard_at + (LIMITS.read or math.inf):
                raise RuntimeError(f"{len(self.devices) - self.open_streams} devices got no stream: {self.failures}")
        self._age = 0.0

    def forget_the_past(self) -> None:
        """Begin to count attempts, failures and changes."""
        self.changes.clear()
        self.failures.clear()
        for device in self.devices:
            device.attempts, device.hit = 0, device.back_at is None

    def quiet_since(self) -> float:
        """Return when a stream last opened or ended; minus infinity if none did."""
        return self.changes[-1][0] if self.changes else -math.inf

    def run_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let the devices live until a condition holds, at most so long."""
        until = time.monotonic() + seconds
        while not condition() and time.monotonic() < until:
            self._turn()

    def lose_network(self) -> None:
        """End all connections now; attempts fail at once until `has_network` is set to True."""
        self.has_network = False
        for device in [device for device in self.devices if device.sock is not None]:
            device.life.ended("no network", time.monotonic())
            self._leave(device)

    def _turn(self) -> None:
        """Connect the devices whose time has come, read what has arrived, and give up attempts that take too long."""
        time.sleep(REST_SECONDS)
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._connect(self.devices[heapq.heappop(self._due)[1]])
        wait = min(self._due[0][0] - now, _TURN_SECONDS) if self._due else _TURN_SECONDS
        for descriptor, events in self._epoll.poll(max(0.0, wait)):
            device = self._of_descriptor[descriptor]
            if device.unsent and device.sock is not None:
                self._send(device, device.sock)
                self._epoll.modify(descriptor, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                self._read(device)
        self._give_up(time.monotonic())

    def _connect(self, device: Device) -> None:
        device.started_at = time.monotonic()
        device.attempts += 1
        if not self.has_network:
            self._fail(device, "no network", took=0.0)
            return
        sock = device.sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((SOURCES[device.number % len(SOURCES)], 0))
        sock.connect_ex(self._address)
        device.head, device.unsent = b"", device.request
        self._of_descriptor[sock.fileno()] = device
        self._send(device, sock)
        self._epoll.register(sock, select.EPOLLIN | (select.EPOLLOUT if device.unsent else 0))

    def _send(self, device: Device, sock: socket.socket) -> None:
        """Send the request, if the connection exists: on the loopback at once, unless the server's queue is full."""
        try:
            device.unsent = device.unsent[sock.send(device.unsent) :]
        except BlockingIOError:
            return
        except OSError:  # the next read returns the error
            device.unsent = b""

    def _read(self, device: Device) -> None:
        assert device.sock is not None
        now = time.monotonic()
        try:
            data = device.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(device, type(error).__name__)
            return
        if not data:
            self._lost(device, "closed without an answer")
            return
        if device.head is not None:
            head, end, data = (device.head + data).partition(b"\r\n\r\n")
            device.head = None if end else head
            if not end:
                return
            self._answered(device, head.decode("latin-1"), now)
        if device.life.action is Action.READ:
            self._hear(device, data, now)
        if device.life.action is not Action.READ:
            self._leave(device)

    def _answered(self, device: Device, head: str, now: float) -> None:
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if status != 200:
            self.failures[str(status)] += 1
        device.life.answered(status, headers, "", now - self._age, time.time())

    def _hear(self, device: Device, data: bytes, now: float) -> None:
        messages = list(_messages(data))
        if device.back_at is None and _CONNECTED in messages:
            device.back_at = now
            self._count(now, 1)
            now -= self._age
        device.life.received(messages, now)

    def _lost(self, device: Device, how: str) -> None:
        """Take the end of a connection that was not announced."""
        if device.back_at is not None:
            device.life.ended(how, time.monotonic())
            self._leave(device)
        else:
            self._fail(device, how, took=time.monotonic() - device.started_at)

    def _fail(self, device: Device, how: str, *, took: float) -> None:
        self.failures[how] += 1
        device.life.connect_failed(how, time.monotonic(), took=took)
        self._leave(device)

    def _leave(self, device: Device) -> None:
        """Close a connection, and note when the SDK connects again."""
        now = time.monotonic()
        if device.sock is not None:
            del self._of_descriptor[device.sock.fileno()]
            device.sock.close()
            device.sock = None
        if device.back_at is not None:
            device.back_at, device.hit = None, True
            self._count(now, -1)
        if device.life.action is Action.POLL:  # after a slow failure the SDK sends one request, and then it waits
            device.life.poll_failed("the server does not answer", now)
        if device.life.action is not Action.CONNECT:
            raise RuntimeError(f"a device must {device.life.action.name}, which this fleet cannot")
        heapq.heappush(self._due, (device.life.at, device.number))

    def _give_up(self, now: float) -> None:
        """Once a second, fail the attempts that have exceeded the SDK's time limits."""
        if now < self._look_at:
            return
        self._look_at = now + 1.0
        for device in self.devices:
            took, limit = now - device.started_at, LIMITS.connect if device.unsent else LIMITS.read
            if device.sock is not None and device.back_at is None and limit is not None and took > limit:
                self._fail(device, "no answer in time", took=took)

    def _count(self, now: float, change: int) -> None:
        self.open_streams += change
        self.changes.append((now, change))


def _messages(data: bytes) -> Iterator[sse.Message]:
    """Yield the messages of a part of a body; if a read cut one in two, its device would not come back."""
    for line in data.split(b"\n"):
        if line.startswith(b": "):
            yield _COMMENTS.get(line) or sse.Comment(line[2:].decode())
        elif line.startswith(b"retry: "):
            yield sse.Retry(int(line[7:]))
