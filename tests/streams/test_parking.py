"""Parked streams on TCP connections, without a server: what is written, how streams end, and which thread stays."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from synckit_notify import sse
from synckit_notify.runtime.background import Periodic
from synckit_notify.streams import parking
from synckit_notify.streams.channel import ChannelKey, EndReason
from synckit_notify.streams.parking import ParkedStream, Parking
from synckit_notify.streams.peers import PeerWatch
from synckit_notify.streams.registry import Registry
from synckit_notify.streams.stream import Deadline, Stream

from ..support.wait import until

ALICE = ChannelKey("notes", "alice")
KEEPALIVE_CHUNK = b"D\r\n: keepalive\n\n\r\n"
CHANGED_CHUNK = b"16\r\nevent: changed\ndata:\n\n\r\n"
NEVER = Deadline(float("inf"), EndReason.MAX_AGE)


class Garage:
    """A registry, its parking and the watch over the peers, wired as in a node."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.closed: list[Stream] = []
        self.peers = PeerWatch(self._gone, lambda stream: self.registry.wakeups.wake([stream]))
        self.parking = Parking(self.registry, self.peers, lambda stream: True, self._close)
        self._watch = Periodic("test-peers", 0.1, self.peers.look, lambda: bool(len(self.peers)), pause=self.peers.wait)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self.greenlets: list[threading.Thread] = []

    def park(self, *, keepalive: float = 30.0, ends: Deadline = NEVER, send_buffer: int | None = None) -> "Client":
        """Open a stream as a server would, up to where its thread waits or is over."""
        sock = socket.create_connection(self._listener.getsockname())
        server, _ = self._listener.accept()
        server.setblocking(False)
        if send_buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self._clients.append(sock)
        stream = ParkedStream(self.registry.subscribe(ALICE), keepalive=keepalive, ends=ends)
        stream.socket = server
        self.peers.watch(stream)
        self._watch.ensure()
        frames = self.parking.frames_then_park(stream, server)
        assert next(frames) == sse.CONNECTED
        thread = threading.Thread(target=self._go_on, args=(frames,), daemon=True)
        thread.start()
        until(lambda: stream.subscriber.stream is not None)
        self.greenlets.append(thread)
        return Client(stream, sock)

    def _go_on(self, frames: Iterator[bytes]) -> None:
        assert next(frames, None) is None

    def _gone(self, stream: Stream, how: EndReason) -> None:
        self.registry.end_one(stream.subscriber, how)

    def _close(self, streams: list[Stream]) -> None:
        for stream in streams:
            self.closed.append(stream)
            self.registry.release(stream.subscriber)
            self.parking.left()

    def shut(self) -> None:
        self.registry.end_all(EndReason.DRAINING)
        for client in self._clients:
            client.close()
        assert until(lambda: len(self.registry) == 0)
        for thread in self.greenlets:
            thread.join(5.0)
        self.registry.timer.join_idle()
        self._listener.close()


class Client:
    """The other end of a parked stream."""

    def __init__(self, stream: Stream, sock: socket.socket) -> None:
        self.stream = stream
        self.socket = sock
        sock.settimeout(5.0)

    def read(self, expected: int) -> bytes:
        data = b""
        while len(data) < expected and (more := self.socket.recv(expected - len(data))):
            data += more
        return data

    def read_to_end(self) -> bytes:
        data = b""
        while more := self.socket.recv(65536):
            data += more
        return data


@pytest.fixture
def garage() -> Iterator[Garage]:
    garage = Garage()
    yield garage
    garage.shut()


def test_a_push_is_written_as_one_chunk(garage: Garage) -> None:
    client = garage.park()
    garage.registry.deliver(ALICE)
    assert client.read(len(CHANGED_CHUNK)) == CHANGED_CHUNK


def test_pushes_at_once_are_joined_into_one_chunk(garage: Garage) -> None:
    client = garage.park()
    with garage.registry._lock:  # nobody is looked at in between
        for _ in range(20):
            garage.registry._wake(client.stream.subscriber.channel, None)
    joined = b"160\r\n" + sse.CHANGED * 16 + b"\r\n"
    assert client.read(len(joined)) == joined


def test_a_push_between_the_first_bytes_and_the_parking_is_written(garage: Garage) -> None:
    server, peer = socket.socketpair()
    with server, peer:
        server.setblocking(False)
        peer.settimeout(5.0)
        stream = ParkedStream(garage.registry.subscribe(ALICE), keepalive=30.0, ends=NEVER)
        frames = garage.parking.frames_then_park(stream, server)
        next(frames)
        garage.registry.deliver(ALICE)
        garage.greenlets.append(threading.Thread(target=garage._go_on, args=(frames,), daemon=True))
        garage.greenlets[-1].start()
        assert peer.recv(1000) == CHANGED_CHUNK


def test_without_a_timer_the_thread_that_writes_turns_the_wheel(garage: Garage) -> None:
    client = garage.park(keepalive=0.1)
    began = time.monotonic()
    assert client.read(3 * len(KEEPALIVE_CHUNK)) == KEEPALIVE_CHUNK * 3
    assert 0.25 < time.monotonic() - began < 2.5


@pytest.mark.parametrize("has_failed", [False, True])
def test_it_finds_the_due_streams_itself(garage: Garage, has_failed: bool) -> None:
    garage.registry.timer.runs = True  # as if its thread had died and nobody had noticed
    client = garage.park(keepalive=0.1)
    if has_failed:
        garage.registry.timer._fail(None)
    assert client.read(3 * len(KEEPALIVE_CHUNK)) == KEEPALIVE_CHUNK * 3


def test_the_timer_wakes_the_thread_that_writes(garage: Garage) -> None:
    client = garage.park(keepalive=0.1)
    garage.registry.timer.ensure()
    assert client.read(3 * len(KEEPALIVE_CHUNK)) == KEEPALIVE_CHUNK * 3


@pytest.mark.parametrize("reason", [EndReason.REVOKED, EndReason.TOKEN_EXPIRED, EndReason.MAX_AGE])
def test_an_ended_stream_gets_its_bye_and_the_last_chunk(garage: Garage, reason: EndReason) -> None:
    ends = NEVER if reason is EndReason.REVOKED else Deadline(time.monotonic() + 0.5, reason)
    client = garage.park(ends=ends)
    if reason is EndReason.REVOKED:
        garage.registry.end(ALICE, reason)
    farewell = f": bye {reason}\n\n".encode()
    assert client.read_to_end() == b"%X\r\n%b\r\n0\r\n\r\n" % (len(farewell), farewell)
    assert until(lambda: garage.closed == [client.stream])


def test_a_stream_that_opens_while_draining_is_never_parked(garage: Garage) -> None:
    stream = ParkedStream(garage.registry.subscribe(ALICE), keepalive=30.0, ends=NEVER)
    garage.registry.end_all(EndReason.DRAINING)
    server, peer = socket.socketpair()
    with server, peer:
        assert b"".join(garage.parking.frames_then_park(stream, server)).endswith(b": bye draining\n\n")
    garage.registry.release(stream.subscriber)


@pytest.mark.parametrize("leave", [socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR)])
def test_a_client_that_disconnects_is_released_at_once(garage: Garage, leave: Callable[[socket.socket], None]) -> None:
    client = garage.park()
    leave(client.socket)
    assert until(lambda: len(garage.registry) == 0, 0.5)
    assert client.stream.subscriber.end is EndReason.CLOSED


def test_what_does_not_fit_is_written_when_the_client_reads_again_and_nothing_is_cut(garage: Garage) -> None:
    slow = garage.park(send_buffer=2048)
    while not slow.stream.writing:
        garage.registry.deliver(ALICE)
        time.sleep(0.0005)
    quick = garage.park()
    garage.registry.deliver(ALICE)
    assert quick.read(len(CHANGED_CHUNK)) == CHANGED_CHUNK, "nobody else waits"
    garage.registry.end(ALICE, EndReason.REVOKED)
    body = slow.read_to_end()
    assert body.endswith(b": bye revoked\n\n\r\n0\r\n\r\n")
    frames = b"".join(_dechunked(body))
    assert frames == sse.CHANGED * (len(frames) // len(sse.CHANGED)) + b": bye revoked\n\n"


def test_a_client_that_stops_reading_is_disconnected(garage: Garage) -> None:
    client = garage.park(send_buffer=2048)
    while not client.stream.writing:
        garage.registry.deliver(ALICE)
        time.sleep(0.0005)
    garage.peers.cut_stalled(time.monotonic() + 0.2, patience=0.1)
    assert until(lambda: garage.closed == [client.stream])
    assert client.stream.subscriber.end is EndReason.STALLED


def test_a_stream_that_ends_twice_in_a_wave_is_closed_once(garage: Garage) -> None:
    client, other = garage.park(), garage.park()
    with garage.registry._lock:  # nobody is looked at in between
        garage.registry.wakeups.wake([client.stream, client.stream, other.stream])
        client.stream.subscriber.end = EndReason.REVOKED
        garage.registry.wakeups.wake([client.stream])
    assert client.read_to_end().endswith(b"0\r\n\r\n")
    garage.registry.deliver(ALICE)
    assert other.read(len(CHANGED_CHUNK)) == CHANGED_CHUNK
    assert garage.closed == [client.stream]


def test_a_stream_that_fails_in_a_wave_affects_no_other(
    garage: Garage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clients = [garage.park() for _ in range(3)]
    turn = Stream.advance

    def failing(stream: Stream, frames: bytes, now: float) -> bytes:
        if frames and stream is clients[1].stream:
            raise RuntimeError("one of its own")
        return turn(stream, frames, now)

    monkeypatch.setattr(Stream, "advance", failing)
    garage.registry.deliver(ALICE)
    for client in (clients[0], clients[2]):
        assert client.read(len(CHANGED_CHUNK)) == CHANGED_CHUNK
        assert until(lambda client=client: not client.stream.writing)
    assert clients[1].read_to_end() == b"", "cut, so that the device connects again and pulls"
    assert until(lambda: garage.closed == [clients[1].stream])
    logged = lambda: [str(record.exc_info[1]) for record in caplog.records if record.exc_info]  # noqa: E731
    assert until(lambda: logged() == ["one of its own"]), logged()


def test_the_server_keeps_a_socket_whose_writes_fail_in_silence_and_no_descriptor(garage: Garage) -> None:
    server, peer = socket.socketpair()
    with peer:
        stream = ParkedStream(garage.registry.subscribe(ALICE), keepalive=30.0, ends=NEVER)
        frames = garage.parking.frames_then_park(stream, server)
        next(frames)
        garage.greenlets.append(threading.Thread(target=garage._go_on, args=(frames,), daemon=True))
        garage.greenlets[-1].start()
        assert until(lambda: stream.subscriber.stream is not None)
        with pytest.raises(BrokenPipeError):
            server.sendall(b"0\r\n\r\n")
        server.close()
        garage.registry.deliver(ALICE)
        peer.settimeout(5.0)
        assert peer.recv(1000) == CHANGED_CHUNK


def test_one_thread_of_the_server_stays_as_long_as_any_stream_does(garage: Garage) -> None:
    clients = [garage.park() for _ in range(5)]
    first = garage.greenlets[0]
    assert until(lambda: sum(thread.is_alive() for thread in garage.greenlets) == 1)
    assert first.is_alive()
    clients[0].socket.close()
    assert until(lambda: len(garage.registry) == 4)
    assert first.is_alive(), "the worker must wait for the others' last bytes"
    for client in clients:
        client.socket.close()
    first.join(5.0)
    assert not first.is_alive()


def test_a_later_stream_takes_over_the_thread_that_stays(garage: Garage, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its line in the server's log does not wait for the end of all streams."""
    monkeypatch.setattr(parking, "HANDOVER_SECONDS", 0.0)
    garage.park(), garage.park()
    first, second = garage.greenlets
    first.join(5.0)
    assert (first.is_alive(), second.is_alive()) == (False, True)


def _dechunked(body: bytes) -> Iterator[bytes]:
    while body:
        line, _, rest = body.partition(b"\r\n")
        yield rest[: int(line, 16)]
        body = rest[int(line, 16) + 2 :]
