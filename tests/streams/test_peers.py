"""The watch over the peers: which ones disconnected, and which stopped reading; without a server."""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from synckit_notify.streams.channel import ChannelKey, EndReason
from synckit_notify.streams.peers import PeerWatch, shutdown_read
from synckit_notify.streams.registry import Registry
from synckit_notify.streams.stream import STALL_SECONDS, Deadline, Stream

ALICE = ChannelKey("notes", "alice")


class Room:
    """Streams over real TCP connections, and the watch over them."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.left: list[tuple[Stream, EndReason]] = []
        self.watch = PeerWatch(lambda stream, how: self.left.append((stream, how)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]

    def connect(self, number: int | None = None) -> tuple[Stream, socket.socket, socket.socket]:
        """A watched stream, the server's socket, with this descriptor if one is given, and the client's."""
        client = socket.create_connection(self._listener.getsockname())
        server, _ = self._listener.accept()
        if number is not None:
            server = moved(server, number)
        self._sockets += [client, server]
        stream = Stream(self.registry.subscribe(ALICE), keepalive=30.0, ends=Deadline(float("inf"), EndReason.MAX_AGE))
        stream.socket = server
        self.watch.watch(stream)
        return stream, server, client

    def look(self, within: float = 1.0) -> list[tuple[Stream, EndReason]]:
        self.watch.wait(within)
        self.watch.look()
        return self.left

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


NUMBER = 700
"""A descriptor that nothing else in this process takes: the kernel gives the lowest free one."""


def moved(sock: socket.socket, number: int) -> socket.socket:
    """Return the socket with another descriptor."""
    with sock:
        os.dup2(sock.fileno(), number)
    return socket.socket(fileno=number)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    ("leave", "how"),
    [
        (socket.socket.close, EndReason.CLOSED),
        (lambda client: client.shutdown(socket.SHUT_WR), EndReason.CLOSED),
        (reset, EndReason.RESET),
    ],
)
def test_a_peer_that_disconnects_is_reported_once(room: Room, leave, how: EndReason) -> None:
    stream, _, client = room.connect()
    room.connect()
    leave(client)
    assert room.look() == [(stream, how)]
    assert room.look(0.01) == [(stream, how)]


def test_a_peer_that_disconnected_before_it_was_watched_is_reported(room: Room) -> None:
    stream, _, client = room.connect()
    room.watch.forget(stream)
    client.close()
    room.watch.watch(stream)
    assert room.look() == [(stream, EndReason.CLOSED)]


def test_unread_bytes_of_a_pipelining_client_do_not_hide_its_end(room: Room) -> None:
    stream, _, client = room.connect()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    assert room.look(0.01) == []
    client.close()
    assert [left for left, _ in room.look()] == [stream]


def test_an_event_of_a_reused_descriptor_never_reaches_the_next_stream(room: Room) -> None:
    stream, server, client = room.connect(NUMBER)
    client.close()
    room.watch.wait(1.0)
    room.watch.forget(stream)
    server.close()
    other, other_server, _ = room.connect(NUMBER)
    assert other_server.fileno() == NUMBER
    assert room.look(0.01) == [], "the old event must not reach the new stream"
    room.watch.forget(stream)  # late, by whoever had the number before
    room.watch.cut_stalled(0.0)
    assert len(room.watch) == 1
    assert other.subscriber.end is None


def test_waiting_ends_when_a_peer_disconnects_and_not_before(room: Room) -> None:
    _, _, client = room.connect()
    began = time.monotonic()
    threading.Timer(0.1, client.close).start()
    room.watch.wait(10.0)
    assert 0.05 < time.monotonic() - began < 5.0


def test_a_peer_that_stops_reading_is_cut_and_others_are_not(room: Room) -> None:
    stalled, _, stalled_client = room.connect()
    reading, _, reading_client = room.connect()
    for stream in (stalled, reading):
        stream.poll(100.0)
    reading.wait(until=100.0)  # its bytes were written
    room.watch.cut_stalled(100.0 + STALL_SECONDS)
    assert room.left == [], "not before its time"
    room.watch.cut_stalled(100.1 + STALL_SECONDS)
    assert room.left == [(stalled, EndReason.STALLED)]
    assert stalled_client.recv(1) == b""
    reading_client.setblocking(False)
    with pytest.raises(BlockingIOError):
        reading_client.recv(1)


def test_after_shutdown_read_written_bytes_still_arrive(room: Room) -> None:
    _, server, client = room.connect()
    shutdown_read(server)
    assert server.recv(1) == b""
    server.sendall(b"the last chunk")
    assert client.recv(100) == b"the last chunk"


def test_a_descriptor_that_is_reused_is_neither_cut_nor_forgotten(room: Room) -> None:
    """This happens if a server closes the connection and the body is kept: a database may get the descriptor next."""
    lost, server, _ = room.connect(NUMBER)
    lost.poll(100.0)
    server.close()
    ours, theirs = socket.socketpair()
    ours = moved(ours, NUMBER)
    with ours, theirs:
        room.watch.cut_stalled(100.1 + STALL_SECONDS)
        room.watch.forget(lost)
        ours.sendall(b"a query")
        assert theirs.recv(100) == b"a query"
    assert len(room.watch) == 0


def test_the_error_of_a_reset_is_cleared_so_that_servers_see_a_closed_connection(room: Room) -> None:
    _, server, client = room.connect()
    reset(client)
    assert [how for _, how in room.look()] == [EndReason.RESET]
    with pytest.raises(BrokenPipeError):
        server.sendall(b"the end of the body")
