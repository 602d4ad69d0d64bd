"""What one application holds: its settings, the hooks of its host, and a Worker in every process.

The blueprint asks it who is calling and whether they are still welcome; the extension publishes through it. Hooks run
inside the application's context, also from a background thread, so a host's database session works in them as
everywhere and is given back afterwards.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Flask, Request

from . import brokers, metrics, process
from .channel import ChannelKey, Subscriber
from .errors import InvalidToken, Refused
from .logs import log
from .parking import TICK_SECONDS, works_here
from .registry import Registry
from .settings import Settings
from .tokens import Principal
from .worker import Worker

Id = str | int | UUID

Authenticate = Callable[[Request], Principal]
ValidSince = Callable[[Principal], datetime | None]
ChangedChannels = Callable[[datetime], Iterable[tuple[Id, Id] | tuple[Id, Id, datetime]]]
ReadyCheck = Callable[[], object]


@dataclass(slots=True)
class Hooks:
    """What the host told us, or None."""

    authenticate: Authenticate | None = None
    valid_since: ValidSince | None = None
    changed_channels: ChangedChannels | None = None
    ready_check: ReadyCheck | None = None


class Service:
    """One application's notification service; safe in any thread and in any process after a fork."""

    def __init__(self, app: Flask, hooks: Hooks) -> None:
        self.settings = Settings.read(app.config, own_tokens=hooks.authenticate is not None)
        self._app = app
        self._hooks = hooks
        self._workers = process.PerProcess(self._make_worker)
        self._warned = self._warn_of_faults()

    def worker(self) -> Worker:
        """Return this process's Worker."""
        return self._workers.get()

    def identify(self, request: Request) -> Principal:
        """Return who sends the request, by the host's own check or by the bearer token.

        Raises InvalidToken or Forbidden. Does not ask for revocation: that comes after registering.
        """
        if self._hooks.authenticate is not None:
            return _normal(self._hooks.authenticate(request))
        if self.settings.verifier is None:
            raise InvalidToken("no token can be checked here")
        return self.settings.verifier.verify(_bearer_token(request), datetime.now(UTC), self._valid_since)

    def check_revocation(self, principal: Principal) -> None:
        """Raise InvalidToken if the host no longer accepts tokens as old as this one."""
        if self._is_revoked(principal):
            raise InvalidToken("the token was revoked")

    def remember(self, subscriber: Subscriber, principal: Principal) -> None:
        """Keep what is needed to ask again after a gap of the broker; nothing for a host that revokes nothing."""
        if self._hooks.valid_since is not None:
            subscriber.principal = principal

    def readiness(self) -> dict[str, Any]:
        """Return the fields of `/ready`; `ready` is false only while draining or when the host's check fails."""
        worker = self.worker()
        streams, limit = len(worker.registry), worker.registry.max_streams
        healthy, fields = self._host_state()
        return fields | {
            "ready": healthy and not worker.draining,
            "draining": worker.draining,
            "host": healthy,
            "broker": worker.broker.name,
            **worker.broker.link()._asdict(),
            "streams": streams,
            "max_streams": limit,
            "fill": round(streams / limit, 4) if limit else 0.0,
        }

    def _make_worker(self) -> Worker:
        if not self._warned:
            self._warned = self._warn_of_faults()
        parks = self.settings.parking and works_here()
        limit = process.stream_limit(parking=parks)
        registry = Registry(
            max_streams=limit if self.settings.max_streams is None else self.settings.max_streams,
            max_per_channel=self.settings.max_streams_per_channel,
        )
        return Worker(
            registry,
            brokers.connect(self.settings.broker_url, self.settings.broker_namespace),
            changed_channels=self._changed_channels if self._hooks.changed_channels else None,
            sweep_seconds=self.settings.sweep_seconds,
            revoked=self._was_revoked if self._hooks.valid_since else None,
            metrics=metrics.connect(),
            parking_tick=min(TICK_SECONDS, self.settings.keepalive_seconds / 20) if parks else None,
        )

    def _warn_of_faults(self) -> bool:
        """Log what about this server cannot work; tells whether there was a server to look at yet."""
        for sentence in process.faults(alone=self.settings.broker_url.startswith("memory://")):
            log.warning("%s", sentence)
        return process.gunicorn_worker() is not None

    def _is_revoked(self, principal: Principal) -> bool:
        if principal.issued_at is None:
            return False
        since = self._valid_since(principal)
        return since is not None and principal.issued_at < since

    def _valid_since(self, principal: Principal) -> datetime | None:
        since = None if self._hooks.valid_since is None else self._hooks.valid_since(principal)
        return None if since is None else aware(since)

    def _was_revoked(self, subscriber: Subscriber) -> bool:
        """Ask the host once more, from a background thread."""
        if not isinstance(subscriber.principal, Principal):
            return False
        with self._app.app_context():
            return self._is_revoked(subscriber.principal)

    def _changed_channels(self, since: datetime) -> Iterable[tuple[ChannelKey, float | None]]:
        if self._hooks.changed_channels is None:
            return []
        with self._app.app_context():
            return [_changed_channel(row) for row in self._hooks.changed_channels(since)]

    def _host_state(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the host's check passes, and the fields that it adds to the answer."""
        if self._hooks.ready_check is None:
            return True, {}
        try:
            found = self._hooks.ready_check()
        except Refused:  # whoever refuses has written its own log line
            return False, {}
        except Exception:
            self._app.logger.exception("the host's ready check failed")
            return False, {}
        fields = found.items() if isinstance(found, Mapping) else ()
        return True, {str(name): value for name, value in fields if isinstance(value, bool | int | str)}


def canonical(value: Id) -> str:
    """Return an id as it is compared everywhere; raises TypeError for anything but str, int and UUID."""
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise TypeError(f"an id is a str, an int or a UUID, not {type(value).__name__}")
    return str(value)


def aware(moment: datetime) -> datetime:
    """Return the moment with a zone: a naive one, as many databases give it, is read as UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _normal(principal: Principal) -> Principal:
    """Return a host's Principal as ours are: ids as texts, times with their zone."""
    return Principal(
        app=canonical(principal.app),
        user=canonical(principal.user),
        device=None if principal.device is None else canonical(principal.device),
        session=None if principal.session is None else canonical(principal.session),
        issued_at=None if principal.issued_at is None else aware(principal.issued_at),
        expires_at=None if principal.expires_at is None else aware(principal.expires_at),
    )


def _bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("a bearer token is needed: send Authorization: Bearer <token>")
    return token.strip()


def _changed_channel(row: tuple[Id, Id] | tuple[Id, Id, datetime]) -> tuple[ChannelKey, float | None]:
    app_id, user_id, *changed_at = row
    key = ChannelKey(canonical(app_id), canonical(user_id))
    return key, aware(changed_at[0]).timestamp() if changed_at else None
