"""The sender of the engine for one machine: a non-blocking socket and an outbox for each peer.

    put ──▶ every socket in the folder ──┬── sent at once
                                         └── its queue is full: the peer's Outbox ── a thread sends when it has room

A peer that is stopped delays no other, and costs at most an outbox of bounded size. A message is one line of a
datagram; what waited is sent as many lines in one. A process that ends leaves a mark for every peer that it still owes
messages, which that peer takes for a Gap.
"""

import errno
import select
import socket
import threading
import time
from _socket import socket as KernelSocket
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..runtime.logs import RateLimitedLog
from .base import Gap, Message
from .local_folder import FolderRefused, LocalFolder
from .messages import Content, Probe, encode
from .sender import BATCH, Outbox, start_thread

SEPARATOR = b"\n"
MAX_DATAGRAM_BYTES = 32_768

RETRY_SECONDS = 0.02
"""How long the thread waits for a peer that is full before it looks for others."""

LOOK_SECONDS = 0.25
"""How long the thread waits before it looks into the folder again, if that was not possible."""

NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)


class Peer:
    """A socket in the folder, connected, and the messages it had no room for."""

    __slots__ = ("outbox", "socket")

    def __init__(self, sock: KernelSocket, limit: int) -> None:
        self.socket = sock
        self.outbox = Outbox(limit)


class LocalSender:
    """Sends to every other process of a namespace; any thread may call any method.

    `own` returns the name of this process's socket, which gets only its probes.
    """

    def __init__(
        self,
        folder: LocalFolder,
        own: Callable[[], str | None],
        token: str,
        *,
        probe_sent: Callable[[float, float], None],
        limit: int,
    ) -> None:
        self._folder = folder
        self._own = own
        self._token = token
        self._probe_sent = probe_sent
        self._limit = limit
        self._lock = threading.Lock()
        self._peers: dict[str, Peer] = {}
        self._probe_waits = False
        self._unknown_peers = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._faults = RateLimitedLog()

    @property
    def pending(self) -> int:
        """Return how many messages wait, counted for each peer."""
        with self._lock:
            return sum(len(peer.outbox) for peer in self._peers.values()) + self._unknown_peers

    def put(self, content: Content) -> None:
        """Send now to every peer that has room, later to the others; returns at once and never raises."""
        with self._lock:
            if self._closed:
                return
            self._find_peers()
            if isinstance(content, Probe):
                self._probe_waits = True
                self._send_probe()
            else:
                self._send_to_all(content)
            self._ensure()

    def flush(self, seconds: float) -> bool:
        """Wait until every peer has taken its messages, for `seconds` at most; return whether all have."""
        until = time.monotonic() + seconds
        while self.pending and (left := until - time.monotonic()) > 0:
            self._send_what_waits(min(left, RETRY_SECONDS))
        return self.pending == 0

    def renew(self) -> None:
        """Do nothing: every peer is looked for at each message."""

    def retry(self) -> None:
        """Do nothing: nothing pauses here."""

    def close(self, seconds: float) -> None:
        """Wait as `flush` does, then leave a mark for every peer that messages still wait for."""
        self.flush(seconds)
        with self._lock:
            self._closed = True
            for name, peer in self._peers.items():
                if len(peer.outbox):
                    self._folder.mark(name)
                peer.socket.close()
            self._peers.clear()

    def _find_peers(self) -> None:
        """Connect to new sockets and forget removed ones. A process that cannot look owes everybody a Gap."""
        try:
            names = self._folder.sockets()
            for name in self._peers.keys() - names:
                self._forget(name)
            for name in names - self._peers.keys():
                self._connect(name)
        except FolderRefused as error:
            self._folder.report(error)
            for name in list(self._peers):
                self._forget(name)
            self._unknown_peers = True
        except OSError as error:
            self._faults.error(
                error.errno, "other processes cannot be reached now; they will be told to look: %s", error
            )
            self._unknown_peers = True
        else:
            if self._unknown_peers:
                self._unknown_peers = False
                self._send_to_all(Gap())

    def _connect(self, name: str) -> None:
        """Connect to a socket; one that nobody listens to is removed. Raises OSError if this process is the cause."""
        sock = KernelSocket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(str(self._folder.path / name))
        except OSError as error:
            sock.close()
            if error.errno == errno.ECONNREFUSED:
                self._folder.remove(name)
            elif error.errno in NO_MEMORY:
                raise
            # else it is closing, or not ready: it begins with a Gap
        else:
            self._peers[name] = Peer(sock, self._limit)

    def _forget(self, name: str) -> None:
        if (peer := self._peers.pop(name, None)) is not None:
            peer.socket.close()

    def _send_to_all(self, message: Message) -> None:
        data, own = encode(self._token, message), self._own()
        for name, peer in list(self._peers.items()):
            if name != own and (len(peer.outbox) or not self._send(name, peer, data)):
                peer.outbox.add(message)

    def _send_probe(self) -> None:
        name = self._own()
        peer = self._peers.get(name) if name is not None else None
        if name is None or peer is None:
            self._probe_waits = False  # a new socket gets a new probe
            return
        now = time.monotonic()
        if self._send(name, peer, encode(self._token, Probe())):
            self._probe_waits = False
            self._probe_sent(now, now)

    def _send(self, name: str, peer: Peer, data: bytes) -> bool:
        """Send a datagram; return False if the peer has no room. A peer that has ended needs none."""
        try:
            peer.socket.send(data)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in NO_MEMORY:
                return False
            self._forget(name)
            if error.errno == errno.ECONNREFUSED:
                self._folder.remove(name)
        return True

    def _ensure(self) -> None:
        """Start the thread if something waits and none runs."""
        if self._thread is None and self._has_work():
            self._thread = start_thread(self._run)

    def _has_work(self) -> bool:
        return self._probe_waits or self._unknown_peers or any(len(peer.outbox) for peer in self._peers.values())

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._has_work():
                    self._thread = None
                    return
            try:
                self._send_what_waits(LOOK_SECONDS if self._unknown_peers else RETRY_SECONDS)
            except Exception as error:
                self._faults.error(type(error).__name__, "sending to other processes failed", exc_info=error)
                time.sleep(RETRY_SECONDS)

    def _send_what_waits(self, seconds: float) -> None:
        """Wait until a peer has room, for `seconds` at most, and send what waits for those that have."""
        with self._lock:
            waiting = [(name, peer) for name, peer in self._peers.items() if len(peer.outbox)]
            numbers = [peer.socket.fileno() for _, peer in waiting]
        if numbers:
            poll = select.poll()
            for number in numbers:
                poll.register(number, select.POLLOUT)
            with suppress(OSError):
                poll.poll(seconds * 1000)
        else:
            time.sleep(seconds)
        with self._lock:
            if self._closed:
                return
            if self._unknown_peers:
                self._find_peers()
            if self._probe_waits:
                self._send_probe()
            for name, peer in waiting:
                self._send_outbox(name, peer)

    def _send_outbox(self, name: str, peer: Peer) -> None:
        while self._peers.get(name) is peer and len(peer.outbox):
            batch = peer.outbox.take(BATCH)
            for start, data in _datagrams(self._token, batch):
                if not self._send(name, peer, data):
                    for message in batch[start:]:
                        peer.outbox.add(message)
                    return


def _datagrams(token: str, batch: Sequence[Message]) -> list[tuple[int, bytes]]:
    """Return datagrams of many messages, each with the index of its first one."""
    datagrams: list[tuple[int, bytes]] = []
    start, size = 0, 0
    lines: list[bytes] = []
    for index, message in enumerate(batch):
        line = encode(token, message)
        if lines and size + len(line) >= MAX_DATAGRAM_BYTES:
            datagrams.append((start, SEPARATOR.join(lines)))
            start, lines, size = index, [], 0
        lines.append(line)
        size += len(line) + len(SEPARATOR)
    if lines:
        datagrams.append((start, SEPARATOR.join(lines)))
    return datagrams
