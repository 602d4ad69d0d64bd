"""Which WSGI server runs this process: the client's socket, how many streams it can hold, what a stream would block.

Decided here and nowhere else, from gunicorn's worker, found without a hook, and from the WSGI environ of a request. No
server is imported.

    refused    a stream would block all other requests, or would never be delivered; the sentence says what to change
    known      gunicorn's gevent, gevent_pywsgi and gthread workers, `flask run`, gevent.pywsgi, uWSGI with gevent
    unknown    every other server: few streams, and none of them for long
    no server  a test client in this process: no limit

An unknown server is limited because a stream may hold one of a few threads, and because many servers never close a
generator whose client has left: streams of clients that left long ago would use up all threads.
"""

import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from . import gevent_compat
from .logs import log
from .per_process import PerProcess

MAX_STREAMS_OF_UNKNOWN_SERVER = 2
MAX_STREAM_SECONDS_OF_UNKNOWN_SERVER = 60.0

_UNKNOWN = (
    f"event streams are not known to work on this server ({{}}): at most {MAX_STREAMS_OF_UNKNOWN_SERVER} in a process "
    f"unless SYNCKIT_MAX_STREAMS is set, each for {MAX_STREAM_SECONDS_OF_UNKNOWN_SERVER:g} s "
    "unless SYNCKIT_MAX_STREAM_SECONDS is set"
)

_TORNADO = (
    "tornado sends nothing before the end of the body, so no client would hear a stream; run gunicorn with -k gevent"
)
_HTTP_2 = (
    "gunicorn serves one HTTP/2 connection's requests one after the other, so a stream would block it; "
    "take h2 out of http_protocols and let the proxy in front speak HTTP/2"
)
_RUN_ONCE = "this server starts a process for each request, where no push is heard; run gunicorn with -k gevent"
_ONE_REQUEST = "this server answers one request at a time and cannot hold a stream; run gunicorn with -k gevent"
_UNPATCHED_PYWSGI = (
    "gevent.pywsgi without monkey patching serves one request at a time and cannot hold a stream; "
    "call gevent.monkey.patch_all() before every other import"
)
_UNPATCHED_UWSGI = (
    "uWSGI serves one request at a time here and cannot hold a stream; "
    "run it with --gevent 1000 --gevent-monkey-patch, or gunicorn with -k gevent"
)
_SYNC = "gunicorn's sync worker serves one request at a time and cannot hold a stream; run it with -k gevent"
_ONE_THREAD = "gunicorn's gthread worker has one thread, which a stream would block; give it --threads, or -k gevent"

_attached: Any = None
_told: set[str] = set()


class Server(NamedTuple):
    """What the server of one request allows a stream."""

    name: str
    max_streams: int | None = None
    """How many streams leave room for other requests; None means no limit."""
    refusal: str | None = None
    """Why it cannot hold a stream, and what to change; None if it can."""
    warning: str | None = None
    """Why its limits are low, and which settings raise them."""
    max_stream_seconds: float | None = None
    max_parked: int | None = None
    """The limit of all streams, parked ones included: those take a descriptor, but no connection of the server."""
    can_park: bool = False
    """Whether the client's socket can be taken from it."""
    client_socket: socket.socket | None = None
    """None where the server does not provide it, or where requests share it."""


def attach(worker: Any) -> None:
    """Register the gunicorn worker, in a `post_worker_init` hook: only for hosts that replace its signal handlers."""
    global _attached
    _attached = worker


def gunicorn_worker() -> Any | None:
    """Return the gunicorn worker that this process is, if any.

    Its signal handlers are bound methods, so the worker can be found in any host's configuration, without a hook;
    SIGABRT is for hosts that replace the other one. `alive` turns false on TERM, HUP, QUIT and max_requests.
    """
    for number in (signal.SIGTERM, signal.SIGABRT):
        owner = getattr(signal.getsignal(number), "__self__", None)
        if hasattr(owner, "alive") and hasattr(owner, "cfg"):
            return owner
    return _attached


def of_process() -> Server | None:
    """Return the server of this process if it is known before a request comes: gunicorn's worker, else None."""
    worker = gunicorn_worker()
    if worker is None:
        return None
    names, cfg = _class_names(type(worker)), worker.cfg
    if "gunicorn.workers.gthread.ThreadWorker" in names:
        refusal = _ONE_THREAD if cfg.threads < 2 else None
        return Server("gunicorn gthread", _leaving_room(cfg.threads, cfg.worker_connections), refusal)
    if "gunicorn.workers.ggevent.GeventWorker" in names:
        parks = "gunicorn.workers.ggevent.GeventPyWSGIWorker" not in names and gevent_compat.is_patched()
        seats = _leaving_room(cfg.worker_connections)
        return Server("gunicorn gevent", seats, max_parked=_leaving_room(), can_park=parks)
    if "gunicorn.workers.sync.SyncWorker" in names:
        return Server("gunicorn sync", refusal=_SYNC)
    if "gunicorn.workers.gtornado.TornadoWorker" in names:
        return Server("gunicorn tornado", refusal=_TORNADO)
    return _unknown(f"gunicorn {type(worker).__name__}")


def of_request(environ: Mapping[str, Any]) -> Server:
    """Return the server of a request, by its environ: a process may run a server and a test client."""
    software = str(environ.get("SERVER_SOFTWARE", ""))
    if "gunicorn.socket" in environ or "gunicorn.sock" in environ:
        return _gunicorn(environ)
    if environ.get("wsgi.run_once"):
        return Server("CGI", refusal=_RUN_ONCE)
    if "werkzeug.socket" in environ:
        refusal = None if environ.get("wsgi.multithread") else _ONE_REQUEST
        return Server("flask run", _leaving_room(), refusal, client_socket=environ["werkzeug.socket"])
    if _is_test_client(environ):
        return Server("test client")
    if _is_tornado(environ):
        return Server("tornado", refusal=_TORNADO)
    if software.startswith("gevent/"):
        return Server("gevent.pywsgi", _leaving_room(), None if gevent_compat.is_patched() else _UNPATCHED_PYWSGI)
    if "uwsgi.version" in environ and not environ.get("wsgi.multithread"):
        switches = (
            gevent_compat.is_patched() and "x-wsgiorg.fdevent.readable" in environ
        )  # the second: an event loop runs
        return Server("uWSGI", _leaving_room(sys.modules["uwsgi"].cores), None if switches else _UNPATCHED_UWSGI)
    if not environ.get("wsgi.multithread") and not gevent_compat.is_patched():
        return Server(software, refusal=_ONE_REQUEST)
    return _unknown(software or "it gives no name")


def faults(*, alone: bool) -> Iterator[str]:
    """Yield one message for each setting of this gunicorn that streams cannot work with; nothing on other servers.

    `alone` means that notices do not leave this process.
    """
    worker, server = gunicorn_worker(), of_process()
    if worker is None or server is None:
        return
    if server.refusal is not None:
        yield server.refusal
    if "h2" in getattr(worker.cfg, "http_protocols", ()):
        yield _HTTP_2
    if alone and worker.cfg.workers > 1:
        yield (
            f"{worker.cfg.workers} workers cannot tell each other of pushes through memory://; "
            "leave SYNCKIT_BROKER_URL unset, set it to redis://..., or run one worker"
        )


def warn_once(sentence: str) -> None:
    """Log a warning about this server, once per process."""
    if sentence not in _told:
        _told.add(sentence)
        log.warning("%s", sentence)


def _gunicorn(environ: Mapping[str, Any]) -> Server:
    sock = environ.get("gunicorn.socket") or environ["gunicorn.sock"]  # the second: gevent_pywsgi
    server, protocol = _gunicorn_of_process.get(), environ.get("SERVER_PROTOCOL")
    if protocol == "HTTP/2.0":  # its requests share one socket
        return server._replace(refusal=server.refusal or _HTTP_2, can_park=False)
    if server.refusal is None and not environ.get("wsgi.multithread"):
        return server._replace(refusal=_ONE_REQUEST)
    plain = protocol == "HTTP/1.1" and not hasattr(sock, "unwrap")  # a chunked body, and no TLS
    return Server(*server[:-2], server.can_park and plain, sock)  # `_replace` would take six times as long


def _known_gunicorn() -> Server:
    return of_process() or _unknown("gunicorn")


def _unknown(name: str) -> Server:
    return Server(
        name,
        MAX_STREAMS_OF_UNKNOWN_SERVER,
        warning=_UNKNOWN.format(name),
        max_stream_seconds=MAX_STREAM_SECONDS_OF_UNKNOWN_SERVER,
    )


def _is_test_client(environ: Mapping[str, Any]) -> bool:
    """Return whether Werkzeug's or Flask's test client made this environ: it names no server, and sets these keys."""
    flags = ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once")
    return "SERVER_SOFTWARE" not in environ and "RAW_URI" in environ and not any(environ.get(flag) for flag in flags)


def _is_tornado(environ: Mapping[str, Any]) -> bool:
    """Return whether tornado's WSGIContainer made this environ, which says nothing of itself."""
    foreign = "SERVER_SOFTWARE" in environ or "asgi.scope" in environ or "REMOTE_PORT" in environ
    return "tornado.wsgi" in sys.modules and bool(environ.get("wsgi.multiprocess")) and not foreign


def _leaving_room(*seats: int) -> int | None:
    """Return nine tenths of what a server can hold.

    A full server accepts connections and then never answers, not even with an error. So streams must stay below its
    connections, its threads and the descriptors of the process, whichever is least.
    """
    bounds = [*seats, *_descriptors()]
    return min(bounds) * 9 // 10 if bounds else None


def _descriptors() -> list[int]:
    """Return the limit of open files as a list, empty where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [] if soft == resource.RLIM_INFINITY else [soft]


def _class_names(kind: type) -> frozenset[str]:
    """Return the names of a class and its bases: a worker may be a subclass, and be named in several ways."""
    return frozenset(f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__)


_gunicorn_of_process = PerProcess(_known_gunicorn)
"""Cached: finding the worker behind the signal handler takes a tenth of the time of a connect."""
