"""A host with routes, error pages, a login check, a database session per request, and a URL prefix of its own.

It answers its errors as HTML, guards every request, takes a connection from its pool before each one and gives it back
at teardown; its pool is small, so that streams which kept theirs would stop it.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flask import Flask, abort, g, request
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import QueuePool

from synckit_notify import Notifier, Principal

from .tokens import KEY
from .wait import wait_until

POOL_SIZE = 2


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_URL_PREFIX="/v1/sync", SYNCKIT_SWEEP_SECONDS=0.2)
    app.config.update({name: value for name, value in os.environ.items() if name.startswith("SYNCKIT_")})
    path = Path(os.environ.get("FOREIGN_DATABASE", "foreign.db")).absolute()
    # Naive as many hosts are: the pool waits only a second, then its requests fail.
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=1,
        connect_args={"check_same_thread": False},
    )
    app.extensions["database"] = engine
    notifier = Notifier()
    notifier.init_app(app)

    def database() -> Connection:
        if "database" not in g:
            g.database = engine.connect()
        return g.database

    with engine.begin() as first:
        first.execute(text("CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, valid_since TEXT)"))
        first.execute(text("CREATE TABLE IF NOT EXISTS log (app TEXT, user TEXT, at TEXT)"))

    @app.before_request
    def guard() -> None:
        database().execute(text("SELECT 1"))
        if request.path.startswith("/admin") and "X-Admin" not in request.headers:
            abort(404)

    @app.after_request
    def stamp(response):
        response.headers["X-Host"] = "foreign"
        return response

    @app.teardown_appcontext
    def give_back(_: BaseException | None) -> None:
        if "database" in g:
            g.pop("database").close()

    @app.errorhandler(Exception)
    def page(error: Exception) -> tuple[str, int]:
        return f"<h1>{type(error).__name__}</h1>", getattr(error, "code", 500)

    @app.get("/")
    def home() -> str:
        return f"checked out: {engine.pool.checkedout() - 1}"

    @app.post("/notes/<app_id>/<user>")
    def write(app_id: str, user: str) -> str:
        """Commit a change; with ?silently the process dies, in effect, before it publishes."""
        now = datetime.now(UTC).replace(tzinfo=None).isoformat()
        database().execute(text("INSERT INTO log VALUES (:a, :u, :t)"), {"a": app_id, "u": user, "t": now})
        database().commit()
        if "silently" not in request.args:
            notifier.publish(app_id, user, origin_device=request.args.get("device"))
        return "written"

    @app.post("/admin/logout/<user>")
    def logout(user: str) -> str:
        row = {"u": user, "t": request.args["since"]}
        database().execute(text("INSERT OR REPLACE INTO users VALUES (:u, :t)"), row)
        database().commit()
        notifier.disconnect("notes", user)
        return "out"

    @notifier.valid_since
    def valid_since(principal: Principal) -> datetime | None:
        row = database().execute(text("SELECT valid_since FROM users WHERE name = :u"), {"u": principal.user}).first()
        return datetime.fromisoformat(row[0]) if row else None

    @notifier.changed_channels
    def changed_channels(since: datetime) -> Iterator[tuple[str, str]]:
        naive = since.replace(tzinfo=None).isoformat()
        for row in database().execute(text("SELECT DISTINCT app, user FROM log WHERE at >= :t"), {"t": naive}):
            yield row[0], row[1]

    @notifier.ready_check
    def ready() -> None:
        if "X-Broken" in request.headers:
            raise RuntimeError("the database is gone")

    return app


def close(app: Flask) -> None:
    """Close the connections of an application when its threads have ended: one still in use would be forgotten."""
    node = app.extensions["synckit_notify"].node()
    wait_until(lambda: not node.busy())
    node.join_idle()
    engine = app.extensions["database"]
    assert engine.pool.checkedout() == 0
    engine.dispose()
