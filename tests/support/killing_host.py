"""A host that kills the timer of its streams, as a bug or a careless `killall` of another package does."""

import gc
import threading

from flask import Flask, request

from .minimal_host import create_app as create_minimal_app

NAME = "synckit-timer"


class Unexpected(BaseException):
    """An error that no `except Exception` catches."""


def create_app() -> Flask:
    app = create_minimal_app()

    @app.get("/timers")
    def timers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == NAME]

    @app.post("/kill")
    def kill() -> str:
        import gevent

        [ident] = [thread.ident for thread in threading.enumerate() if thread.name == NAME]
        [greenlet] = [each for each in gc.get_objects() if id(each) == ident]
        kind = gevent.GreenletExit if request.args["by"] == "GreenletExit" else Unexpected
        gevent.kill(greenlet, kind)
        return "killed"

    return app
