"""The Flask application behind pushpin, as its users would write it: it holds no stream, and publishes by HTTP.

The token is checked with PyJWT, as in this project. The keepalive carries this project's comment, so that the generator
counts it. pushpin shortens each period between two keepalives by up to a second, so it is asked for a second more.
"""

import http.client
import json
import os
import threading

import jwt
from flask import Flask, Response, request

CONNECTED = ": connected\n\n"
FRAME = "event: changed\ndata:\n\n"


def application() -> Flask:
    """Return the application for gunicorn."""
    app = Flask(__name__)
    key, keepalive = os.environ["BENCH_JWT_KEY"], int(os.environ["BENCH_KEEPALIVE"])
    publish_port = int(os.environ["BENCH_PUBLISH_PORT"])
    kept = threading.local()

    @app.get("/live")
    def live() -> str:
        return ""

    @app.get("/api/sync/subscribe")
    def subscribe() -> Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            claims = jwt.decode(token, key, algorithms=["HS256"], options={"require": ["sub", "app", "exp"]})
        except jwt.InvalidTokenError:
            return Response(status=401)
        if scheme != "Bearer" or claims["app"] != request.args.get("app_id"):
            return Response(status=403)
        grip = {
            "Grip-Hold": "stream",
            "Grip-Channel": f"{claims['app']}-{claims['sub']}",
            "Grip-Keep-Alive": rf": keepalive\n\n; format=cstring; timeout={keepalive + 1}",
        }
        return Response(CONNECTED, headers=grip, content_type="text/event-stream")

    @app.post("/push/<app_id>/<user_id>")
    def push(app_id: str, user_id: str) -> tuple[str, int]:
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection("127.0.0.1", publish_port, timeout=10)
        item = {"channel": f"{app_id}-{user_id}", "formats": {"http-stream": {"content": FRAME}}}
        kept.connection.request("POST", "/publish/", json.dumps({"items": [item]}))
        answer = kept.connection.getresponse()
        answer.read()
        return "published", 200 if answer.status == 200 else 502  # condure closes the connection after a 204

    return app
