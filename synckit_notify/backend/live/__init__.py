"""The live page at `/`, in development only: two devices of the demo account side by side, for a newcomer.

    GET /                live.html; it says nothing that is not in this repository
    GET /static/…        its script, its style, and synckit.js, which people may copy
    POST /live/session   a token for the demo account, to this machine's own browser alone

Why the page asks for no password: that stood in a terminal, once, and is stored nowhere. Why this is safe: a token
counts ten minutes and for the demo account alone, stands in no page and no address, and is given only to a connection
from the loopback, under a name of the loopback (a stranger's name that leads here is an attack by DNS), with no proxy
in between (all its visitors would seem local), and to our own page (every other site has another Origin). Not kept out
are other users of this machine, and strangers behind a proxy that tells nobody of itself: they get to the demo's notes.
In production nothing of all this exists.
"""

import ipaddress
import re

from flask import Blueprint, Request, Response, render_template, request
from sqlalchemy import Connection, select

from .. import accounts
from ..context import current_backend
from ..database.schema import apps
from ..development import DEMO_EMAIL, PAGE_APP
from ..errors import NotFound, NotLocal
from ..oauth import pages

TOKEN_SECONDS = 600
"""Short, so that the page shows what happens when a token ends, and one that leaked is soon of no use."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

_LOOPBACK_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_PROXIES = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|x-client-ip|true-client-ip|cf-.*|via", re.IGNORECASE)

blueprint = Blueprint(
    "synckit_live", __name__, static_folder="static", static_url_path="/static", template_folder="templates"
)


@blueprint.get("/")
def show() -> str:
    """Show the page."""
    api = request.script_root + current_backend().settings.url_prefix
    return render_template("live.html", api=api, devices=("Laptop", "Phone"))


@blueprint.post("/live/session")
def begin() -> dict[str, str]:
    """Answer a token for the demo account."""
    if not is_from_here(request):
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


def is_from_here(asked: Request) -> bool:
    """Return whether a page of ours asks, in a browser on this machine, with nobody in between."""
    return (
        _is_loopback(asked.remote_addr)
        and _LOOPBACK_HOST.fullmatch(asked.host) is not None
        and asked.headers.get("Origin") == f"{asked.scheme}://{asked.host}"
        and asked.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        and not any(_PROXIES.fullmatch(name) for name, _ in asked.headers)
    )


def _is_loopback(address: str | None) -> bool:
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:  # a Unix socket has none
        return False


def _demo(connection: Connection) -> tuple[str, str, int | None]:
    """Return the page's app, the demo's user and the second before which his tokens do not count."""
    user = accounts.account_of(connection, DEMO_EMAIL)
    if user is None:
        raise NotFound(
            "there is no demo account: it is made when gunicorn starts on 127.0.0.1 with an empty database; "
            "move the folder instance/ away and start again"
        )
    oldest = select(apps.c.id).where(apps.c.name == PAGE_APP).order_by(apps.c.created_at).limit(1)
    app = connection.execute(oldest).scalar() or accounts.add_app(connection, PAGE_APP)[0]  # an older release's demo
    return app, user.id, user.valid_since
