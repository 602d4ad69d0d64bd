"""The pages of GET and POST /oauth/authorize: one to log in and one to allow or decline. Plain HTML, no script.

    request of an app ──▶ logged in? ── no ──▶ log_in.html ── POST ──▶ the same URL again
                              └─────── yes ──▶ consent.html ── POST ──▶ the app's address, with a code

The URL contains the app's whole request, so the server stores none of it. One signed cookie holds a secret that each
form must repeat, which other sites cannot (CSRF), and the user who logged in. It expires after ten minutes and is
deleted with the decision, so that the next person at this browser has to log in. Its key is derived from the key that
signs tokens.
"""

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, render_template, request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from markupsafe import Markup
from sqlalchemy import Row
from werkzeug.exceptions import HTTPException
from werkzeug.urls import iri_to_uri

from ...errors import Refused
from .. import accounts, rate_limit, request_limits, request_parsing
from ..context import current_backend
from ..errors import InvalidField, WrongCredentials
from . import authorization
from .authorization import AuthorizationRequest, OAuth2Error
from .payloads import AuthorizationQuery, LogInForm, PageForm

VISIT_SECONDS = 600

WRONG = "The e-mail or the password is wrong."
STALE = "This page was open for too long, or your browser blocks cookies. Please try again."
AGAIN = "Please log in again."

STYLE = (Path(__file__).parent / "templates" / "page.css").read_text()
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

blueprint = Blueprint("synckit_pages", __name__, template_folder="templates")


class Visit(NamedTuple):
    """The content of the cookie; `since` is the user's `valid_since` at log-in, so a log-out everywhere ends it too."""

    secret: str
    user: str | None = None
    since: int | None = None


@blueprint.get("/authorize")
def show() -> Response:
    """Show the log-in page or the consent page."""
    return _page(_authorization_request(), _visit())


@blueprint.post("/authorize")
def decide() -> Response:
    """Perform the action of a form: log in, allow, decline, or switch to another account."""
    request.max_content_length = request_limits.MAX_SMALL_BODY_BYTES
    authorization_request, visit = _authorization_request(), _visit()
    members = request_parsing.parse_form(request.get_data(cache=False))
    form = PageForm(members)
    if visit is None or not hmac.compare_digest(form.secret.encode(), visit.secret.encode()):
        return _page(authorization_request, visit, problem=STALE)
    match form.action:
        case "log_in":
            return _log_in(authorization_request, visit, members)
        case "allow":
            return _allow(authorization_request, visit)
        case "switch":
            return _keep(_again(), Visit(_secret()))
        case _:
            return _leave(authorization.authorize(current_backend().store, _query(), None))


@blueprint.errorhandler(OAuth2Error)
def refused_by_rule(error: OAuth2Error) -> Response:
    """Redirect to the app with the error; show it to the user if the address is not verified (RFC 6749, 4.1.2.1)."""
    status, _, headers = error()
    return _leave(dict(headers)["Location"]) if status == 302 else _refusal(error.description, 400)


@blueprint.errorhandler(Refused)
def refused(error: Refused) -> Response:
    """Show the error to the user."""
    return _refusal(str(error), error.status, **error.headers)


@blueprint.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """Show the error to the user."""
    return _refusal(error.description or error.name, error.code or 500)


@blueprint.after_request
def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _log_in(authorization_request: AuthorizationRequest, visit: Visit, members: dict[str, Any]) -> Response:
    try:
        form = LogInForm(members)
    except InvalidField:
        return _page(authorization_request, visit, problem=WRONG)
    user = accounts.recognise(
        current_backend().store, form.email, form.password, rate_limit.check_rate_limit, rate_limit.client_address()
    )
    if user is None:
        return _page(authorization_request, visit, problem=WRONG, email=form.email)
    return _keep(_again(), Visit(_secret(), user.id, user.valid_since))


def _allow(authorization_request: AuthorizationRequest, visit: Visit) -> Response:
    user = _user(visit)
    try:
        if user is not None:
            return _leave(authorization.authorize(current_backend().store, _query(), user))
    except WrongCredentials:
        pass  # logged out everywhere since the page was shown
    return _page(authorization_request, Visit(visit.secret), problem=AGAIN)


def _authorization_request() -> AuthorizationRequest:
    return authorization.validate_request(current_backend().store, _query())


def _query() -> AuthorizationQuery:
    return AuthorizationQuery(request_parsing.parse_form(request.query_string))


def _user(visit: Visit) -> Row[Any] | None:
    if visit.user is None:
        return None
    user_id = visit.user
    user = current_backend().store.read(lambda connection: accounts.account(connection, user_id), owner=user_id)
    return user if user is not None and user.valid_since == visit.since else None


def _page(
    authorization_request: AuthorizationRequest, visit: Visit | None, *, problem: str = "", email: str = ""
) -> Response:
    """Return the consent page if the user is logged in, otherwise the log-in page."""
    present = visit or Visit(_secret())
    user = _user(present)
    content = render_template(
        "log_in.html" if user is None else "consent.html",
        style=Markup(STYLE),
        secret=present.secret,
        app_name=authorization_request.app_name,
        host=_web_host(authorization_request.redirect_uri),
        user_email=None if user is None else user.email,
        problem=problem,
        email=email,
    )
    response = Response(content, 403 if problem else 200)
    response.headers["Content-Security-Policy"] = _policy(f"'self' {_source(authorization_request.redirect_uri)}")
    return response if present == visit else _keep(response, present)


def _refusal(reason: str, status: int, **headers: str) -> Response:
    content = render_template("refused.html", style=Markup(STYLE), reason=reason, status=status)
    response = Response(content, status, headers)
    response.headers["Content-Security-Policy"] = _policy("'none'")
    return response


def _policy(form_action: str) -> str:
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {form_action}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


def _source(address: str) -> str:
    """Return the app's address as a `form-action` source, since browsers also check the redirect after a form.

    The grammar of the policy does not allow the host [::1]; for that the source is the scheme.
    """
    origin = re.match(r"https?://[\w.-]+(:\d+)?(?![^/?])", address, re.ASCII)
    return origin[0] if origin else address.partition(":")[0] + ":"


def _web_host(address: str) -> str | None:
    """Return the host of an https address; None for an app on the user's machine."""
    return re.split("[/?]", address.removeprefix("https://"))[0] if address.startswith("https://") else None


def _again() -> Response:
    """Redirect to the same URL; a relative address, since a proxy may have another host name."""
    return Response(status=303, headers={"Location": iri_to_uri("?" + request.query_string.decode())})


def _leave(location: str) -> Response:
    response = Response(status=302, headers={"Location": location})
    response.delete_cookie(_cookie_name(), secure=request.is_secure, httponly=True, samesite="Lax")
    return response


def _visit() -> Visit | None:
    try:
        return Visit(*_serializer().loads(request.cookies.get(_cookie_name(), ""), max_age=VISIT_SECONDS))
    except BadSignature:
        return None


def _keep(response: Response, visit: Visit) -> Response:
    response.set_cookie(
        _cookie_name(),
        _serializer().dumps(visit),
        VISIT_SECONDS,
        secure=request.is_secure,
        httponly=True,
        samesite="Lax",
    )
    return response


def _cookie_name() -> str:
    """Return the cookie's name; with TLS its prefix prevents other hosts from setting it."""
    return "__Host-synckit" if request.is_secure else "synckit"


def _serializer() -> URLSafeTimedSerializer:
    kinds = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(current_backend().signer.key, salt="synckit log-in page", signer_kwargs=kinds)


def _secret() -> str:
    return secrets.token_urlsafe(16)
