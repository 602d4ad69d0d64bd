"""`POST /api/sync/logout` for a backend that does not have it yet; nothing is added to one that has it."""

from flask import Flask, Response, request

from synckit_notify.backend.database.schema import sessions


def add_logout(app: Flask) -> Flask:
    """Add the route unless the application has it, and return the application."""
    if any(rule.rule == "/api/sync/logout" for rule in app.url_map.iter_rules()):
        return app
    backend = app.extensions["synckit_backend"]

    @app.post("/api/sync/logout")
    def log_out() -> Response:
        who = backend.notifier.authenticate(request)
        mine = sessions.c.family_hash == who.session
        backend.store.write(lambda connection: connection.execute(sessions.delete().where(mine)), owner=who.user)
        backend.notifier.disconnect(who.app, who.user, who.device)
        return Response(status=204)

    return app
