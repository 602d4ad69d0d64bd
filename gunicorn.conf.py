"""How gunicorn runs the service: plain `gunicorn` in a clone listens on 127.0.0.1:8000.

In: SYNCKIT_BIND, SYNCKIT_WORKERS, SYNCKIT_WORKER_CONNECTIONS from the environment. Nothing is monkey-patched here: the
gevent worker does that itself after the fork, and a worker of another class must stay unpatched.
"""

import gc
import os
import resource
from typing import Any

DESCRIPTORS_BESIDE_STREAMS = 100
"""Database files, log files, the broker, the event loop: what a worker opens besides its connections."""


def _count(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{name}: {value!r} is not a whole number above 0")
    return int(value)


def _seats(wanted: int) -> int:
    """Return how many connections a worker can hold, after raising its descriptor limit as far as it is allowed.

    A worker that runs out of descriptors cannot accept, log or open its database any more, so the seats come down.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_BESIDE_STREAMS
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else max(1, min(wanted, soft - DESCRIPTORS_BESIDE_STREAMS))


# gevent notes for each greenlet who spawned it, for debuggers: 0.25 KiB per stream. Read when gevent is imported.
os.environ.setdefault("GEVENT_TRACK_GREENLET_TREE", "0")

_wanted_connections = _count("SYNCKIT_WORKER_CONNECTIONS", 10_000)

wsgi_app = "wsgi:app"
bind = os.environ.get("SYNCKIT_BIND") or "127.0.0.1:8000"
worker_class = "gevent"
workers = _count("SYNCKIT_WORKERS", 1)
worker_connections = _seats(_wanted_connections)
timeout = 30  # a worker whose hub is blocked this long is replaced; an open stream does not count as blocked
graceful_timeout = 10  # streams end by themselves within a second of SIGTERM, this is for pushes and pulls
keepalive = 5  # seconds; a device that has just pulled may push next, but an idle connection takes a stream's seat
forwarder_headers = ""  # no header replaces SCRIPT_NAME: most proxies would pass on what a client sent
control_socket_disable = True  # nothing uses it, and several servers of one user would fight over its path


def on_starting(server: Any) -> None:
    """Say so when the machine allows fewer connections than were asked for."""
    if worker_connections < _wanted_connections:
        server.log.warning(
            "%d connections per worker instead of %d: the limit of open files (ulimit -Hn) is too low",
            worker_connections,
            _wanted_connections,
        )


def post_worker_init(worker: Any) -> None:
    """Settle the collector of a worker that has loaded the application, and in development offer a demo.

    At 10,000 streams the cyclic collector took 31 of 76 microseconds per delivered event, since each of its full passes
    visits every stream. Frozen start-up objects are visited no more, and the passes come rarely.
    """
    from synckit_notify.backend import development  # not earlier: the master imports nothing of the application

    development.offer_demo(worker.wsgi, [listener.getsockname() for listener in worker.sockets])
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
