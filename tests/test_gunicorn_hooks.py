"""The hooks for gunicorn: fair reading, deadlines, listeners that drop clients which do not read, and a limited log."""

import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http import parser

from synckit_notify import gunicorn_hooks
from synckit_notify.gunicorn_hooks import FairUnreader, RedactingFilter

from .support.server import gunicorn
from .support.tokens import KEY
from .support.versions import needs

pytestmark = pytest.mark.thorough

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection: the client's and the server's."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_a_request_body_that_does_not_arrive_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_hooks, "BODY_SECONDS", 0.05)
    with pytest.raises(ConnectionResetError, match="too slow"):
        FairUnreader(pair[1]).chunk()
    assert pair[1].gettimeout() is None, "writing must wait as before"


def test_a_request_body_that_arrives_too_slowly_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_hooks, "BODY_SECONDS", 0.2)
    client, server = pair
    over = threading.Event()
    dripping = threading.Thread(target=lambda: [client.send(b"z") for _ in iter(lambda: over.wait(0.02), True)])
    dripping.start()
    began = time.monotonic()
    reader = FairUnreader(server)
    with pytest.raises(ConnectionResetError):
        while reader.chunk():
            pass
    assert 0.2 <= time.monotonic() - began < 1.0
    over.set()
    dripping.join()


def test_a_request_body_at_a_sufficient_rate_has_more_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_hooks, "BODY_SECONDS", 0.2)
    client, server = pair
    reader = FairUnreader(server)
    client.send(b"x" * gunicorn_hooks.SLOWEST_BODY)  # as much as earns another second
    assert len(reader.chunk(gunicorn_hooks.PIECE)) == gunicorn_hooks.SLOWEST_BODY
    time.sleep(0.3)
    client.send(b"y")
    assert reader.chunk() == b"y"


def test_a_shorter_timeout_of_gunicorn_is_kept(pair: Pair) -> None:
    pair[1].settimeout(0.05)
    with pytest.raises(ConnectionResetError):
        FairUnreader(pair[1]).chunk()
    assert pair[1].gettimeout() == 0.05


def test_a_read_returns_a_small_piece_however_much_is_requested(pair: Pair) -> None:
    client, server = pair
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * gunicorn_hooks.PIECE)
    client.send(b"x" * 2 * gunicorn_hooks.PIECE)
    assert len(FairUnreader(server).chunk(2**20)) <= gunicorn_hooks.PIECE


def test_each_request_yields_to_the_hub_once_also_if_several_arrive_in_one_piece(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(gunicorn_hooks.time, "sleep", pauses.append)
    client, server = pair
    client.send(b"three requests in one piece")
    reader = FairUnreader(server)
    reader.chunk()
    for request in range(3):
        gunicorn_hooks.pre_request(None, SimpleNamespace(unreader=reader))
        assert len(pauses) == 1 + request


def test_reading_a_body_yields_to_the_hub_after_each_piece(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(gunicorn_hooks.time, "sleep", pauses.append)
    client, server = pair
    reader = FairUnreader(server)
    for piece in range(5):
        client.send(b"x")
        reader.chunk()
        assert len(pauses) == 1 + piece


def test_a_client_that_does_not_read_its_answer_is_dropped_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gunicorn_hooks.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listening)]))
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == gunicorn_hooks.DEAF_SECONDS * 1000


def test_a_listener_on_a_unix_socket_is_not_changed() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        gunicorn_hooks.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listening)]))


def line(message: str, error: BaseException | None = None, second: float = 1000.0) -> logging.LogRecord:
    record = logging.LogRecord("gunicorn.error", logging.WARNING, "", 0, message, (), None)
    record.exc_info = None if error is None else (type(error), error, None)
    record.created = second
    return record


def test_malformed_requests_write_ten_lines_a_second() -> None:
    sparing = RedactingFilter()
    written = [sparing.filter(line("Invalid request from ip=127.0.0.1: x", second=1000 + n / 100)) for n in range(200)]
    assert [sum(written[:100]), sum(written[100:])] == [10, 10]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_log_does_not_contain_the_malformed_request(quote: str) -> None:
    record = line(f"Invalid request from ip=127.0.0.1: Invalid HTTP Header: {quote}Authorization Bearer abc{quote}")
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "Invalid request from ip=127.0.0.1: Invalid HTTP Header: "


def test_a_client_that_was_dropped_writes_no_traceback() -> None:
    record = line("Socket error processing request.", TimeoutError(110, "Connection timed out"))
    assert RedactingFilter().filter(record)
    assert record.exc_info is None


def test_other_log_lines_are_not_changed() -> None:
    sparing = RedactingFilter()
    records = [line("Error handling request 'x'", ValueError("the application's")) for _ in range(100)]
    assert all(sparing.filter(record) for record in records)
    assert records[0].getMessage() == "Error handling request 'x'"
    assert records[0].exc_info is not None


def test_a_connection_that_was_accepted_before_its_listener_was_closed_is_still_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`python -m benchmarks.soak` shows it: of a busy worker that is stopped, some requests were reset unanswered."""
    monkeypatch.setattr(parser, "SocketUnreader", FairUnreader)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        worker = SimpleNamespace(
            cfg=gevent_settings(),
            log=SimpleNamespace(error_log=logging.Logger("a worker's")),
            sockets=[listening],
            handle=lambda listener, client, peer: listener.getsockname(),  # as gunicorn's gevent worker begins
        )
        gunicorn_hooks.post_worker_init(worker)
    assert worker.handle(listening, None, None) == address


CONFIGURATION = """
from synckit_notify import gunicorn_hooks
from synckit_notify.gunicorn_hooks import post_request, post_worker_init, pre_request, when_ready
gunicorn_hooks.BODY_SECONDS = 0.3
keepalive = 60
"""

HALF_SENT = {
    b'POST /api/sync/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"email": ': b"400",
    b"PUT /api/sync/subscribe HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{": b"405",
    b"GET /api/sync/live HTTP/1.1\r\nHost: x": b"",
}
"""A body that a view reads, one that no view wants, a head; and the answer's status."""


@pytest.mark.parametrize("worker_class", ["gevent", pytest.param("gthread", marks=needs("gunicorn", "24.0"))])
def test_on_a_real_server_a_half_sent_request_frees_its_connection(tmp_path: Path, worker_class: str) -> None:
    configuration = tmp_path / "hooks.py"
    configuration.write_text(CONFIGURATION)
    env = {"SYNCKIT_JWT_KEY": KEY, "INSTANCE": str(tmp_path / "instance")}
    options = ("--config", str(configuration), "--threads", "4")
    with gunicorn(
        "tests.support.crashing_backend:create_app()", tmp_path, *options, worker_class=worker_class, env=env
    ) as server:
        for sent, status in HALF_SENT.items():
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
                client.sendall(sent)
                answer = b"".join(iter(lambda client=client: client.recv(65536), b""))
            assert answer[9:12] == status
        assert not server.tracebacks


def test_a_stopping_worker_sends_nothing_on_an_idle_connection(tmp_path: Path) -> None:
    """gunicorn's own 500, sent when its grace is over, would be taken for the answer to the next request."""
    configuration = tmp_path / "hooks.py"
    configuration.write_text(CONFIGURATION + "graceful_timeout = 1\nkeepalive = 30\ngunicorn_hooks.BODY_SECONDS = 30\n")
    env = {"SYNCKIT_JWT_KEY": KEY, "INSTANCE": str(tmp_path / "instance")}
    with (
        gunicorn(
            "tests.support.crashing_backend:create_app()", tmp_path, "--config", str(configuration), env=env
        ) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as client,
    ):
        client.sendall(b"GET /api/sync/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}\n") and (data := client.recv(65536)):
            answer += data
        server.process.send_signal(signal.SIGHUP)
        assert client.recv(65536) == b""
        assert not server.tracebacks


def gevent_settings() -> Config:
    settings = Config()
    settings.set("worker_class", "gevent")
    return settings


def worker_without(*parts: str) -> SimpleNamespace:
    """Return a gevent worker as the hooks see it, without some parts of gunicorn's."""
    error_log = logging.Logger("a worker's")
    log = SimpleNamespace(error_log=error_log, warning=error_log.warning)
    worker = SimpleNamespace(cfg=gevent_settings(), log=log, sockets=[], handle=lambda *_: None, LISTENERS=[])
    for part in parts:
        if part == "cfg.settings":
            worker.cfg = SimpleNamespace(worker_class_str="gevent")
        else:
            delattr(worker, part)
    return worker


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ((), []),
        (("handle",), ["connections that a stopping worker has accepted may be reset"]),
        (("sockets",), ["connections that a stopping worker has accepted may be reset"]),
        (("handle", "sockets"), ["connections that a stopping worker has accepted may be reset"]),
        (("cfg.settings",), ["each request reads them more slowly"]),
        (("sockets", "cfg.settings"), ["may be reset), worker.cfg.settings (each request reads them more slowly)"]),
    ],
)
def test_a_part_of_the_worker_that_is_missing_is_left_out_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], named: list[str]
) -> None:
    monkeypatch.setattr(parser, "SocketUnreader", parser.SocketUnreader)  # restored afterwards
    worker = worker_without(*parts)
    records: list[logging.LogRecord] = []
    worker.log.error_log.handle = records.append
    gunicorn_hooks.post_worker_init(worker)
    assert len(records) == len(named)
    assert all(sentence in record.getMessage() for sentence, record in zip(named, records, strict=True))
    assert parser.SocketUnreader is FairUnreader, "the other parts are still installed"


def test_a_master_without_its_list_of_listeners_warns_once_and_starts() -> None:
    server = worker_without("LISTENERS")
    records: list[logging.LogRecord] = []
    server.log.error_log.handle = records.append
    gunicorn_hooks.when_ready(server)
    (record,) = records
    assert "a client that does not read keeps its connection" in record.getMessage()


WITHOUT_THE_UNREADER = """
from gunicorn.http import parser, unreader
del unreader.SocketUnreader
from synckit_notify.gunicorn_hooks import post_request, post_worker_init, pre_request, when_ready
"""


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_on_a_gunicorn_that_reads_in_another_way_the_hooks_step_aside_with_one_warning(
    tmp_path: Path, worker_class: str
) -> None:
    configuration = tmp_path / "hooks.py"
    configuration.write_text(WITHOUT_THE_UNREADER)
    env = {"SYNCKIT_JWT_KEY": KEY, "INSTANCE": str(tmp_path / "instance")}
    options = ("--config", str(configuration), "--threads", "4")
    with gunicorn(
        "tests.support.crashing_backend:create_app()", tmp_path, *options, worker_class=worker_class, env=env
    ) as server:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
                client.sendall(b"GET /api/sync/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b"".join(iter(lambda client=client: client.recv(65536), b"")).startswith(b"HTTP/1.1 200")
        assert server.log.count("SocketUnreader") == 1
        assert "can delay all streams" in server.log
        assert not server.tracebacks
