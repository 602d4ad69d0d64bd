"""The engine for the processes of one user on one machine: Unix datagram sockets in a folder, without a server.

    publish ── LocalSender ── one socket for each peer ──▶ its socket in the folder ── pump ── Listener

A process that listens binds one socket, and the others find it in the folder. The pump, a native thread, empties it, so
that a busy hub (gevent's event loop) fills no queue. While the pump holds enough, messages wait in the kernel and at
their senders. A socket that was removed is noticed within seconds and bound again, with a Gap.
"""

import os
import socket
import threading
from _socket import socket as KernelSocket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from ..runtime.gevent_compat import kernel_socketpair, native_sleep, start_native_thread
from .engine import ConnectionLost, Signal
from .listener import DEFAULT_TIMING, Echo, Timing
from .local_folder import FolderRefused, LocalFolder
from .local_sender import MAX_DATAGRAM_BYTES, SEPARATOR, LocalSender
from .pubsub import PubSubBroker
from .sender import LIMIT

CLOSING_SECONDS = 1.0
"""How long the end of a process waits for peers that do not take their messages; then it leaves each a mark."""

MAX_RECEIVED = 500
"""Datagrams that the pump holds: 16 MB at the very most."""

PUMP_PAUSE_SECONDS = 0.01

TIMING = DEFAULT_TIMING._replace(ping=1.0)
"""A ping only looks at the folder: at its mode, for our own socket, and for the mark of a gap."""


class LocalEngine:
    """Where the sockets of one namespace are; `own` is the name of this process's one while it listens."""

    name = "local"
    is_instant = True
    deaf_warning: str | None = None
    queue_usage = 0.0

    def __init__(self, url: str, namespace: str) -> None:
        self.folder = LocalFolder.of_url(url, namespace)
        self.own: str | None = None
        self._namespace = namespace

    def describe(self) -> str:
        """Return the folder and the namespace."""
        return f"local sockets in {self.folder.path}, namespace {self._namespace}"

    def connect(self) -> "LocalConnection":
        """Bind a new socket and return it; raises ConnectionLost."""
        try:
            self.folder.prepare()
            self.folder.remove_dead()
            return LocalConnection(self)
        except FolderRefused as error:
            self.folder.report(error)
            raise
        except (OSError, RuntimeError) as error:
            raise ConnectionLost(f"a socket in {self.folder.path} cannot be opened: {error}") from error


def make_broker(url: str, namespace: str, *, timing: Timing | None = None, limit: int = LIMIT) -> PubSubBroker:
    """Return a new broker for the processes of this user on this machine; raises ConfigurationError."""

    def make_sender(engine: LocalEngine, token: str, echo: Echo, timing: Timing, limit: int) -> LocalSender:
        return LocalSender(engine.folder, lambda: engine.own, token, probe_sent=echo.sent, limit=limit)

    broker = PubSubBroker(LocalEngine(url, namespace), timing=timing or TIMING, limit=limit, make_sender=make_sender)
    broker.closing_seconds = CLOSING_SECONDS
    return broker


class LocalConnection:
    """A bound socket, the pump that empties it, and what was received."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._path = engine.folder.new_socket()
        self._signals: deque[Signal] = deque()
        self._received: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._closed = False
        self._waiting_thread: int | None = None
        self._socket = KernelSocket(socket.AF_UNIX, socket.SOCK_DGRAM)
        reader, self._waker = kernel_socketpair()
        self._wakeup = socket.socket(fileno=reader.detach())
        try:
            self._socket.bind(str(self._path))
            self._path.chmod(0o660 if engine.folder.check() else 0o600)
            _close_in_children(self._socket)
            start_native_thread(self._pump)
        except BaseException:
            self._end_pump()
            self.close()
            raise
        engine.own = self._path.name

    def subscribe(self) -> None:
        """Only confirm: whoever looks into the folder sees the socket already."""
        self._signals.append(Signal.SUBSCRIBED)

    def ping(self) -> None:
        """Look whether the socket is still in a safe folder, and whether a process left the mark of a gap."""
        try:
            self._engine.folder.check()
            os.lstat(self._path)
        except OSError as error:
            raise ConnectionLost(f"the socket {self._path} was removed") from error
        if self._engine.folder.take_mark(self._path.name):
            self._signals.append(Signal.GAP)
        self._signals.append(Signal.PONG)

    def wait(self, seconds: float) -> bytes | Signal | None:
        """Return the next message or signal."""
        self._waiting_thread = threading.get_ident()
        while not self._closed:
            if self._signals:
                return self._signals.popleft()
            if self._messages:
                return self._messages.popleft()
            if self._received:
                self._messages.extend(self._received.popleft().split(SEPARATOR))
                continue
            try:
                self._wakeup.settimeout(max(0.0, seconds))
                self._wakeup.recv(MAX_RECEIVED)
            except (TimeoutError, BlockingIOError):
                if not self._received:
                    return None
            except OSError:
                break
        raise ConnectionLost("the socket is closed")

    def publish(self, messages: Sequence[bytes]) -> None:
        """Refuse: LocalSender sends, to each peer by a socket of its own."""
        raise ConnectionLost("this socket only receives")

    def close(self) -> None:
        """Remove the socket from the folder, and end the pump and a waiting read."""
        if not self._closed:
            self._closed = True
            if self._engine.own == self._path.name:
                self._engine.own = None
            self._engine.folder.remove(self._path.name)
            for each in (self._socket, self._wakeup):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        if self._waiting_thread in (None, threading.get_ident()):  # nobody waits
            self._wakeup.close()

    def _pump(self) -> None:
        """Move datagrams from the socket into memory. In a native thread: nothing here may be patched by gevent."""
        try:
            while not self._closed:
                if data := self._socket.recv(MAX_DATAGRAM_BYTES):
                    self._received.append(data)
                    with suppress(OSError):  # enough bytes wait there, or the reader is closed
                        self._waker.send(b".")
                while len(self._received) >= MAX_RECEIVED and not self._closed:
                    native_sleep(PUMP_PAUSE_SECONDS)
        except OSError:
            pass  # the listener notices that its probe does not come back
        finally:
            self._end_pump()

    def _end_pump(self) -> None:
        _listening.discard(self._socket)
        self._socket.close()
        self._waker.close()


_listening: set[KernelSocket] = set()
"""The sockets that a forked child closes: otherwise it would keep them alive after this process has ended."""


def _close_in_children(sock: KernelSocket) -> None:
    _listening.add(sock)
    _register_fork_hook()


@cache
def _register_fork_hook() -> None:
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    while _listening:
        _listening.pop().close()
