"""The reference backend, whose process dies between commit and publish when a push says so."""

import os
import signal

from flask import Flask, request

from synckit_notify.backend import create_app as create_backend


def create_app() -> Flask:
    app = create_backend(instance_path=os.environ["INSTANCE"])
    notifier = app.extensions["synckit_backend"].notifier
    publish = notifier.publish

    def publish_unless_dead(*args: object, **times: object) -> None:
        if "X-Die" in request.headers:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(*args, **times)

    notifier.publish = publish_unless_dead
    return app
