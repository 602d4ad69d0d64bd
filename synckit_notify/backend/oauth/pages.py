"""What a person sees: GET and POST /oauth/authorize, a page to log in and a page to decide. Plain HTML, no script.

    what an app asks ──▶ logged in? ── no ──▶ log_in.html ── POST ──▶ the same address again
                              └────── yes ──▶ consent.html ── POST ──▶ the app's address, with a code

The address holds the app's request all the way, so none of it is kept here. One signed cookie holds a secret that each
form must repeat (no other site can), and who logged in. It counts for ten minutes and is gone with the decision: the
next person at this browser must not be one click away from the account. Its key is derived from the tokens' key.
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
from .. import accounts, rate_limit, request_fields, request_limits
from ..context import current_backend
from ..errors import InvalidField, WrongCredentials
from ..passwords import MAX_PASSWORD_CHARACTERS
from ..request_fields import Fields
from . import authorization
from .authorization import Asked, OAuth2Error

VISIT_SECONDS = 600

WRONG = "The e-mail or the password is wrong."
STALE = "This page was open for too long, or your browser keeps no cookies. Please try again."
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
    """What the cookie holds; `since` is the user's `valid_since` at the log-in, so a log-out everywhere ends it too."""

    secret: str
    user: str | None = None
    since: int | None = None


@blueprint.get("/authorize")
def show() -> Response:
    """Show what an app asks for."""
    return _page(_asked(), _visit())


@blueprint.post("/authorize")
def decide() -> Response:
    """Do what a form says: log in, allow, decline, or log in as somebody else."""
    request.max_content_length = request_limits.MAX_SMALL_BODY_BYTES
    asked, visit = _asked(), _visit()
    form = request_fields.parse_form(request.get_data(cache=False))
    if visit is None or not hmac.compare_digest(form.text("secret", longest=100).encode(), visit.secret.encode()):
        return _page(asked, visit, problem=STALE)
    match form.choice("action", ("log_in", "allow", "decline", "switch")):
        case "log_in":
            return _log_in(asked, visit, form)
        case "allow":
            return _allow(asked, visit)
        case "switch":
            return _keep(_again(), Visit(_secret()))
        case _:
            return _leave(authorization.authorize(current_backend().store, _query(), None))


@blueprint.errorhandler(OAuth2Error)
def refused_by_rule(error: OAuth2Error) -> Response:
    """Tell the app by a redirect, or the person where it is not sure whose address that is (RFC 6749, 4.1.2.1)."""
    status, _, headers = error()
    return _leave(dict(headers)["Location"]) if status == 302 else _refusal(error.description, 400)


@blueprint.errorhandler(Refused)
def refused(error: Refused) -> Response:
    """Tell the person."""
    return _refusal(str(error), error.status, **error.headers)


@blueprint.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """Tell the person."""
    return _refusal(error.description or error.name, error.code or 500)


@blueprint.after_request
def _protect(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _log_in(asked: Asked, visit: Visit, form: Fields) -> Response:
    try:
        email = form.text("email", longest=accounts.MAX_EMAIL_CHARACTERS)
        password = form.text("password", longest=MAX_PASSWORD_CHARACTERS)
    except InvalidField:
        return _page(asked, visit, problem=WRONG)
    user = accounts.recognise(
        current_backend().store, email, password, rate_limit.check_rate_limit, rate_limit.client_address()
    )
    if user is None:
        return _page(asked, visit, problem=WRONG, email=email)
    return _keep(_again(), Visit(_secret(), user.id, user.valid_since))


def _allow(asked: Asked, visit: Visit) -> Response:
    user = _user(visit)
    try:
        if user is not None:
            return _leave(authorization.authorize(current_backend().store, _query(), user))
    except WrongCredentials:
        pass  # logged out everywhere, in this moment
    return _page(asked, Visit(visit.secret), problem=AGAIN)


def _asked() -> Asked:
    return authorization.validate_request(current_backend().store, _query())


def _query() -> Fields:
    return request_fields.parse_form(request.query_string)


def _user(visit: Visit) -> Row[Any] | None:
    if visit.user is None:
        return None
    user_id = visit.user
    user = current_backend().store.read(lambda connection: accounts.account(connection, user_id), owner=user_id)
    return user if user is not None and user.valid_since == visit.since else None


def _page(asked: Asked, visit: Visit | None, *, problem: str = "", email: str = "") -> Response:
    """Return the page that is due: to decide for who has logged in, else to log in."""
    present = visit or Visit(_secret())
    user = _user(present)
    content = render_template(
        "log_in.html" if user is None else "consent.html",
        style=Markup(STYLE),
        secret=present.secret,
        app_name=asked.app_name,
        host=_web_host(asked.redirect_uri),
        user_email=None if user is None else user.email,
        problem=problem,
        email=email,
    )
    response = Response(content, 403 if problem else 200)
    response.headers["Content-Security-Policy"] = _policy(f"'self' {_source(asked.redirect_uri)}")
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
    """Return how the policy names where a form may end up: a browser also checks the redirect that answers it.

    The policy's grammar has no words for the host [::1], so there it is the scheme.
    """
    origin = re.match(r"https?://[\w.-]+(:\d+)?(?![^/?])", address, re.ASCII)
    return origin[0] if origin else address.partition(":")[0] + ":"


def _web_host(address: str) -> str | None:
    """Return the host of a web address, None for an app on the person's own machine."""
    return re.split("[/?]", address.removeprefix("https://"))[0] if address.startswith("https://") else None


def _again() -> Response:
    """Send the browser to this very address, by whatever name it knows us behind a proxy."""
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
    """Return a name that with TLS no other host of the domain, and nobody on the way, can set a cookie of."""
    return "__Host-synckit" if request.is_secure else "synckit"


def _serializer() -> URLSafeTimedSerializer:
    kinds = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeTimedSerializer(current_backend().signer.key, salt="synckit log-in page", signer_kwargs=kinds)


def _secret() -> str:
    return secrets.token_urlsafe(16)
