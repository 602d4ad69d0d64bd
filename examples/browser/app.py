"""The included server, plus a page at /notes that syncs with it.

    gunicorn -k gevent app:app

It also serves `synckit.js`, the client for web pages. Copy that file into your own project.
"""

from pathlib import Path

from flask import Response, send_file

import synckit_notify.backend
from synckit_notify.backend import create_app

HERE = Path(__file__).parent
CLIENT = Path(synckit_notify.backend.__file__).parent / "live" / "static" / "synckit.js"

app = create_app(instance_path=HERE / "instance")


@app.get("/notes")
def page() -> Response:
    return send_file(HERE / "notes.html")


@app.get("/notes/synckit.js")
def client() -> Response:
    return send_file(CLIENT, mimetype="text/javascript")
