"""How gunicorn runs the service: plain `gunicorn` in a clone listens on 127.0.0.1:8000.

In: SYNCKIT_BIND, SYNCKIT_WORKERS, SYNCKIT_WORKER_CONNECTIONS, SYNCKIT_METRICS from the environment. Nothing is
monkey-patched here: the gevent worker does that itself after the fork, and one of another class must stay unpatched.
What strangers send cannot hold up the streams: see `synckit_notify.gunicorn_hooks`, whose hooks gunicorn finds here by
name.
"""

import gc
import logging
import os
import resource
import shutil
import tempfile
from typing import Any

from synckit_notify import gunicorn_hooks
from synckit_notify.gunicorn_hooks import post_request, pre_request, when_ready  # noqa: F401

DESCRIPTORS_BESIDE_STREAMS = 100
"""Database files, log files, the broker, the event loop: what a worker opens besides its connections."""

METRICS_FOLDER = "synckit-metrics-"


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
keepalive = 2  # seconds; an idle connection takes a stream's seat, and a worker that stops waits for it
forwarder_headers = ""  # no header replaces SCRIPT_NAME: most proxies would pass on what a client sent
limit_request_fields = 50  # gunicorn looks a head over with each piece that comes of it: its own limits allow 800 KiB
limit_request_field_size = 4094  # and 0.45 s of processor time, which all streams wait for; these 200 KiB and 0.025 s
control_socket_disable = True  # nothing uses it, and several servers of one user would fight over its path


if os.environ.get("SYNCKIT_METRICS") and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # So that one scrape answers for all workers; read when they import the client library.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix=METRICS_FOLDER)


def on_starting(server: Any) -> None:
    """Say so when the machine allows fewer connections than were asked for."""
    if worker_connections < _wanted_connections:
        server.log.warning(
            "%d connections per worker instead of %d: the limit of open files (ulimit -Hn) is too low",
            worker_connections,
            _wanted_connections,
        )


def post_worker_init(worker: Any) -> None:
    """Settle the log and the collector of a worker that has loaded the application; in development offer a demo.

    At 10,000 streams the cyclic collector took 31 of 76 microseconds per delivered event, since each of its full passes
    visits every stream. Frozen start-up objects are visited no more, and the passes come rarely.
    """
    from synckit_notify.backend import development  # not earlier: the master imports nothing of the application

    notices = logging.getLogger("synckit_notify")
    notices.handlers, notices.level, notices.propagate = worker.log.error_log.handlers, logging.INFO, False
    development.offer_demo(worker.wsgi, [listener.getsockname() for listener in worker.sockets])
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    gunicorn_hooks.post_worker_init(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Take a worker that is gone out of the metrics' gauges."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    """Remove the metrics' folder, unless a new master (USR2) goes on with it."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    if METRICS_FOLDER in folder and not server.reexec_pid:
        shutil.rmtree(folder, ignore_errors=True)
