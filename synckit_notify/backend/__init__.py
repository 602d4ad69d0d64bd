"""The reference backend: a small SyncKit server that uses the Notifier as any other application would.

    settings ──▶ Backend (context) ──▶ routes (api, oauth, live), commands (`flask synckit`), demo (development)

`create_app` reads SYNCKIT_* from its argument, else from the environment, and makes the Flask application. It leaves no
connection and no lock open, so a server may fork after it. It fails only for what an operator must correct: an invalid
setting, a missing driver, a database of another program. An unavailable database does not stop the start: otherwise one
worker that starts during an outage would stop gunicorn, and with it the streams of all other workers.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from flask import Flask, Request, Response, json
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

from .. import Notifier, Principal, cors
from ..runtime.per_process import PerProcess
from ..settings import with_environment
from . import admin, api, changelog, development, live, openapi, payloads, rate_limit, sessions
from .context import EXTENSION_NAME, Backend
from .database.store import Store
from .errors import Busy
from .last_seen import LastSeen
from .oauth import pages
from .oauth import routes as oauth
from .settings import BackendSettings, broker_defaults

__all__ = ["Backend", "create_app"]

log = logging.getLogger(__name__)


def create_app(config: Mapping[str, Any] | None = None, *, instance_path: str | Path | None = None) -> Flask:
    """Return the backend as a Flask application; raises ConfigurationError, which names the wrong setting.

    `config` takes precedence over SYNCKIT_* in the environment. `instance_path` is the folder of the default database
    and, in development, of the key.
    """
    folder = None if instance_path is None else str(Path(instance_path).absolute())
    app = Flask(__name__, instance_path=folder, static_folder=None)
    app.request_class = _Request
    app.json = _JSON(app)
    app.config.update(config or {})
    development.provide_key(app)
    settings = BackendSettings.read(with_environment(app.config))
    database_url = settings.database_url or development.default_database(app)
    store = _prepared_store(database_url)
    if not app.testing:
        app.config.update(broker_defaults(with_environment(app.config), database_url))
    notifier = _make_notifier(store)
    notifier.init_app(app)
    app.extensions[EXTENSION_NAME] = Backend(settings, store, notifier, PerProcess(lambda: LastSeen(store)))
    prefix = settings.url_prefix
    app.register_blueprint(api.blueprint, url_prefix=prefix)
    app.register_blueprint(oauth.blueprint, url_prefix="/oauth")
    app.register_blueprint(pages.blueprint, url_prefix="/oauth")
    if not settings.is_production:
        app.register_blueprint(live.blueprint)
        app.register_blueprint(openapi.blueprint, url_prefix=prefix)
    rate_limit.install(app, settings)
    admin.install(app)
    _answer_errors_as_json(app)
    app.after_request(_complete_headers)
    for_scripts = (f"{prefix}/", "/oauth/token", "/oauth/userinfo")  # not /oauth/authorize, which is a page
    cors.install(app, settings.cors_origins, lambda path: path.startswith(for_scripts))
    return app


class _Request(Request):
    """A request whose views may lower the limit of its body, which Flask allows since 3.1."""

    max_content_length: int | None = payloads.MAX_PUSH_BYTES


class _JSON(DefaultJSONProvider):
    """JSON in plain UTF-8: escaped, a character may take twelve bytes instead of four."""

    ensure_ascii = False


def _prepared_store(url: str) -> Store:
    """Return the store. If the database is unavailable now, the first transaction checks or creates the schema."""
    store = Store(url, has_schema=True)
    try:
        store.prepare()
    except Busy as error:
        if click.get_current_context(silent=True) is None:  # a command prints it itself
            log.warning(
                "the service starts without its database and answers 503 until it is available: %s", error.reason
            )
    finally:
        store.dispose()
    return store


def _make_notifier(store: Store) -> Notifier:
    notifier = Notifier()

    @notifier.valid_since
    def valid_since(principal: Principal) -> datetime | None:
        return store.read(
            lambda connection: sessions.valid_since(connection, principal.user, principal.session),
            owner=principal.user,
        )

    @notifier.changed_channels
    def changed_channels(since: datetime) -> list[tuple[str, str, datetime]]:
        return store.read(lambda connection: changelog.changed_channels(connection, since))

    @notifier.ready_check
    def ready() -> dict[str, bool]:
        store.read(changelog.current_epoch)
        return {"writable": store.is_writable()}

    return notifier


def _answer_errors_as_json(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        """Answer also for every Refused, which is an HTTPException."""
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return _error(error.description or error.name, error.code or 500, headers)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return _error("something went wrong on the server", 500, {})


def _error(sentence: str, status: int, headers: Mapping[str, str]) -> Response:
    response = Response(json.dumps({"error": sentence}), status, mimetype="application/json")
    response.headers.update(headers)
    return response


def _complete_headers(response: Response) -> Response:
    """Keep tokens and ciphertext out of all caches; a stream has set a stricter header already. No body has no type."""
    response.headers.setdefault("Cache-Control", "no-store")
    if response.status_code == 204:
        response.headers.pop("Content-Type", None)
    return response
