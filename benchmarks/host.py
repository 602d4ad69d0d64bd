"""The bare host application that the benchmarks load: the Notifier, a push without a database, the collector's state.

It runs inside the gunicorn under test. The key, made anew for each server, and what a benchmark sets come through the
environment. There is no sweep hook and no revocation hook: the figures are those of the stream path alone.
"""

import gc
import os

from flask import Flask

from synckit_notify import Notifier

FROM_ENVIRONMENT = ("SYNCKIT_JWT_KEY", "SYNCKIT_KEEPALIVE_SECONDS", "SYNCKIT_PARKING")

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
