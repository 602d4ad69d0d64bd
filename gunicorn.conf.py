"""The gunicorn configuration of the included server: `gunicorn` in a clone listens on 127.0.0.1:8000.

In: SYNCKIT_BIND, SYNCKIT_WORKERS, SYNCKIT_WORKER_CONNECTIONS and SYNCKIT_METRICS from the environment. Nothing is
monkey-patched here: the gevent worker does so itself after the fork, and workers of other classes must stay unpatched.
gunicorn finds the hooks of `synckit_notify.gunicorn_hooks` here by name; they prevent one client from delaying the
streams of others.
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
"""Descriptors that a worker needs besides its connections: database, logs, broker, event loop."""

METRICS_FOLDER = "synckit-metrics-"


def _text(name: str, default: str) -> str:
    return os.environ.get(name, "").strip() or default


def _count(name: str, default: int) -> int:
    value = _text(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    return int(value)


def _connections(wanted: int) -> int:
    """Raise the limit of file descriptors as far as allowed, and return how many connections a worker can have.

    A worker without free descriptors can neither accept connections nor log nor open its database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_BESIDE_STREAMS
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else max(1, min(wanted, soft - DESCRIPTORS_BESIDE_STREAMS))


# gevent stores for debuggers which greenlet spawned which: 0.25 KiB per stream. Read when gevent is imported.
os.environ.setdefault("GEVENT_TRACK_GREENLET_TREE", "0")

_wanted_connections = _count("SYNCKIT_WORKER_CONNECTIONS", 10_000)

wsgi_app = "wsgi:app"
bind = _text("SYNCKIT_BIND", "127.0.0.1:8000")
worker_class = "gevent"
workers = _count("SYNCKIT_WORKERS", 1)
worker_connections = _connections(_wanted_connections)
# Places for connects that no worker has accepted yet: devices return while the new workers of a reload still load.
# If the queue is full, the kernel drops connects and resets some devices. Linux allows at most net.core.somaxconn.
backlog = 16_384
timeout = 30  # seconds until a worker with a blocked event loop is replaced; open streams do not block it
graceful_timeout = 10  # seconds for pushes and pulls after SIGTERM; streams end within a second
keepalive = 2  # seconds; an idle connection counts against worker_connections, and delays a worker that stops
forwarder_headers = ""  # do not trust a SCRIPT_NAME header: most proxies pass on what a client sends
# gunicorn parses the headers again with each packet that arrives. Its default limits allow 800 KiB of headers, which
# take 0.45 s of processor time while all streams wait. These limits allow 200 KiB and 0.025 s.
limit_request_fields = 50
limit_request_field_size = 4094
control_socket_disable = True  # unused, and several servers of one user would need different paths


if _text("SYNCKIT_METRICS", "0").lower() in ("1", "true", "yes", "on") and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # One scrape then includes all workers; prometheus-client reads the variable when a worker imports it.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix=METRICS_FOLDER)


def on_starting(server: Any) -> None:
    """Warn if the limit of open files allows fewer connections than the settings ask for."""
    if worker_connections < _wanted_connections:
        server.log.warning(
            "%d connections per worker instead of %d: the limit of open files (ulimit -Hn) is too low",
            worker_connections,
            _wanted_connections,
        )


def post_worker_init(worker: Any) -> None:
    """Configure logging and garbage collection of a loaded worker; offer a demo account in development.

    With 10,000 streams the cyclic garbage collector took 31 of 76 microseconds per event, since each full pass visits
    every stream. Frozen objects are not visited, and higher thresholds make the passes rare.
    """
    from synckit_notify.backend import development  # imported here, since the master must not import the application

    notices = logging.getLogger("synckit_notify")
    notices.handlers, notices.level, notices.propagate = worker.log.error_log.handlers, logging.INFO, False
    development.offer_demo(worker.wsgi, [listener.getsockname() for listener in worker.sockets])
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    gunicorn_hooks.post_worker_init(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Remove a worker that has exited from the gauges of the metrics."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    """Remove the folder of the metrics, unless a new master (USR2) uses it."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
    if METRICS_FOLDER in folder and not server.reexec_pid:
        shutil.rmtree(folder, ignore_errors=True)
