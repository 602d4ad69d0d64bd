"""A bearer token in, a Principal out (RFC 7519, 8725).

`signatures.py` checks the form and the signature. The claims are checked here, since the rules are exact: `exp` without
leeway, 10 s of leeway for an `iat` or `nbf` in the future, every claim of its type, access tokens only. Anything wrong
raises InvalidToken. No request, no clock and no I/O here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from .errors import InvalidToken
from .signatures import Claims, Header, Signatures

MAX_TOKEN_LENGTH = 8192
"""Longer than any header line that gunicorn accepts (8190): a limit for other servers."""

_FORM = re.compile(r"[\w-]+={0,2}(\.[\w-]*={0,2}){2}", re.ASCII)
"""Three parts in base64url (RFC 7515, section 3.1), with or without padding. PyJWT 2.10 ignores other characters."""

MAX_ID_LENGTH = 128
LEEWAY_SECONDS = 10
"""How far an issuer's clock may be ahead."""

MAX_INSTANT_SECONDS = 253402300799
"""The last second of the year 9999, the latest that `datetime` can hold."""

_OTHER_KINDS = frozenset({"refresh", "id", "offline", "logout"})
"""Values of `type`, `token_type` or `typ` in tokens for other purposes (Flask-JWT-Extended, Keycloak)."""

_ID_CLAIMS = frozenset({"at_hash", "c_hash"})
"""Claims that only ID tokens have (OpenID Connect Core, sections 3.1.3.6 and 3.3.2.11)."""

_OTHER_HEADER_TYPES = frozenset({"dpop+jwt", "logout+jwt", "secevent+jwt"})
"""The header's `typ` of proofs and events, which are signed by the same issuers (RFC 9449, 8417; OpenID Connect)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The app, user and device that a request comes from; ids are strings, times are aware UTC.

    `session` is passed to the host's `valid_since`, which may refuse an ended one; nothing here interprets it.
    """

    app: str
    user: str
    device: str | None = None
    session: str | None = None
    issued_at: datetime | None = None
    expires_at: datetime | None = None


ValidSince = Callable[[Principal], datetime | None]
"""Returns an aware datetime: tokens of this user that were issued earlier are revoked; or None."""


class TokenVerifier:
    """Checks tokens, first their signatures and then their claims. Immutable; any thread may use it.

    `audiences` are alternatives; with none, the claim `aud` is not checked. `default_app` is the app of tokens without
    the claim `app_claim`.
    """

    def __init__(
        self,
        signatures: Signatures,
        *,
        issuer: str | None = None,
        audiences: tuple[str, ...] = (),
        app_claim: str = "app",
        default_app: str | None = None,
    ) -> None:
        self._signatures = signatures
        self._issuer = issuer
        self._audiences = audiences
        self._app_claim = app_claim
        self._default_app = default_app

    def verify(self, token: str, now: datetime, valid_since: ValidSince | None = None) -> Principal:
        """Return the Principal that the token names; raises InvalidToken, or KeysUnavailable with an identity provider.

        A token may be issued in the future up to the moment that `valid_since` returns: when a user logged out before
        the clock was set back, all of their valid tokens are.
        """
        if len(token) > MAX_TOKEN_LENGTH or not _FORM.fullmatch(token):
            raise InvalidToken("the token is not valid")
        header, claims = self._signatures.open(token)
        _check_kind(header, claims)
        issued_at, expires_at = _instant(claims, "iat"), _instant(claims, "exp")
        if expires_at <= now:
            raise InvalidToken("the token has expired")
        if "nbf" in claims and (_instant(claims, "nbf") - now).total_seconds() > LEEWAY_SECONDS:
            raise InvalidToken("the token is not valid yet")
        self._check_parties(claims)
        default_app = self._default_app if claims.get(self._app_claim) is None else None
        principal = Principal(
            app=default_app if default_app is not None else _identifier(claims, self._app_claim),
            user=_identifier(claims, "sub"),
            device=_identifier(claims, "device") if claims.get("device") is not None else None,
            session=_identifier(claims, "sid") if claims.get("sid") is not None else None,
            issued_at=issued_at,
            expires_at=expires_at,
        )
        if (issued_at - now).total_seconds() > LEEWAY_SECONDS:
            since = None if valid_since is None else valid_since(principal)
            if since is None or issued_at > since:
                raise InvalidToken("the token was issued in the future")
        return principal

    def check(self) -> None:
        """Raise KeysUnavailable if there are no keys to check tokens with; may wait for a fetch, 5 s at most."""
        self._signatures.check()

    def describe(self) -> str:
        """Return what checks the signature, and the checked parties, without any secret."""
        issuer = f"issuer {self._issuer!r}" if self._issuer else "any issuer"
        audiences = ", ".join(repr(each) for each in self._audiences)
        return f"{self._signatures.describe()}, {issuer}, {f'audience {audiences}' if audiences else 'any audience'}"

    def _check_parties(self, claims: Claims) -> None:
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise InvalidToken("the token is from another issuer")
        if self._audiences:
            named = claims.get("aud")
            if "aud" not in claims and _word(claims.get("token_use")) == "access":  # access tokens of Amazon Cognito
                named = claims.get("client_id")
            if not any(audience in self._audiences for audience in (named if isinstance(named, list) else [named])):
                raise InvalidToken("the token is for another audience")


def _check_kind(header: Header, claims: Claims) -> None:
    """Refuse tokens that an issuer signs with the same key for another purpose."""
    use = claims.get("token_use")
    if (
        any(name in claims and _word(claims[name]) in _OTHER_KINDS for name in ("type", "token_type", "typ"))
        or not _ID_CLAIMS.isdisjoint(claims)
        or (use is not None and _word(use) != "access")
        or _word(header.get("typ")).removeprefix("application/") in _OTHER_HEADER_TYPES
    ):
        raise InvalidToken("this is not an access token: send the access token")


def _word(value: object) -> str:
    return value.casefold() if isinstance(value, str) else ""


def _instant(claims: Claims, name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the claim {name!r} is missing or not a number")
    if not 0 <= value <= MAX_INSTANT_SECONDS:  # also false for NaN
        raise InvalidToken(f"the claim {name!r} is out of range")
    return datetime.fromtimestamp(value, UTC)


def _identifier(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH or not value.isprintable():
        raise InvalidToken(f"the claim {name!r} is missing or not a printable string")
    return value
