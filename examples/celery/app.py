"""A Celery task that changes a user's data and notifies their devices.

    gunicorn -k gevent app:app
    celery --app app.celery worker

A request only queues the work. The task commits and then publishes; the broker carries the notice to the processes that
have the streams. `changed_channels` finds a change whose task died between its commit and `publish`.
"""

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime

import jwt
from celery import Celery
from flask import Flask, request

from synckit_notify import Notifier

REDIS = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

app = Flask(__name__)
app.config["SYNCKIT_JWT_KEY"] = "an example key, replace it: 32 bytes or more"
app.config["SYNCKIT_BROKER_URL"] = REDIS  # the servers and the Celery workers must have the same
notifier = Notifier(app)
celery = Celery("app", broker=REDIS)


@celery.task
def import_notes(user: str, texts: list[str]) -> None:
    """Store notes, then notify all devices of the user; Celery runs this in a worker, outside every request."""
    now = datetime.now(UTC).isoformat()
    with closing(database()) as connection, connection:  # commits at its end
        connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", [(user, text, now) for text in texts])
    notifier.publish("notes", user)


@app.post("/import")
def queue_import() -> tuple[dict[str, bool], int]:
    """Queue the work; the answer does not wait for it."""
    principal = notifier.authenticate(request)
    import_notes.delay(principal.user, request.json["notes"])
    return {"queued": True}, 202


@app.get("/api/sync/pull")
def pull() -> dict[str, list[str]]:
    principal = notifier.authenticate(request)
    with closing(database()) as connection:
        rows = connection.execute("SELECT text FROM notes WHERE user = ? ORDER BY rowid", (principal.user,))
        return {"notes": [text for (text,) in rows]}


@app.get("/token/<user>")
def token(user: str) -> str:
    """Return a token. Your log-in does the same after it has checked a password."""
    now = int(time.time())
    claims = {"sub": user, "app": "notes", "iat": now, "exp": now + 3600}
    return jwt.encode(claims, app.config["SYNCKIT_JWT_KEY"], "HS256")


@notifier.changed_channels
def changed_channels(since: datetime) -> list[tuple[str, str]]:
    with closing(database()) as connection:
        users = connection.execute("SELECT DISTINCT user FROM notes WHERE at >= ?", (since.isoformat(),))
        return [("notes", user) for (user,) in users]


def database() -> sqlite3.Connection:
    connection = sqlite3.connect("notes.db")
    connection.execute("CREATE TABLE IF NOT EXISTS notes (user TEXT, text TEXT, at TEXT)")
    return connection
