"""Hooks for a gunicorn.conf.py: no client can delay the streams of the others.

    from synckit_notify.gunicorn_hooks import post_request, post_worker_init, pre_request, when_ready

A gevent worker is one thread, and other greenlets run only while one waits. gunicorn does not wait while bytes are
there to read: a client that sends requests, or a body that no view reads, without a pause would occupy the worker until
the master kills it, and all its streams with it. With these hooks

- the worker switches to other greenlets after each piece it reads and before each request;
- a request body must arrive in time, and clients that do not read their answers are disconnected;
- malformed requests do not fill the log;
- gunicorn's settings are read once in a worker;
- a stopping worker closes idle connections at the end of its grace period without an unrequested answer.

They replace gunicorn's SocketUnreader (with FairUnreader), wrap the worker's `handle`, and keep the values of its `cfg`
as attributes. A part that a gunicorn does not have is left out, and one warning says which part is missing and what
that means. `python -m benchmarks.abuse` shows the difference. They know gunicorn and nothing of Flask, and do no harm
to threaded workers.
"""

import errno
import logging
import re
import socket
import time
from typing import Any

import gunicorn
from gunicorn.http import parser

from .runtime.wsgi_server import attach as attach

try:
    from gunicorn.http.unreader import SocketUnreader
except ImportError:  # a gunicorn that reads in another way: `post_worker_init` warns
    SocketUnreader = None

BODY_SECONDS = 30.0
SLOWEST_BODY = 16 * 1024
"""Bytes per second: a body has 30 s, and more time while it arrives at this rate. 8 MiB may take nine minutes."""

PIECE = 64 * 1024
"""Bytes to read at once. gunicorn skips an unread body in steps of 1 KiB and copies the rest of the piece at each step:
with its own pieces of 1 MiB, skipping a body of 8 MiB took a quarter of a second."""

DEAF_SECONDS = 20
"""A client that reads no byte of its answer for this long is disconnected; it could hold its connection for ever."""

SMALL_PIECE = 8 * 1024
"""Bytes to read at once where gunicorn does not say how many it wants, as in a request's head."""

LINES_PER_SECOND = 10

_UNREADER = "gunicorn.http.unreader.SocketUnreader (a client that sends without a pause can delay all streams)"
_HANDLE = "worker.sockets (connections that a stopping worker has accepted may be reset)"
_SETTINGS = "worker.cfg.settings (each request reads them more slowly)"
_LISTENERS = "server.LISTENERS (a client that does not read keeps its connection)"


class FairUnreader(SocketUnreader or object):  # type: ignore[misc]  # gunicorn is untyped
    """Replaces gunicorn's own: reads in pieces, switches to other greenlets in between, and has a deadline."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.sock = sock
        self._others_went = False
        self.give_time()

    def give_time(self) -> None:
        """Start the clock for a request's body, or for what comes after it."""
        self._until = time.monotonic() + BODY_SECONDS

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece; gunicorn closes the connection of a client that is too slow, as if it had left."""
        before, left = self.sock.gettimeout(), max(0.001, self._until - time.monotonic())
        self.sock.settimeout(min(before or left, left))
        try:
            data: bytes = self.sock.recv(min(size_hint or SMALL_PIECE, PIECE))
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the client is too slow") from None
        except BaseException as error:
            if type(error).__name__ == "GreenletExit":  # gunicorn would send a 500 without a request
                raise ConnectionResetError(errno.ECONNRESET, "the worker is stopping") from None
            raise
        finally:
            self.sock.settimeout(before)
            time.sleep(0)  # under gevent: run the greenlets that are ready, and timers
            self._others_went = True
        self._until += len(data) / SLOWEST_BODY
        return data

    def let_others_go(self) -> None:
        """Switch to the other greenlets, unless that was done since the last request."""
        if not self._others_went:
            time.sleep(0)
        self._others_went = False


class NamedListener:
    """Keeps the address of a listener that a stopping worker closes: gunicorn asks for it with each connection."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        """Return the address."""
        return self._name


class RedactingFilter(logging.Filter):
    """Limits the log lines that clients can cause, and removes what they sent, which may be a token."""

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
    """Make the kernel disconnect clients that do not read; connections inherit the option from their listener."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    listeners = getattr(server, "LISTENERS", None)
    if listeners is None:
        _warn_of_missing(server, [_LISTENERS])
    for listener in listeners or []:
        if option is not None and listener.sock.family != socket.AF_UNIX:
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, DEAF_SECONDS * 1000)


def post_worker_init(worker: Any) -> None:
    """Prepare a worker that has loaded its application: FairUnreader, RedactingFilter, settings that are read once."""
    missing = []
    if hasattr(SocketUnreader, "chunk") and hasattr(parser, "SocketUnreader"):
        parser.SocketUnreader = FairUnreader
    else:
        missing.append(_UNREADER)
    if worker.cfg.worker_class_str == "gevent":
        if hasattr(worker, "handle") and hasattr(worker, "sockets"):
            _answer_what_was_accepted(worker)
        else:
            missing.append(_HANDLE)
    if not _read_settings_once(worker.cfg):
        missing.append(_SETTINGS)
    if missing:
        _warn_of_missing(worker, missing)
    worker.log.error_log.addFilter(RedactingFilter())


def pre_request(worker: Any, req: Any) -> None:
    """Switch to the other greenlets, since one piece may hold a hundred requests; then start the body's clock."""
    if isinstance(req.unreader, FairUnreader):
        req.unreader.let_others_go()
        req.unreader.give_time()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Start the clock for the rest of the body and for the next request."""
    if isinstance(req.unreader, FairUnreader):
        req.unreader.give_time()


def _answer_what_was_accepted(worker: Any) -> None:
    """Serve the connections that a busy worker had accepted before it was stopped.

    gunicorn would reset them, since their closed listener has no address any more.
    """
    handle = worker.handle
    names = {listener: NamedListener(listener) for listener in worker.sockets}
    worker.handle = lambda listener, client, address: handle(names[listener], client, address)


def _read_settings_once(cfg: Any) -> bool:
    """Keep the settings as attributes; return False for a gunicorn that does not have them in its `settings`.

    gunicorn reads some twenty settings for each request, each through a failed attribute access: a tenth of a connect.
    A setting that a hook changes with `cfg.set` has effect as before; a reload makes new workers, which read them anew.
    """
    settings, change = getattr(cfg, "settings", None), getattr(cfg, "set", None)
    if not isinstance(settings, dict) or change is None or not all(hasattr(each, "get") for each in settings.values()):
        return False

    def change_both(name: str, value: Any) -> None:
        change(name, value)
        vars(cfg)[name] = settings[name].get()

    vars(cfg).update({name: setting.get() for name, setting in settings.items()}, set=change_both)
    return True


def _warn_of_missing(process: Any, parts: list[str]) -> None:
    process.log.warning(
        "synckit_notify.gunicorn_hooks do not know gunicorn %s, and leave out what replaces %s",
        gunicorn.__version__,
        ", ".join(parts),
    )


def _is_of_a_client(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return str(record.msg).startswith("Invalid request from ") or isinstance(error, TimeoutError)
