"""A backend whose users come from an identity provider, such as Auth0, Keycloak, Amazon Cognito or Microsoft Entra.

    gunicorn -k gevent app:app

The Notifier checks the provider's access tokens with the keys that the provider publishes. It fetches them at the first
token, in the background again every five minutes, and when a token names a key that it does not know. The settings are
those of provider.py in this folder, which stands in for the provider; README.md lists those of real ones.
"""

import os

from flask import Flask, request

from synckit_notify import Notifier

app = Flask(__name__)
app.config.update(
    SYNCKIT_JWT_JWKS_URL=os.environ.get("SYNCKIT_JWT_JWKS_URL", "http://127.0.0.1:9000/jwks.json"),
    SYNCKIT_JWT_ISSUER="http://127.0.0.1:9000/",
    SYNCKIT_JWT_AUDIENCE="https://api.example.org",  # the API that the tokens are for
    SYNCKIT_JWT_DEFAULT_APP="notes",  # these tokens name no app
)
notifier = Notifier(app)  # mounts GET /api/sync/subscribe, /live and /ready

changes: dict[str, list[str]] = {}


@app.post("/api/sync/push")
def push() -> dict[str, int]:
    """Store a change, then notify the user's other devices. With a database, commit before you publish."""
    principal = notifier.authenticate(request)  # the same check as for a stream; `user` is the claim sub
    log = changes.setdefault(principal.user, [])
    log.append(request.json["note"])
    notifier.publish(principal.app, principal.user, origin_device=request.json["device_id"])
    return {"cursor": len(log)}


@app.get("/api/sync/pull")
def pull() -> dict[str, object]:
    """Return the changes after a cursor, and the new cursor."""
    principal = notifier.authenticate(request)
    log = changes.get(principal.user, [])
    return {"changes": log[int(request.args.get("cursor", "0")) :], "cursor": len(log)}
