"""`Notifier`, the Flask extension.

    notifier = Notifier()
    notifier.init_app(app)                                   # mounts GET /api/sync/subscribe
    notifier.publish(app_id, user_id, origin_device=device)  # after the commit

It holds the host's hooks and no state of an application: that is in `app.extensions["synckit_notify"]`, so one Notifier
can serve several applications, and several Notifiers can live in one process.
"""

import weakref
from datetime import datetime

from flask import Flask, Request, current_app
from flask.typing import ResponseReturnValue

from . import cors, host_commands, listeners_first
from .app_state import EXTENSION_NAME, AppState
from .blueprint import make_blueprint
from .brokers import Disconnect, Notice
from .errors import NotifyError, Refused
from .hooks import Authenticate, ChangedChannels, Hooks, Id, ReadyCheck, ValidSince, aware, canonical, function
from .node import Node
from .tokens import Principal


class Notifier:
    """Tells every connected device of an app and user that something has changed.

    `authenticate` replaces the check of SyncKit's own tokens: it is called with the Flask request and returns a
    Principal, or raises InvalidToken or Forbidden. All methods may be called from any thread.
    """

    def __init__(self, app: Flask | None = None, *, authenticate: Authenticate | None = None) -> None:
        self._hooks = Hooks(authenticate=None if authenticate is None else function(authenticate))
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Mount subscribe, live and ready on an application; raises ConfigurationError naming the wrong key.

        Reads the SYNCKIT_* keys of `app.config`, else of the environment; strings are accepted. They are listed in
        `setting_names.NOTIFIER` and described in docs/mounting.md. An unknown name is a warning with the nearest one.

        Adds `publish`, `streams` and `doctor` to the commands `flask synckit`.

        What `authenticate` raises in the host's own routes is an HTTPException: the host's error handlers for its
        status, its class or HTTPException apply; without one the answer is JSON.
        """
        if EXTENSION_NAME in app.extensions:
            raise RuntimeError("a Notifier is already mounted on this application")
        app_state = AppState(app, self._hooks)
        app.register_blueprint(make_blueprint(app_state, host_matching=app.url_map.host_matching))
        app.register_error_handler(NotifyError, _refusal_response)
        for_pages = {f"{app_state.settings.url_prefix}/{route}" for route in ("subscribe", "live", "ready")}
        cors.install(app, app_state.settings.cors_origins, for_pages.__contains__)
        listeners_first.ListenersFirst().install(app)
        app.extensions[EXTENSION_NAME] = app_state
        host_commands.install(app)
        self._apps.add(app)

    def publish(
        self,
        app_id: Id,
        user_id: Id,
        origin_device: Id | None = None,
        *,
        changed_at: datetime | None = None,
        previous_at: datetime | None = None,
    ) -> None:
        """Notify every device of the user except the one that pushed. Call it after the commit; it never waits.

        `changed_at` and `previous_at` are the host's own times of this change and of the channel's change before it.
        With them, the sweep wakes only devices that missed something; without them, it may wake others too. Raises
        TypeError for an id of another type, RuntimeError outside an application context if there are several
        applications.
        """
        app, user, origin = canonical(app_id), canonical(user_id), _optional(origin_device)
        notice = Notice(app, user, origin, _timestamp(changed_at), _timestamp(previous_at))
        listeners_first.remember(self._node().publish(notice))

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait up to `timeout` seconds until the broker has accepted all published notices; return whether it has.

        Only for a process that ends by a bare `os._exit`. All others do this at their end, for 2 s at most: programs,
        servers, and the children of multiprocessing, concurrent.futures and Celery. Do not call it in a request.
        """
        return self._node().broker.flush(timeout)

    def disconnect(self, app_id: Id, user_id: Id, device: Id | None = None) -> None:
        """End the streams of a user; with `device`, those that name this device or none.

        Move the moment that `valid_since` returns first: otherwise the client connects again.
        """
        self._node().publish(Disconnect(canonical(app_id), canonical(user_id), _optional(device)))

    def authenticate(self, request: Request) -> Principal:
        """Return who sends a request, as the subscribe route does: for the host's own push and pull.

        Raises InvalidToken (also for a revoked token), Forbidden, or HookFailed.
        """
        app_state = self._app_state()
        principal = app_state.identify(request)
        app_state.check_revocation(principal)
        return principal

    def valid_since(self, hook: ValidSince) -> ValidSince:
        """Register `f(principal) -> datetime or None`: earlier tokens are refused. A naive time is UTC."""
        self._hooks.valid_since = function(hook)
        return hook

    def changed_channels(self, hook: ChangedChannels) -> ChangedChannels:
        """Register `f(since) -> rows of (app_id, user_id)` or `(app_id, user_id, changed_at)` for the sweep.

        The sweep asks every few seconds which channels changed since then, and wakes those that missed a notice.
        """
        self._hooks.changed_channels = function(hook)
        return hook

    def ready_check(self, hook: ReadyCheck) -> ReadyCheck:
        """Register `f()`, which raises or returns False when the host cannot serve: `/ready` then answers 503.

        A dict that it returns is added to the answer; its values must be integers, strings or booleans.
        """
        self._hooks.ready_check = function(hook)
        return hook

    def _node(self) -> Node:
        return self._app_state().node()

    def _app_state(self) -> AppState:
        app = current_app._get_current_object() if current_app else self._only_app()  # type: ignore[attr-defined]
        app_state: AppState | None = app.extensions.get(EXTENSION_NAME)
        if app_state is None:
            raise RuntimeError("no Notifier is mounted on this application: call notifier.init_app(app)")
        return app_state

    def _only_app(self) -> Flask:
        apps = list(self._apps)
        if not apps:
            raise RuntimeError("this Notifier is not mounted: call notifier.init_app(app) first")
        if len(apps) > 1:
            raise RuntimeError(f"this Notifier serves {len(apps)} applications: call it inside app.app_context()")
        return apps[0]


def _refusal_response(error: NotifyError) -> ResponseReturnValue:
    if isinstance(error, Refused):
        return error.get_response()
    raise error


def _optional(value: Id | None) -> str | None:
    return None if value is None else canonical(value)


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else aware(moment).timestamp()
