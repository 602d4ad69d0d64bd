"""The applications that the benchmarks run in gunicorn: a minimal application, and the reference backend.

`app` is the minimal one: the Notifier and a push without a database. It has no sweep hook and no revocation hook, so
only the way of a stream is measured. `create_counted()` adds a request for `instructions`, `create_swept()` the sweep
hook. `create_backend()` is the reference backend with its database in the folder of the run. The environment holds each
server's key and settings.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, request

from synckit_notify import Notifier
from synckit_notify.backend import create_app

app = Flask(__name__)
app.config["SYNCKIT_MAX_STREAMS_PER_CHANNEL"] = 1_000_000  # the fan-out has a thousand streams on one channel
if "SYNCKIT_BROKER_URL" not in os.environ:
    app.config["SYNCKIT_BROKER_URL"] = "memory://"  # one process; a listener's own work would be measured too
notifier = Notifier(app)


@app.post("/push/<app_id>/<user_id>")
def push(app_id: str, user_id: str) -> tuple[str, int]:
    """Publish without a device: every stream of the channel gets the event."""
    notifier.publish(app_id, user_id)
    return "", 204


@app.post("/timed-push/<app_id>/<user_id>")
def timed_push(app_id: str, user_id: str) -> str:
    """Publish like `push`; answer with the moment before it, by the steady clock that all processes share."""
    moment = time.monotonic()
    notifier.publish(app_id, user_id)
    return f"{moment:.6f}"


def create_swept() -> Flask:
    """Return the minimal application with the sweep hook, over a file that stands for a database.

    Each push is stored before it is published. Every process of the run reads and writes the same file.
    """
    changes = Path(os.environ["BENCHMARK_FOLDER"], "changes")

    @app.before_request
    def store() -> None:
        if request.endpoint == "timed_push":
            with changes.open("a") as file:
                file.write("{app_id} {user_id} {at}\n".format(**request.view_args or {}, at=time.time()))

    @notifier.changed_channels
    def changed_channels(since: datetime) -> Iterator[tuple[str, str, datetime]]:
        for line in changes.read_text().splitlines() if changes.exists() else ():
            app_id, user_id, at = line.split()
            if float(at) >= since.timestamp():
                yield app_id, user_id, datetime.fromtimestamp(float(at), UTC)

    return app


def create_counted() -> Flask:
    """Return the minimal application with a request that ends a count of instructions.

    The garbage collector is off: it would run in one count and not in the next.
    """
    gc.disable()
    library = ctypes.CDLL(os.environ["BENCHMARK_COUNTER"])

    @app.get("/count")
    def count() -> tuple[str, int]:
        library.count()
        return "", 204

    return app


def create_backend() -> Flask:
    """Return the reference backend, with a request for what its process holds."""
    backend = create_app({"SYNCKIT_ENV": "production"}, instance_path=os.environ["BENCHMARK_FOLDER"])
    backend.add_url_rule("/holdings", view_func=holdings)
    return backend


def holdings() -> dict[str, Any]:
    """Return what remains after a full garbage collection: objects made since the start, and greenlets."""
    gc.collect()
    objects = gc.get_objects()  # without those that gunicorn.conf.py has frozen
    greenlet = sys.modules["greenlet"].greenlet if "greenlet" in sys.modules else ()
    return {"pid": os.getpid(), "objects": len(objects), "greenlets": sum(isinstance(o, greenlet) for o in objects)}
