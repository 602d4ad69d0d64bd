"""The state of one Flask application: its settings, the hooks of its host, and a Node in every process.

The blueprint asks it who sends a request and whether the token was revoked; the extension publishes through it.
"""

from datetime import UTC, datetime
from typing import Any

from flask import Flask, Request

from . import brokers, metrics
from .errors import Forbidden, InvalidToken, TooManyStreams
from .hooks import HookCalls, Hooks
from .node import Node
from .runtime import wsgi_server
from .runtime.per_process import PerProcess
from .runtime.wsgi_server import Server
from .settings import Settings, with_environment
from .streams.channel import Subscriber
from .streams.registry import Limits, Registry, Seats
from .tokens import Principal

EXTENSION_NAME = "synckit_notify"
"""The key in `app.extensions`."""

_seats = PerProcess(Seats)
"""Shared by the applications of a process: the limits are those of its server."""


class AppState:
    """The notification service of one application; usable in any thread, and in any process after a fork."""

    def __init__(self, app: Flask, hooks: Hooks) -> None:
        self.settings = Settings.read(with_environment(app.config), own_tokens=hooks.authenticate is not None)
        self._app = app
        self._hooks = hooks
        self._calls = HookCalls(app, hooks)
        self._nodes = PerProcess(self._make_node)
        self._warned = self._warn_of_faults()

    @property
    def broker_address(self) -> tuple[str, str]:
        """Return the URL and the namespace of the broker. Tests that set `app.testing` reach no other process."""
        url = self.settings.broker_url or ("memory://" if self._app.testing else "local://")
        return url, self.settings.broker_namespace or brokers.default_namespace(url, self._app.instance_path)

    def node(self) -> Node:
        """Return this process's Node."""
        return self._nodes.get()

    @property
    def hooks(self) -> Hooks:
        """Return the hooks that the host has registered."""
        return self._hooks

    @property
    def calls(self) -> HookCalls:
        """Return what calls the hooks and checks what they return."""
        return self._calls

    def identify(self, request: Request) -> Principal:
        """Return who sends the request, by the host's own check or by the bearer token.

        Raises InvalidToken, Forbidden, HookFailed or another Refused of the host. Revocation is not checked here: that
        is done after registering, so that a disconnect in between is not missed.
        """
        if self._hooks.authenticate is not None:
            return self._calls.authenticate(self._hooks.authenticate, request)
        if self.settings.verifier is None:
            raise InvalidToken("this server cannot check tokens")
        return self.settings.verifier.verify(_bearer_token(request), datetime.now(UTC), self._calls.valid_since)

    def check_revocation(self, principal: Principal) -> None:
        """Raise InvalidToken if the host has revoked the token, HookFailed if it cannot say."""
        if principal.issued_at is None:
            return
        since = self._calls.valid_since(principal)
        if since is not None and principal.issued_at < since:
            raise InvalidToken("the token was revoked")

    def remember(self, subscriber: Subscriber, principal: Principal) -> None:
        """Keep the principal, to check it again after a gap of the broker; not for a host that never revokes."""
        if self._hooks.valid_since is not None:
            subscriber.principal = principal

    def check_server(self, server: Server) -> None:
        """Raise TooManyStreams on a server that cannot hold a stream; log a warning on an unknown one."""
        if server.refusal is not None:
            wsgi_server.warn_once(server.refusal)
            raise TooManyStreams(server.refusal, status=503)
        if server.warning is not None and None in (self.settings.max_streams, self.settings.max_stream_seconds):
            wsgi_server.warn_once(server.warning)

    def limits(self, server: Server) -> Limits:
        """Return how many streams may be open in this process, by SYNCKIT_MAX_STREAMS or else by the server."""
        if self.node().parking is not None:
            return Limits(self.settings.max_streams or server.max_parked, server.max_streams)
        return Limits(self.settings.max_streams or server.max_streams)

    def readiness(self, server: Server) -> dict[str, Any]:
        """Return the fields of `/ready`; `ready` is False only while draining or when the host's check fails."""
        node, limits = self.node(), self.limits(server)
        streams, fill = node.registry.seats.usage(limits)
        healthy, fields = self._calls.readiness()
        return fields | {
            "ready": healthy and not node.draining,
            "draining": node.draining,
            "host": healthy,
            "broker": node.broker.name,
            **node.broker.status()._asdict(),
            "streams": streams,
            "max_streams": limits.streams,
            "fill": round(fill, 4),
        }

    def _make_node(self) -> Node:
        if not self._warned:
            self._warned = self._warn_of_faults()
        server = wsgi_server.of_process()
        parks = self.settings.parking and server is not None and server.can_park
        return Node(
            Registry(seats=_seats.get(), max_per_channel=self.settings.max_streams_per_channel),
            brokers.connect(*self.broker_address),
            changed_channels=self._calls.changed_channels if self._hooks.changed_channels else None,
            sweep_seconds=self.settings.sweep_seconds,
            revoked=self._was_revoked if self._hooks.valid_since else None,
            metrics=metrics.connect(),
            parks=parks,
        )

    def _warn_of_faults(self) -> bool:
        """Log the settings of this server that cannot work; return whether the server is known yet."""
        for sentence in wsgi_server.faults(alone=self.broker_address[0].startswith("memory://")):
            wsgi_server.warn_once(sentence)
        return wsgi_server.of_process() is not None

    def _was_revoked(self, subscriber: Subscriber) -> bool:
        """Ask the host again, from a background thread; raises a Refused if it cannot say."""
        if not isinstance(subscriber.principal, Principal):
            return False
        try:
            with self._app.app_context():
                self.check_revocation(subscriber.principal)
        except (InvalidToken, Forbidden):
            return True
        return False


def _bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("a bearer token is required: send Authorization: Bearer <token>")
    return token.strip()
