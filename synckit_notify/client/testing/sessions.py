"""Log-ins of a FakeServer: passwords, authorization codes, access tokens, and refresh tokens that rotate.

In: the fields of a request. Out: a Session and the members of an answer. Raises Refused. Tokens are random strings.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from .fields import Fields, Refused

TOKEN_SECONDS = 3600

Answer = dict[str, Any]


@dataclass
class Session:
    """One log-in of one device; `refresh_tokens` are those that were issued, the newest one last."""

    app: str
    user: str
    email: str
    device: str | None = None
    refresh_tokens: list[str] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))


class Sessions:
    """All sessions; not thread-safe."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[str, str]] = {}
        """The id and the password of each user, by e-mail."""
        self.apps: dict[str, str] = {}
        """The id of each app, by API key."""
        self._sessions: dict[str, Session] = {}
        self._tokens: dict[str, tuple[Session, float]] = {}
        self._codes: dict[str, tuple[Session, str]] = {}

    def log_in(self, body: Fields, now: float) -> Answer:
        """Begin a session with a password."""
        device = body.optional_text("device_id", 128)
        email = body.text("email", 254).strip().casefold()
        password, api_key = body.text("password", 1024), body.text("api_key", 128)
        user, right = self.users.get(email, ("", None))
        if password != right or api_key not in self.apps:
            wrong = "the API key, the e-mail or the password is wrong"
            raise Refused(401, wrong, headers={"WWW-Authenticate": "Bearer"})
        return self._logged_in(self._begin(self.apps[api_key], user, email, device), now)

    def change_password(self, session: Session, body: Fields, now: float) -> Answer:
        """Change the password and end all sessions of the user; the answer is a new one."""
        old, new = body.text("old_password", 1024), body.text("new_password", 1024)
        user, right = self.users[session.email]
        if old != right:
            raise Refused(403, "the old password is wrong")
        self.users[session.email] = user, new
        for other in [each for each in self._sessions.values() if each.user == user]:
            self.end(other)
        return self._logged_in(self._begin(session.app, user, session.email, session.device), now)

    def authorize(self, client_id: str, challenge: str, email: str) -> str:
        """Return an authorization code for this user, as after a log-in in the browser."""
        session = Session(self.apps[client_id], self.users[email][0], email)
        code = secrets.token_urlsafe(16)
        self._codes[code] = session, challenge
        return code

    def grant(self, body: Fields, now: float) -> Answer:
        """Answer `/oauth/token`."""
        kind = body.text("grant_type", 128)
        if kind not in ("refresh_token", "authorization_code"):
            message = "grant_type: must be one of refresh_token, authorization_code"
            raise Refused(400, message, code="unsupported_grant_type")
        app = self.apps.get(body.text("client_id", 128))
        if app is None:
            message = "client_id: no app has this API key"
            raise Refused(401, message, code="invalid_client", headers={"WWW-Authenticate": "Bearer"})
        session = self._renewed(body, app) if kind == "refresh_token" else self._exchanged(body, app)
        answer = self._logged_in(session, now)
        return {"access_token": answer.pop("token"), "token_type": "Bearer"} | answer

    def of_token(self, authorization: str, now: float) -> Session:
        """Return the session of a request."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _invalid("a bearer token is required: send Authorization: Bearer <token>")
        found = self._tokens.get(token)
        if found is None:
            raise _invalid("the token is not valid")
        session, expires_at = found
        if expires_at <= now:
            raise _invalid("the token has expired")
        if session.id not in self._sessions:
            raise _invalid("the token was revoked")
        return session

    def of_device(self, device: str) -> list[Session]:
        """Return the sessions of a device."""
        return [each for each in self._sessions.values() if each.device == device]

    def end(self, session: Session) -> None:
        """End a session: its tokens are refused."""
        self._sessions.pop(session.id, None)

    def lives(self, session_id: str) -> bool:
        """Return whether a session has not ended."""
        return session_id in self._sessions

    def expire_tokens(self) -> None:
        """Let all access tokens expire; refresh tokens stay valid."""
        self._tokens = {token: (session, 0.0) for token, (session, _) in self._tokens.items()}

    def _begin(self, app: str, user: str, email: str, device: str | None) -> Session:
        session = Session(app, user, email, device)
        session.refresh_tokens.append(_refresh_token(session))
        self._sessions[session.id] = session
        return session

    def _logged_in(self, session: Session, now: float) -> Answer:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = session, now + TOKEN_SECONDS
        return {
            "token": token,
            "user_id": session.user,
            "app_id": session.app,
            "expires_in": TOKEN_SECONDS,
            "refresh_token": session.refresh_tokens[-1],
        }

    def _renewed(self, body: Fields, app: str) -> Session:
        """Rotate a refresh token; the one before the newest gets the same successor again, an older one was stolen."""
        token = body.text("refresh_token", 128)
        session = self._sessions.get(token.partition(".")[0])
        if session is None:
            raise Refused(400, "the refresh token is unknown or has expired", code="invalid_grant")
        if session.app != app:
            raise Refused(400, "the refresh token belongs to another client", code="invalid_grant")
        if token == session.refresh_tokens[-1]:
            session.refresh_tokens = [token, _refresh_token(session)]
        elif token != session.refresh_tokens[0]:
            self.end(session)
            message = "the refresh token was already used: its session has ended, log in again"
            raise Refused(400, message, code="invalid_grant")
        return session

    def _exchanged(self, body: Fields, app: str) -> Session:
        session, challenge = self._codes.pop(body.text("code", 128), (None, ""))
        digest = hashlib.sha256(body.text("code_verifier", 128).encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if session is None or session.app != app or proof != challenge:
            raise Refused(400, "Invalid 'code' in request.", code="invalid_grant")
        return self._begin(app, session.user, session.email, body.optional_text("device_id", 128))


def _invalid(message: str) -> Refused:
    return Refused(401, message, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _refresh_token(session: Session) -> str:
    return f"{session.id}.{secrets.token_urlsafe(24)}"
