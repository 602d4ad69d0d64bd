"""This process and the server that runs it: is it stopping, how many streams can it hold, what about it cannot work.

Only gunicorn tells such things; it is found without a hook and never imported. Every other server is "nothing known".
"""

import signal
from collections.abc import Iterator
from typing import Any

_attached: Any = None


def attach(worker: Any) -> None:
    """Name the gunicorn worker, from a `post_worker_init` hook; only for hosts that replace its SIGTERM handler."""
    global _attached
    _attached = worker


def gunicorn_worker() -> Any | None:
    """Return the gunicorn worker that this process is, if any.

    Its SIGTERM handler is the bound method `Worker.handle_exit`, so the worker can be found in any host's
    configuration, without a hook. `alive` turns false on TERM, HUP, QUIT and max_requests.
    """
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if hasattr(owner, "alive") and hasattr(owner, "cfg") else _attached


def stream_limit(*, parking: bool = False) -> int | None:
    """Return how many streams leave this process room for other requests: nine tenths of what it can hold.

    A full gunicorn worker accepts connections and then says nothing, not even an error, so the limit must lie below
    `worker_connections` (gevent), `threads` (gthread) and the descriptors of the process. Parked streams take a
    descriptor only. None: not under gunicorn.
    """
    worker = gunicorn_worker()
    if worker is None:
        return None
    cfg = worker.cfg
    if parking:
        return _descriptors() * 9 // 10
    seats: int = cfg.threads if cfg.worker_class_str == "gthread" else cfg.worker_connections
    return min(seats, _descriptors()) * 9 // 10


def faults(*, alone: bool) -> Iterator[str]:
    """Yield one sentence for each thing of this gunicorn that streams cannot work with; nothing elsewhere.

    `alone` says that notices do not leave this process.
    """
    worker = gunicorn_worker()
    if worker is None:
        return
    cfg = worker.cfg
    if cfg.worker_class_str == "sync":
        yield "gunicorn's sync worker serves one request at a time and cannot hold a stream; run it with -k gevent"
    if cfg.worker_class_str == "gthread" and cfg.threads < 2:
        yield "gunicorn's gthread worker has one thread, which a stream would block; give it --threads, or -k gevent"
    if "h2" in getattr(cfg, "http_protocols", ()):
        yield (
            "gunicorn serves one HTTP/2 connection's requests one after the other, so a stream would block it; "
            "take h2 out of http_protocols and let the proxy in front speak HTTP/2"
        )
    if alone and cfg.workers > 1:
        yield (
            f"{cfg.workers} workers cannot tell each other of pushes through memory://; "
            "set SYNCKIT_BROKER_URL to redis://..., or run one worker"
        )


def _descriptors() -> int:
    import resource  # not on Windows, where gunicorn does not run either

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
