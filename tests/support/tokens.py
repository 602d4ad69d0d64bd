"""Tokens for tests and benchmarks, signed with one key."""

import json
import time
from typing import Any

import jwt

KEY = "an example key of 32 bytes, or more"


def make_token(
    user: object = "alice", app: object = "notes", *, key: str = KEY, life: float = 3600, **claims: Any
) -> str:
    """Return a signed token; claims given as None are left out."""
    now = int(time.time())
    every: dict[str, Any] = {"sub": user, "app": app, "iat": now, "exp": now + life} | claims
    headers = every.pop("headers", None)
    algorithm = every.pop("algorithm", "HS256")
    payload = json.dumps({name: value for name, value in every.items() if value is not None}).encode()
    return jwt.PyJWS().encode(payload, key, algorithm=algorithm, headers=headers)
