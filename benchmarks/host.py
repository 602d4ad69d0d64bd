"""The applications that the benchmarks load, inside the gunicorn under test: a bare host, and the reference backend.

`app` is the bare one: the Notifier, a push without a database. There is no sweep hook and no revocation hook, so the
figures are those of the stream path alone. `create_backend()` is what people run, with its database in the folder of
the run. Both tell of the process that serves them. The key, made anew for each server, and what a benchmark sets come
through the environment.
"""

import ctypes
import gc
import os
import sys
from typing import Any

from flask import Flask

from synckit_notify import Notifier
from synckit_notify.backend import create_app

FROM_ENVIRONMENT = ("SYNCKIT_JWT_KEY", "SYNCKIT_KEEPALIVE_SECONDS", "SYNCKIT_PARKING", "SYNCKIT_BROKER_URL")

app = Flask(__name__)
app.config.update(
    {name: os.environ[name] for name in FROM_ENVIRONMENT if name in os.environ},
    SYNCKIT_MAX_STREAMS_PER_CHANNEL=1_000_000,  # the fan-out puts a thousand streams on one channel
)
notifier = Notifier(app)


@app.post("/push/<app_id>/<user_id>")
def push(app_id: str, user_id: str) -> tuple[str, int]:
    """Publish as a push of no device: every stream of the channel hears it."""
    notifier.publish(app_id, user_id)
    return "", 204


@app.get("/collector")
def collector() -> str:
    """Return how the garbage collector of this worker is set."""
    return f"threshold {gc.get_threshold()}, {gc.get_freeze_count():,} objects frozen"


def create_counted() -> Flask:
    """Return the bare host with a request that ends a count of instructions: see `instructions`."""
    library = ctypes.CDLL(os.environ["BENCHMARK_COUNTER"])

    @app.get("/count")
    def count() -> tuple[str, int]:
        library.count()
        return "", 204

    return app


def create_backend() -> Flask:
    """Return the reference backend, with a look at what its process holds."""
    backend = create_app({"SYNCKIT_ENV": "production"}, instance_path=os.environ["BENCHMARK_FOLDER"])
    backend.add_url_rule("/holdings", view_func=holdings)
    return backend


def holdings() -> dict[str, Any]:
    """Return what is left after a full collection: the objects made since the start, greenlets, native threads."""
    gc.collect()
    objects = gc.get_objects()  # without those that gunicorn.conf.py has frozen
    greenlet = sys.modules["greenlet"].greenlet if "greenlet" in sys.modules else ()
    return {"pid": os.getpid(), "objects": len(objects), "greenlets": sum(isinstance(o, greenlet) for o in objects)}
