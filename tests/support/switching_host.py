"""A host under gunicorn that counts the switches of a request that publishes, and may commit in a teardown function.

`gevent.sleep(0)` is counted: only the switch before an answer calls it by this name. The environment says what differs:
TEARDOWN adds a database, EARLY switches in an after_request function, OFF never switches; MAX_SECONDS and REST_SECONDS
are those of `listeners_first`.
"""

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import greenlet
from flask import Flask, Response, g, request, stream_with_context

from synckit_notify import Notifier, listeners_first

from .tokens import KEY

SLOW_SECONDS = 0.02
"""Four times what a switch may take."""

LOCK_SECONDS = 0.02
"""How long SQLite waits for a lock."""


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    counts: Counter[str] = Counter()
    order: list[str] = []
    sleep = gevent.sleep

    def counted(seconds: float = 0) -> None:
        if seconds == 0:  # gunicorn's own worker sleeps for a second
            counts["switches"] += 1
            order.append("switch")
        sleep(seconds)

    gevent.sleep = counted
    listeners_first.MAX_SECONDS = float(os.environ.get("MAX_SECONDS", 60))  # no other process must change a count
    listeners_first.REST_SECONDS = float(os.environ.get("REST_SECONDS", 1))
    if "OFF" in os.environ:
        listeners_first.MAX_LISTENERS = 0

    @app.after_request
    def before_the_notifier(response: Response) -> Response:
        order.append("first hook")
        return response

    notifier = Notifier(app)

    @app.after_request
    def after_the_notifier(response: Response) -> Response:
        order.append("second hook")
        return response

    @app.post("/push/<user>")
    def push(user: str) -> dict[str, Any]:
        """Publish some times; return how often `publish` has switched to another greenlet."""
        order.clear()
        switches: list[object] = []
        if "slow" in request.args:
            gevent.spawn(busy, SLOW_SECONDS)
        greenlet.settrace(lambda event, _: switches.append(event))
        for _ in range(int(request.args.get("times", "1"))):
            notifier.publish("notes", user)
        greenlet.settrace(None)
        return {"switches": len(switches)}

    @app.post("/batch/<user>")
    def batch(user: str) -> str:
        """Push by a request within this request."""
        return app.test_client().post(f"/push/{user}").get_data(as_text=True)

    @app.post("/streamed/<user>")
    def streamed(user: str) -> Response:
        """Publish, and keep the context until the end of the answer."""
        order.clear()
        notifier.publish("notes", user)
        return Response(stream_with_context(iter(["streamed"])))

    @app.get("/counts")
    def show() -> dict[str, Any]:
        return {"switches": counts["switches"], "locked": counts["locked"], "order": order}

    if "TEARDOWN" in os.environ:
        add_database(app, notifier, counts, order, sleep)
    return app


def add_database(
    app: Flask, notifier: Notifier, counts: Counter[str], order: list[str], sleep: Callable[[float], object]
) -> None:
    """Add a route that writes; its transaction ends when the request's context does."""
    path = Path("host.db").resolve()
    with sqlite3.connect(path) as first:
        first.execute("CREATE TABLE IF NOT EXISTS log (user)")
    first.close()

    @app.post("/write/<user>")
    def write(user: str) -> str:
        g.database = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        g.database.execute("PRAGMA synchronous = OFF")
        try:
            g.database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            counts["locked"] += 1
            raise
        g.database.execute("INSERT INTO log VALUES (?)", (user,))
        notifier.publish("notes", user)
        return "written"

    @app.after_request
    def switch_too_early(response: Response) -> Response:
        if "EARLY" in os.environ and request.endpoint == "write":
            sleep(0.001)
        return response

    @app.teardown_request
    def commit(error: BaseException | None) -> None:
        order.append("teardown")
        if "database" in g:
            if g.database.in_transaction:
                g.database.commit()
            g.database.close()


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
