"""What the document says of each route besides what its view tells: the Body that it reads, and its refusals.

Refusals that follow from the rest are not listed: those of a token, of a body, of the limits for failed attempts, and
of a database that is busy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypedDict

from ...errors import BadRequest, Forbidden, Refused, TooManyStreams
from .. import payloads
from ..errors import (
    Conflict,
    InvalidClient,
    InvalidField,
    InvalidGrant,
    NotFound,
    NotLocal,
    UnsupportedGrantType,
    UserNotFound,
    WrongCredentials,
    WrongPassword,
)
from ..oauth import payloads as oauth
from ..request_fields import Body, Field, Text, optional

HTML, TEXT, EVENT_STREAM, ANY = "text/html", "text/plain", "text/event-stream", "*/*"


class Errors(Enum):
    """How a route tells an error."""

    JSON = "a sentence"
    OAUTH = "a code of RFC 6749 and a sentence"
    PAGE = "a page for the user"


class SubscribeQuery(Body):
    """The channel."""

    app_id = Text("The app of the token.", longest=payloads.MAX_ID_CHARACTERS)
    device_id = optional(Text("The listening device; its own pushes send none.", longest=payloads.MAX_ID_CHARACTERS))


class Live(TypedDict):
    """The process answers."""

    live: bool


class Ready(TypedDict):
    """Whether this process takes requests, and the state of its broker and its streams."""

    ready: bool
    draining: bool
    host: bool
    writable: bool
    broker: str
    connected: bool
    echo: bool
    gaps: int
    invalid: int
    pending: int
    queue_usage: float
    streams: int
    max_streams: int | None
    fill: float


@dataclass(frozen=True, kw_only=True)
class Route:
    """One endpoint. Several bodies are alternatives; `forms` and `json` say how one may be sent.

    `answers` maps a status to a TypedDict, to a media type, or to None for an answer without a body. If it is empty the
    status is 200, with the type that the view returns.
    """

    tag: str
    name: str = ""
    """The name of the operation; by default that of the view."""
    summary: str = ""
    """What it does; by default the first sentence of the view's docstring."""
    bodies: tuple[type[Body], ...] = ()
    forms: bool = False
    json: bool = True
    path: Mapping[str, Field[Any]] = field(default_factory=dict)
    query: type[Body] | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    refusals: tuple[type[Refused], ...] = ()
    errors: Errors = Errors.JSON
    needs_token: bool = True
    needs_database: bool = True


def _public(tag: str, **rest: Any) -> Route:
    return Route(tag=tag, needs_token=False, **rest)


DEVICE = {"device_id": Text(longest=payloads.MAX_ID_CHARACTERS)}

ROUTES: Mapping[str, Route] = {
    "synckit_notify.subscribe": Route(
        tag="events",
        query=SubscribeQuery,
        answers={200: EVENT_STREAM},
        refusals=(BadRequest, Forbidden, TooManyStreams),
    ),
    "synckit_notify.live": _public("health", answers={200: Live}, needs_database=False),
    "synckit_notify.ready": _public("health", answers={200: Ready, 503: Ready}, needs_database=False),
    "synckit_notify.report": _public("health", name="metrics", answers={200: TEXT}, needs_database=False),
    "synckit_backend.auth": _public("sessions", bodies=(payloads.LogIn,), refusals=(WrongCredentials,)),
    "synckit_backend.change_password": Route(
        tag="sessions", bodies=(payloads.PasswordChange,), refusals=(WrongCredentials, WrongPassword)
    ),
    "synckit_backend.log_out": Route(tag="sessions", answers={204: None}, refusals=(Conflict,)),
    "synckit_backend.register_device": Route(tag="devices", bodies=(payloads.Registration,)),
    "synckit_backend.list_devices": Route(tag="devices", query=payloads.DevicesQuery, refusals=(InvalidField,)),
    "synckit_backend.delete_device": Route(
        tag="devices", path=DEVICE, answers={204: None}, refusals=(NotFound, InvalidField)
    ),
    "synckit_backend.push": Route(tag="changes", bodies=(payloads.Push,), refusals=(NotFound, Conflict)),
    "synckit_backend.pull": Route(tag="changes", bodies=(payloads.Pull,), refusals=(NotFound, Conflict)),
    "synckit_backend.status": Route(tag="changes"),
    "synckit_backend.put_keys": Route(tag="keys", bodies=(payloads.NewEnvelope,), refusals=(NotFound, Conflict)),
    "synckit_backend.get_keys": Route(tag="keys", refusals=(NotFound,)),
    "synckit_oauth.token": _public(
        "sessions",
        bodies=(oauth.RefreshGrant, oauth.CodeGrant),
        forms=True,
        refusals=(InvalidGrant, UnsupportedGrantType, InvalidClient),
        errors=Errors.OAUTH,
    ),
    "synckit_oauth.userinfo": Route(tag="sessions", refusals=(UserNotFound,), errors=Errors.OAUTH),
    "synckit_pages.show": _public(
        "log-in page",
        name="authorize",
        query=oauth.AuthorizationQuery,
        answers={200: HTML, 302: None},
        refusals=(BadRequest, InvalidField),
        errors=Errors.PAGE,
    ),
    "synckit_pages.decide": _public(
        "log-in page",
        query=oauth.AuthorizationQuery,
        bodies=(oauth.PageForm,),
        forms=True,
        json=False,
        answers={302: None, 303: None, 403: HTML},
        refusals=(BadRequest,),
        errors=Errors.PAGE,
    ),
    "synckit_openapi.openapi": _public("development", needs_database=False),
    "synckit_live.show": _public("development", name="page", answers={200: HTML}, needs_database=False),
    "synckit_live.static": _public(
        "development",
        summary="Return a file of the page.",
        path={"filename": Text(longest=payloads.MAX_ID_CHARACTERS)},
        answers={200: ANY},
        refusals=(NotFound,),
        needs_database=False,
    ),
    "synckit_live.begin": _public("development", name="begin_demo_session", refusals=(NotLocal, NotFound)),
}
