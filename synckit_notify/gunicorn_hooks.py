"""For a gunicorn.conf.py: hooks that keep strangers from holding up the streams.

    from synckit_notify.gunicorn_hooks import post_request, post_worker_init, pre_request, when_ready

A gevent worker is one thread, and other greenlets run only while one waits. gunicorn's own reading does not wait while
bytes are there: one client that sends requests, or a body that nobody reads, without a pause would keep the worker to
itself, until the master replaced it and all its streams were cut. With these hooks a client that sends yields to the
others after each piece and before each request, a body must arrive in time, clients that do not read their answers are
disconnected, malformed requests do not fill the log, and at the end of its grace a stopping worker closes idle
connections without sending an answer that nobody asked for. `python -m benchmarks.abuse` shows the difference. The
hooks know gunicorn and nothing of Flask, and do no harm to threaded workers.
"""

import errno
import logging
import re
import socket
import time
from typing import Any

from gunicorn.http import parser
from gunicorn.http.unreader import SocketUnreader

from .runtime.wsgi_server import attach as attach

BODY_SECONDS = 30.0
SLOWEST_BODY = 16 * 1024
"""Bytes per second: a body has 30 s, and longer if it comes at least so fast. 8 MiB may take nine minutes."""

PIECE = 64 * 1024
"""How much is read at once. Of a body that no view wants gunicorn takes 1 KiB at a time and moves the rest of the piece
each time: with its own pieces of 1 MiB, refusing a body of 8 MiB took a quarter of a second."""

DEAF_SECONDS = 20
"""A client that takes no byte of its answer for so long is gone; it would keep its connection for ever."""

LINES_PER_SECOND = 10


class FairUnreader(SocketUnreader):  # type: ignore[misc]  # gunicorn is untyped
    """Reads what a client sends, in the place of gunicorn's own: in pieces, others in between, with a deadline."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._others_went = False
        self.give_time()

    def give_time(self) -> None:
        """Begin the time of a request's body, or of what comes after it."""
        self._until = time.monotonic() + BODY_SECONDS

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece; on a client that is too slow gunicorn closes, as if it had gone."""
        before, left = self.sock.gettimeout(), max(0.001, self._until - time.monotonic())
        self.sock.settimeout(min(before or left, left))
        try:
            data: bytes = self.sock.recv(min(size_hint or self.mxchunk, PIECE))
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the client is too slow") from None
        except BaseException as error:
            if type(error).__name__ == "GreenletExit":  # gunicorn would answer 500 to a connection that asks nothing
                raise ConnectionResetError(errno.ECONNRESET, "the worker waits no longer") from None
            raise
        finally:
            self.sock.settimeout(before)
            time.sleep(0)  # the others: under gevent what has come is now worked on in turn, and timers in between
            self._others_went = True
        self._until += len(data) / SLOWEST_BODY
        return data

    def let_others_go(self) -> None:
        """Wait for the others, unless they have had their turn since the last request."""
        if not self._others_went:
            time.sleep(0)
        self._others_went = False


class NamedListener:
    """What is left of a listener that a stopping worker has closed: gunicorn asks for its name with each connection."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        """Return the address."""
        return self._name


class RedactingFilter(logging.Filter):
    """Lets through few of the lines that clients can make gunicorn write, and nothing they sent: it may be a token."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        if not _is_of_a_client(record):
            return True
        if self._second != int(record.created):
            self._second, self._lines = int(record.created), 0
        self._lines += 1
        record.msg, record.exc_info = re.split("['\"]", str(record.msg))[0], None
        return self._lines <= LINES_PER_SECOND


def when_ready(server: Any) -> None:
    """Let the kernel disconnect clients that do not read; connections inherit it from their listener."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    for listener in server.LISTENERS:
        if option is not None and listener.sock.family != socket.AF_UNIX:
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, DEAF_SECONDS * 1000)


def post_worker_init(worker: Any) -> None:
    """Read fairly, and log sparingly, in a worker that has loaded its application."""
    parser.SocketUnreader = FairUnreader
    worker.log.error_log.addFilter(RedactingFilter())
    if worker.cfg.worker_class_str == "gevent":
        _answer_what_was_accepted(worker)


def pre_request(worker: Any, req: Any) -> None:
    """Let the others go first, since one piece may hold a hundred requests; then the body has its time."""
    req.unreader.let_others_go()
    req.unreader.give_time()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Give time to read what the view left of the body, and the next request."""
    req.unreader.give_time()


def _answer_what_was_accepted(worker: Any) -> None:
    """Connections that a busy worker had accepted when it was stopped were reset, as their listener had no name now."""
    handle = worker.handle
    names = {listener: NamedListener(listener) for listener in worker.sockets}
    worker.handle = lambda listener, client, address: handle(names[listener], client, address)


def _is_of_a_client(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return str(record.msg).startswith("Invalid request from ") or isinstance(error, TimeoutError)
