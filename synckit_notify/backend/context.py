"""What the routes and the commands of one application work with: its Store, its Notifier and its Signer.

In: the configuration that the Notifier has accepted. Out: `current_backend()`, wherever an application context is; and
signed access tokens. It knows no route, no command and no table.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from flask import current_app

from .. import Notifier
from ..settings import jwt_algorithms, jwt_keys
from .database.store import Store
from .last_seen import LastSeen

EXTENSION_NAME = "synckit_backend"

TOKEN_SECONDS = 3600
"""How long an access token lives: a token that leaked, from a log or a proxy, is of use for an hour at most.

Upstream's live seven days, since nothing renews them there. Here a refresh token does. Not shorter, as every renewal is
a write to the database and every stream ends with its token: an hour makes both rare.
"""

PASTED_TOKEN_SECONDS = 7 * 24 * 3600
"""Upstream's lifetime, for a token that a person pastes into a terminal and nothing renews."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs tokens with the first of the configured algorithms and keys."""

    algorithm: str
    key: bytes
    kid: str | None
    issuer: str | None
    audience: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Signer":
        """Read a configuration that the Notifier has accepted."""
        keys = jwt_keys(config)
        kid = None if None in keys else next(iter(keys))
        return cls(
            algorithm=jwt_algorithms(config)[0],
            key=keys[kid],
            kid=kid,
            issuer=config.get("SYNCKIT_JWT_ISSUER") or None,
            audience=config.get("SYNCKIT_JWT_AUDIENCE") or None,
        )

    def sign(
        self,
        app: str,
        user: str,
        *,
        device: str | None = None,
        session: str | None = None,
        valid_since: int | None = None,
        seconds: int = TOKEN_SECONDS,
    ) -> str:
        """Return a token issued now, or at the user's valid-since moment if that lies ahead.

        It lies a second ahead after a log-out, and much more if the clock was set back since.
        """
        issued_at = max(int(time.time()), valid_since or 0)
        claims: dict[str, Any] = {"sub": user, "app": app, "iat": issued_at, "exp": issued_at + seconds}
        optional = {"device": device, "sid": session, "iss": self.issuer, "aud": self.audience}
        claims |= {name: value for name, value in optional.items() if value is not None}
        return jwt.encode(claims, self.key, self.algorithm, headers={"kid": self.kid} if self.kid is not None else None)


@dataclass(frozen=True, slots=True)
class Backend:
    """One application's; in `app.extensions["synckit_backend"]`."""

    store: Store
    notifier: Notifier
    signer: Signer
    last_seen: LastSeen


def current_backend() -> Backend:
    """Return the backend of the application that handles this request or command."""
    backend: Backend = current_app.extensions[EXTENSION_NAME]
    return backend
