"""The applications that the benchmarks run in gunicorn: a minimal application, and the reference backend.

`app` is the minimal one: the Notifier and a push without a database. It has no sweep hook and no revocation hook, so
only the way of a stream is measured. `create_counted()` adds a request for `instructions`. `create_backend()` is the
reference backend with its database in the folder of the run. The environment holds each server's key and settings.
"""

import ctypes
import gc
import os
import sys
from typing import Any

from flask import Flask

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
