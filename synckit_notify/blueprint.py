"""The routes: a request in, an event stream out.

    authenticate ──▶ register in the channel ──▶ check revocation ──▶ Response(EventStream(frames(Stream)))
                     and watch the peer                               close ──▶ release, one log line

The subscriber is registered before the headers are sent, so no push is missed in between. The request context ends
before the first byte: while the stream is open, the host's teardown has already released its database session. Refusals
are returned and not raised here, so that the error pages of a host application never replace them.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from blinker import Namespace
from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict
from werkzeug.wsgi import ClosingIterator

from . import metrics
from .app_state import AppState
from .errors import BadRequest, Forbidden, Refused
from .node import Node
from .runtime import wsgi_server
from .runtime.wsgi_server import Server
from .streams.channel import ChannelKey
from .streams.stream import Deadline, Stream, deadline, frames
from .tokens import MAX_ID_LENGTH, Principal

stream_opened = Namespace().signal("stream-opened")
"""A Flask signal, sent in the thread of each request that opens a stream; `stream` is the Stream."""

_HOST_VALUE = "synckit_host"
_ALLOWED = "GET, HEAD, OPTIONS"
_EVERY_METHOD = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]


class EventStream:
    """The body of one response: iterates over the frames and closes the stream.

    A server calls `close`. A middleware in between may not, so dropping the last reference closes the stream too.
    """

    __slots__ = ("_frames", "_node", "_stream")

    def __init__(self, stream: Stream, frames: Iterator[bytes], node: Node) -> None:
        self._stream = stream
        self._frames = frames
        self._node = node

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        """Close the stream; a parked one goes on without its server."""
        self._node.close(self._stream)

    def take_over(self, callbacks: list[Callable[[], object]]) -> None:
        """Call these when the stream has ended."""
        if callbacks:  # an empty list is 72 bytes for each parked stream
            self._stream.callbacks = callbacks

    def stay(self) -> None:
        """Never park this stream: a hook or middleware changes the bytes that the server gets."""
        self._frames = frames(self._stream)

    def __del__(self) -> None:
        self._node.abandon(self._stream)


class EventStreamResponse(Response):
    """The 200 response, with direct passthrough: nothing lies between the frames and the server's socket.

    The stream calls what the host gives to `call_on_close`: werkzeug does not for a body that is passed through, and a
    parked stream outlives the response that the server closes.
    """

    event_stream: EventStream | None = None

    def get_app_iter(self, environ: dict[str, Any]) -> Iterable[bytes]:
        """Return the body, with whatever a hook of the host has put around it or in its place."""
        app_iter, event_stream = super().get_app_iter(environ), self.event_stream
        if event_stream is None:
            return app_iter
        event_stream.take_over(self._on_close)
        self._on_close = []
        if app_iter is self.response:  # a callback that refers to its response must not keep the body alive
            self.response, self.event_stream = (), None
        if app_iter is event_stream:
            return app_iter
        event_stream.stay()
        return ClosingIterator(app_iter, event_stream.close)


def make_blueprint(app_state: AppState, *, host_matching: bool = False) -> Blueprint:
    """Return the blueprint that answers subscribe, live and ready for one application.

    With `host_matching`, where the application's URL map compares host names, the routes exist on every host.
    """
    blueprint = Blueprint("synckit_notify", __name__, url_prefix=app_state.settings.url_prefix)
    every_host = {"host": f"<{_HOST_VALUE}>"} if host_matching else {}

    @blueprint.url_value_preprocessor
    def forget_host(_: str | None, values: dict[str, Any] | None) -> None:
        (values or {}).pop(_HOST_VALUE, None)

    @blueprint.route("/subscribe", methods=_EVERY_METHOD, provide_automatic_options=False, **every_host)
    def subscribe() -> ResponseReturnValue:
        """Open the event stream of a channel; HEAD returns its headers alone."""
        try:
            return _answer(app_state)
        except Refused as refusal:
            app_state.node().refused(refusal)
            return refusal.get_response()

    @blueprint.get("/live", **every_host)
    def live() -> Response:
        """Answer while the process runs."""
        return _json({"live": True}, 200)

    @blueprint.get("/ready", **every_host)
    def ready() -> Response:
        """Return the state of this process; 503 while it is draining or when the application's own check fails."""
        state = app_state.readiness(wsgi_server.of_request(request.environ))
        return _json(state, 200 if state["ready"] else 503)

    if app_state.settings.metrics:

        @blueprint.get("/metrics", **every_host)
        def report() -> Response:
            """Return the metrics of this process in the format of Prometheus."""
            app_state.node().report()
            body, content_type = metrics.exposition()
            return Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})

    return blueprint


def _answer(app_state: AppState) -> Response:
    method = request.method
    if method == "OPTIONS":
        return Response(status=204, headers={"Allow": _ALLOWED, "Cache-Control": "no-store"})
    if method not in ("GET", "HEAD"):
        response = _json({"error": f"the method {method} is not allowed here"}, 405)
        response.headers["Allow"] = _ALLOWED
        return response
    principal = app_state.identify(request)
    key, device = _channel_and_device(principal)
    if method == "HEAD":
        return _event_stream_response(app_state, iter(()))
    return _open(app_state, principal, key, device)


def _channel_and_device(principal: Principal) -> tuple[ChannelKey, str | None]:
    """Return the channel that the request asks for, and the device that asks."""
    query = request.args
    app_id, device_id = _identifier(query, "app_id"), _identifier(query, "device_id")
    if app_id is None:
        raise BadRequest("the query parameter app_id is required")
    if app_id != principal.app:
        raise Forbidden("the token is for another app")
    return ChannelKey(principal.app, principal.user), principal.device or device_id


def _open(app_state: AppState, principal: Principal, key: ChannelKey, device: str | None) -> Response:
    server = wsgi_server.of_request(request.environ)
    app_state.check_server(server)
    node = app_state.node()
    subscriber = node.open(key, device, app_state.limits(server))
    try:
        app_state.remember(subscriber, principal)
        app_state.check_revocation(principal)
        stream, chunks = node.begin(
            subscriber,
            server.client_socket,
            keepalive=app_state.settings.keepalive_seconds,
            ends=_ends(app_state, principal, server),
            may_park=server.can_park,
        )
        try:
            if stream_opened.receivers:
                stream_opened.send(current_app._get_current_object(), stream=stream)  # type: ignore[attr-defined]
            body = EventStream(stream, chunks, node)
            response = _event_stream_response(app_state, body)
        except BaseException:
            node.close(stream)
            raise
    except BaseException:
        node.registry.release(subscriber)
        raise
    response.event_stream = body
    return response


def _ends(app_state: AppState, principal: Principal, server: Server) -> Deadline:
    expires_at = principal.expires_at
    return deadline(
        time.monotonic(),
        seconds_to_expiry=(expires_at - datetime.now(UTC)).total_seconds() if expires_at else None,
        max_age=app_state.settings.max_stream_seconds or server.max_stream_seconds,
    )


def _event_stream_response(app_state: AppState, body: Iterable[bytes]) -> EventStreamResponse:
    response = EventStreamResponse(
        body,
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-store, no-transform",
            "X-Accel-Buffering": "no",
            "SyncKit-Keepalive": f"{app_state.settings.keepalive_seconds:g}",
        },
        direct_passthrough=True,
    )
    of_host: Any = current_app.response_class
    if not isinstance(response, of_host):
        response.__class__ = _response_class(of_host)
    return response


@lru_cache
def _response_class(of_host: type[Response]) -> type[EventStreamResponse]:
    """Return a subclass of ours and of the host's `response_class`; Flask would convert ours to the host's alone."""
    return type("EventStreamResponse", (EventStreamResponse, of_host), {})


def _identifier(query: MultiDict[str, str], name: str) -> str | None:
    """Return a query parameter that is an id; None if it is absent."""
    values = query.getlist(name)
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"the query parameter {name} must be given once")
    if not values[0].strip() or len(values[0]) > MAX_ID_LENGTH or not values[0].isprintable():
        raise BadRequest(f"the query parameter {name} must be 1 to {MAX_ID_LENGTH} printable characters")
    return values[0]


def _json(body: dict[str, Any], status: int) -> Response:
    response = Response(json.dumps(body) + "\n", status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
