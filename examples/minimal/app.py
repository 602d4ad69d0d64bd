"""A backend in one file: it stores changes in memory and notifies the user's other devices of each one.

    gunicorn -k gevent app:app

The token check, the storage and the log-in are the parts that your own backend already has.
"""

import time

import jwt
from flask import Flask, request

from synckit_notify import Notifier

app = Flask(__name__)
app.config["SYNCKIT_JWT_KEY"] = "an example key, replace it: 32 bytes or more"
notifier = Notifier(app)  # mounts GET /api/sync/subscribe, /live and /ready

changes: dict[str, list[dict[str, str]]] = {}


@app.get("/token/<user>")
def token(user: str) -> str:
    """Return a token. Your log-in does the same after it has checked a password."""
    now = int(time.time())
    claims = {"sub": user, "app": "notes", "iat": now, "exp": now + 3600}
    return jwt.encode(claims, app.config["SYNCKIT_JWT_KEY"], "HS256")


@app.post("/api/sync/push")
def push() -> dict[str, int]:
    """Store a change, then notify the other devices. With a database, commit before you publish."""
    principal = notifier.authenticate(request)
    log = changes.setdefault(principal.user, [])
    log.append({"note": request.json["note"]})
    notifier.publish(principal.app, principal.user, origin_device=request.json["device_id"])
    return {"cursor": len(log)}


@app.get("/api/sync/pull")
def pull() -> dict[str, object]:
    """Return the changes after a cursor, and the new cursor."""
    principal = notifier.authenticate(request)
    log = changes.get(principal.user, [])
    return {"changes": log[int(request.args.get("cursor", "0")) :], "cursor": len(log)}
