"""Access tokens: how long they live, and the Signer that makes them. They are verified by the extension (tokens.py)."""

import time
from dataclasses import dataclass, field
from typing import Any

import jwt

TOKEN_SECONDS = 3600
"""How long an access token lives, and so how long a leaked one can be misused.

Upstream's tokens live seven days because nothing renews them; here a refresh token does. Each renewal is a write to the
database, and each stream ends with its token: with an hour both are rare.
"""

PASTED_TOKEN_SECONDS = 7 * 24 * 3600
"""The lifetime, as upstream's, of a token that a person pastes into a terminal and that nothing renews."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs tokens with one algorithm and key."""

    algorithm: str
    key: bytes = field(repr=False)
    kid: str | None
    issuer: str | None
    audience: str | None

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
        """Return a token that is issued now, or at the user's `valid_since` (Unix seconds) if that is in the future.

        It is one second ahead after a log-out, and more if the clock was set back since.
        """
        issued_at = max(int(time.time()), valid_since or 0)
        claims: dict[str, Any] = {"sub": user, "app": app, "iat": issued_at, "exp": issued_at + seconds}
        optional = {"device": device, "sid": session, "iss": self.issuer, "aud": self.audience}
        claims |= {name: value for name, value in optional.items() if value is not None}
        return jwt.encode(claims, self.key, self.algorithm, headers={"kid": self.kid} if self.kid is not None else None)
