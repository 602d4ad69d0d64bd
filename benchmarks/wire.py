"""The requests that the generators send, written by hand, and the tokens in them. Bytes only, but for one device."""

import json
import time
import urllib.request

import jwt

APP = "bench"
LIVE = b"GET /api/sync/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def make_token(key: str, user: str, device: str | None = None, *, life: int = 3600) -> str:
    """Return a token that counts, unless its life is over already."""
    now = int(time.time())
    claims = {"sub": user, "app": APP, "iat": now, "exp": now + life} | ({"device": device} if device else {})
    return jwt.encode(claims, key, algorithm="HS256")


def subscribe(token: str) -> bytes:
    """Return the request for a stream, with the headers of an HTTP client."""
    return (
        f"GET /api/sync/subscribe?app_id={APP} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        "Accept: text/event-stream\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
        f"User-Agent: synckit-notify/0.1\r\nCache-Control: no-store\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


def bare_push(user: str) -> bytes:
    """Return a push to the bare host."""
    return f"POST /push/{APP}/{user} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()


def backend_push(token: str, device: str) -> bytes:
    """Return a push of one change to the reference backend."""
    change = {"table": "t", "op": "INSERT", "row_id": "1", "timestamp": "2026-01-01T00:00:00Z", "data": "x"}
    body = json.dumps({"device_id": device, "changes": [change]})
    head = f"POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Bearer {token}\r\n\r\n{body}".encode()


def register_device(port: int, token: str) -> str:
    """Register a device at the reference backend, which may push and listens to nothing; return its id."""
    body = json.dumps({"device_name": "pusher", "platform": "linux"}).encode()
    url = f"http://127.0.0.1:{port}/api/sync/devices"
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["id"])
