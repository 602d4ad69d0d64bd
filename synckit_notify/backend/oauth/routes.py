"""The endpoints for apps: POST /oauth/token, a grant in, two tokens out (RFC 6749), and GET /oauth/userinfo.

The body is a form, as the RFC says, or a JSON object. `client_id` is the app's API key. There is no client secret,
since an installed app cannot keep one. GRANTS maps each grant type to a function from the members of the body to the
response. Errors use the codes of the RFCs.
"""

import logging
from collections.abc import Callable
from typing import Any

from flask import Blueprint, request

from ...errors import InvalidToken, Refused
from .. import accounts, rate_limit, request_limits, request_parsing, sessions
from ..access_tokens import TOKEN_SECONDS
from ..context import current_backend
from ..errors import (
    InvalidClient,
    InvalidField,
    InvalidGrant,
    MalformedBody,
    OAuthError,
    TooManyAttempts,
    UnsupportedGrantType,
    UserNotFound,
)
from ..sessions import Holder, Refusal, Session
from . import authorization, payloads
from .authorization import OAuth2Error
from .codes import Replayed

Members = dict[str, Any]
Answer = dict[str, Any]

log = logging.getLogger(__name__)

blueprint = Blueprint("synckit_oauth", __name__)


@blueprint.post("/token")
def token() -> payloads.Tokens:
    """Issue tokens for a grant."""
    request.max_content_length = request_limits.MAX_SMALL_BODY_BYTES
    members = _members()
    grant = GRANTS.get(payloads.Grant(members).grant_type)
    if grant is None:
        raise UnsupportedGrantType(f"grant_type: must be one of {', '.join(GRANTS)}")
    return grant(members)


def refresh(members: Members) -> payloads.Tokens:
    """Exchange a refresh token for an access token and the next refresh token."""
    body = payloads.RefreshGrant(members)
    token = body.refresh_token
    backend, family = current_backend(), token.partition(".")[0]  # the user is not known yet
    app = _client(body, family)
    named = backend.store.read(lambda connection: sessions.holder(connection, token), owner=family)
    if named is None:
        raise InvalidGrant(Refusal.UNKNOWN.value)
    holder, session = backend.store.write(
        lambda connection: (sessions.holder(connection, token), sessions.renew(connection, app, token)),
        owner=named.user,
    )
    if session is Refusal.REUSED:
        log.warning("a refresh token of app %s was used again after its successor was used; the session was ended", app)
        _disconnect(holder)
    if isinstance(session, Refusal):
        raise InvalidGrant(session.value)
    return _tokens(session)


def exchange(members: Members) -> payloads.Tokens:
    """Exchange an authorization code for the tokens of a new session."""
    body = payloads.CodeGrant(members)
    app = _client(body, rate_limit.client_address())
    try:
        session = authorization.exchange_code(current_backend().store, app, body)
    except OAuth2Error as error:
        raise (InvalidGrant if error.error == InvalidGrant.error else OAuthError)(error.description) from error
    if isinstance(session, Replayed):
        if session.holder is not None:
            log.warning("an authorization code of app %s was used twice; the session was ended", app)
            _disconnect(session.holder)
        raise InvalidGrant("the code was already used or has expired: log in again")
    return _tokens(session)


GRANTS: dict[str, Callable[[Members], payloads.Tokens]] = {"refresh_token": refresh, "authorization_code": exchange}


@blueprint.get("/userinfo")
def userinfo() -> payloads.UserInfo:
    """Return the user of the token, as stored now."""
    backend = current_backend()
    who = backend.notifier.authenticate(request)
    user = backend.store.read(lambda connection: accounts.account(connection, who.user), owner=who.user)
    if user is None:
        raise UserNotFound
    return {
        "sub": user.id,
        "user_id": user.id,
        "app_id": who.app,
        "username": user.email,
        "display_name": user.email,
        "email": user.email,
        "avatar_url": None,
    }


@blueprint.errorhandler(InvalidToken)
def invalid_token(error: InvalidToken) -> tuple[Answer, int, dict[str, str]]:
    """Answer as RFC 6750, section 3.1 says: the header has no error code if the request had no token."""
    headers = error.headers if "Authorization" in request.headers else {"WWW-Authenticate": "Bearer"}
    return {"error": "invalid_token", "error_description": str(error)}, error.status, headers


@blueprint.errorhandler(OAuthError)
def refused(error: OAuthError) -> tuple[Answer, int, dict[str, str]]:
    """Answer as RFC 6749, section 5.2 says."""
    return {"error": error.error, "error_description": str(error)}, error.status, error.headers


@blueprint.errorhandler(MalformedBody)
@blueprint.errorhandler(InvalidField)
def invalid_request(error: Refused) -> tuple[Answer, int, dict[str, str]]:
    """Answer a malformed body or an invalid field."""
    return refused(OAuthError(str(error)))


@blueprint.errorhandler(TooManyAttempts)
def too_many(error: TooManyAttempts) -> tuple[Answer, int]:
    """Answer too many failed attempts; section 5.2 of RFC 6749 has no code for it, section 4.1.2.1 has."""
    return {"error": "temporarily_unavailable", "error_description": str(error)}, error.status


def _members() -> Members:
    """Return the members of a form or a JSON object; its first character decides, as some clients send no type."""
    content = request.get_data(cache=False)
    return request_parsing.parse(content) if content.lstrip().startswith(b"{") else request_parsing.parse_form(content)


def _client(body: payloads.Grant, owner: str | None) -> str:
    """Return the id of the app; `owner` is the one whose share of database connections is used."""
    app = current_backend().store.read(lambda connection: accounts.find_client(connection, body.client_id), owner=owner)
    if app is None:
        raise InvalidClient("client_id: no app has this API key")
    return app


def _disconnect(holder: Holder | None) -> None:
    if holder is not None:
        current_backend().notifier.disconnect(*holder)


def _tokens(session: Session) -> payloads.Tokens:
    signer = current_backend().signer
    return {
        "access_token": signer.sign(session.app, session.user, session=session.id, valid_since=session.valid_since),
        "token_type": "Bearer",
        "expires_in": TOKEN_SECONDS,
        "refresh_token": session.refresh_token,
        "user_id": session.user,
        "app_id": session.app,
    }
