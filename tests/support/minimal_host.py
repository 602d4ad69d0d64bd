"""Small applications that mount the Notifier."""

import os
from collections import Counter

from flask import Flask, request
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from synckit_notify import Notifier

from .tokens import KEY

notifier = Notifier()


def create_app(**config: object) -> Flask:
    """The smallest host: one route that publishes, in the server's thread."""
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = os.environ.get("SYNCKIT_JWT_KEY", KEY)
    app.config.update(config)
    notifier.init_app(app)

    log: Counter[str] = Counter()

    @app.get("/log/<user>")
    def pull(user: str) -> str:
        """Return what a client would pull: how many pushes were committed."""
        return str(log[user])

    @app.post("/push/<app_id>/<user>")
    def push(app_id: str, user: str) -> str:
        for _ in range(int(request.args.get("times", "1"))):
            log[user] += 1
            notifier.publish(app_id, user, origin_device=request.args.get("device"))
        return "announced"

    @app.post("/disconnect/<app_id>/<user>")
    def disconnect(app_id: str, user: str) -> str:
        notifier.disconnect(app_id, user, request.args.get("device"))
        return "told"

    return app


def create_two_apps() -> DispatcherMiddleware:
    """Two applications in one process, each with a Notifier: the second under /other."""
    return DispatcherMiddleware(create_app(), {"/other": create_app()})


class ThreadWorkerOfAHost(ThreadWorker):
    """A subclass of gunicorn's gthread worker, as hosts make them for one more hook."""
