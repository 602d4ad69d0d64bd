"""The live page at `/`, in development only: two devices of the demo account side by side.

    GET /                live.html, without any secret
    GET /static/…        its script, its style, and synckit.js, a client to copy
    POST /live/session   a token for the demo account, for a browser on this machine only

The page cannot ask for the demo account's password: it was printed once and is not stored. A token without a password
is acceptable because it is valid for ten minutes and for the demo account only, and is in no page and no URL. It is
issued only

    - to a loopback address,
    - under a loopback host name, since another name that resolves to this machine is a DNS rebinding attack,
    - without a proxy, which would make every visitor look local,
    - to this page: every other site sends another Origin.

Other users of this machine, and visitors through a proxy that adds no header, can still read the demo's notes. In
production none of these routes exists.
"""

import ipaddress
import re
from typing import TypedDict

from flask import Blueprint, Request, Response, render_template, request
from sqlalchemy import Connection, select

from .. import accounts
from ..context import current_backend
from ..database.schema import apps
from ..development import DEMO_EMAIL, PAGE_APP
from ..errors import NotFound, NotLocal
from ..oauth import pages

TOKEN_SECONDS = 600
"""Short, so that the page shows the renewal of a token, and a leaked token is soon useless."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_PROXIES = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|x-client-ip|true-client-ip|cf-.*|via", re.IGNORECASE)

blueprint = Blueprint(
    "synckit_live", __name__, static_folder="static", static_url_path="/static", template_folder="templates"
)


class DemoSession(TypedDict):
    """A token for the demo account."""

    token: str
    app_id: str
    user_id: str


@blueprint.get("/")
def show() -> str:
    """Return the page."""
    api = request.script_root + current_backend().settings.url_prefix
    return render_template("live.html", api=api, devices=("Laptop", "Phone"))


@blueprint.post("/live/session")
def begin() -> DemoSession:
    """Return a token for the demo account."""
    if not is_local(request):
        raise NotLocal
    backend = current_backend()
    app, user, valid_since = backend.store.write_alone(_demo)
    token = backend.signer.sign(app, user, valid_since=valid_since, seconds=TOKEN_SECONDS)
    return {"token": token, "app_id": app, "user_id": user}


@blueprint.after_request
def _protect(response: Response) -> Response:
    for name, value in (pages.HEADERS | {"Content-Security-Policy": POLICY}).items():
        response.headers.setdefault(name, value)
    return response


def is_local(incoming: Request) -> bool:
    """Return whether our own page sent the request, from a browser on this machine and without a proxy."""
    return (
        _is_loopback(incoming.remote_addr)
        and _LOOPBACK_HOST.fullmatch(incoming.host) is not None
        and incoming.headers.get("Origin") == f"{incoming.scheme}://{incoming.host}"
        and incoming.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        and not any(_PROXIES.fullmatch(name) for name, _ in incoming.headers)
    )


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:  # a Unix socket has no address
        return False


def _demo(connection: Connection) -> tuple[str, str, int | None]:
    """Return the ids of the page's app and of the demo user, and the Unix time before which its tokens are refused."""
    user = accounts.account_of(connection, DEMO_EMAIL)
    if user is None:
        raise NotFound(
            "there is no demo account: gunicorn creates it when it starts on 127.0.0.1 with an empty database; "
            "move the folder instance/ away and start gunicorn again"
        )
    oldest = select(apps.c.id).where(apps.c.name == PAGE_APP).order_by(apps.c.created_at).limit(1)
    app = (
        connection.execute(oldest).scalar() or accounts.add_app(connection, PAGE_APP)[0]
    )  # the demo of an older release has none
    return app, user.id, user.valid_since
