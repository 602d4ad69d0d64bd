"""The table "Beside other packages" of docs/mounting.md: each line with the real package, as the document has it."""

import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, request
from flask.testing import FlaskClient
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager, UserMixin, current_user, login_user
from flask_talisman import Talisman
from flask_wtf import CSRFProtect

from synckit_notify import InvalidToken, Notifier, Principal
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from .support import minimal_host
from .support.curl import PATIENCE_SECONDS, Curl
from .support.programs import need
from .support.proxies import Nginx
from .support.raw_client import Listener
from .support.server import ROOT, Server, gunicorn
from .support.tokens import KEY, make_token
from .support.valkey import Valkey
from .support.wait import until
from .support.wsgi_servers import start

HOST = "tests.support.minimal_host:create_app()"
DOCUMENT = (ROOT / "docs" / "mounting.md").read_text()
ROUTES = ("/api/sync/live", "/api/sync/ready")


def host(**config: object) -> Flask:
    return minimal_host.create_app(SECRET_KEY=KEY, **config)


def run_documented(line: str, **names: Any) -> None:
    """Run a line of code that the document has."""
    assert f"`{line}`" in DOCUMENT
    exec(line, names)


def statuses(client: FlaskClient, *paths: str, times: int = 1) -> set[int]:
    return {client.get(path).status_code for path in paths for _ in range(times)}


def hears_a_push(client: FlaskClient, push: str = "/push/notes/alice") -> None:
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.next_frame() == CONNECTED
        assert client.post(push).status_code == 200
        assert stream.next_frame() == CHANGED


def test_flask_limiter() -> None:
    app = host()
    limiter = Limiter(get_remote_address, app=app, default_limits=["2/hour"], storage_uri="memory://")
    run_documented('limiter.exempt(app.blueprints["synckit_notify"])', limiter=limiter, app=app)
    client = app.test_client()
    assert statuses(client, *ROUTES, times=4) == {200}
    hears_a_push(client)
    assert statuses(client, "/log/alice", times=3) == {200, 429}


def test_flask_cors() -> None:
    app = host(SYNCKIT_CORS_ORIGINS="https://app.example.org")
    app.add_url_rule("/notes/list", view_func=lambda: "notes")
    run_documented('CORS(app, resources=["/notes/.*"])', CORS=CORS, app=app)
    client, header = app.test_client(), "Access-Control-Allow-Origin"

    def allowed(path: str, origin: str) -> str | None:
        return client.get(path, headers={"Origin": origin}).headers.get(header)

    assert allowed("/notes/list", "https://another.example") in ("*", "https://another.example")
    assert allowed("/api/sync/live", "https://another.example") is None
    assert allowed("/api/sync/live", "https://app.example.org") == "https://app.example.org"


def test_flask_talisman() -> None:
    app = host()
    talisman = Talisman(app)
    client = app.test_client()
    assert statuses(client, *ROUTES) == {302}
    view = 'app.view_functions["synckit_notify.live"]'
    line = f"{view} = talisman(force_https=False)({view})"
    run_documented(line, talisman=talisman, app=app)
    exec(line.replace(".live", ".ready"), {"talisman": talisman, "app": app})
    assert statuses(client, *ROUTES) == {200}
    assert statuses(client, "/log/alice") == {302}
    over_tls = app.test_client()
    over_tls.environ_base["HTTP_X_FORWARDED_PROTO"] = "https"
    hears_a_push(over_tls)


def test_flask_login() -> None:
    app = Flask("host")
    app.config["SECRET_KEY"] = KEY
    manager = LoginManager(app)

    class User(UserMixin):
        id = "alice"

    manager.user_loader(lambda _: User())

    def check(_: object) -> Principal:
        if not current_user.is_authenticated:
            raise InvalidToken("log in first")
        return Principal(app="notes", user=current_user.id)

    run_documented("Notifier(app, authenticate=check)", Notifier=Notifier, app=app, check=check)
    app.add_url_rule("/login", view_func=lambda: str(login_user(User())))

    @app.before_request
    def guard() -> None:
        if request.blueprint != "synckit_notify" and request.path != "/login" and not current_user.is_authenticated:
            abort(403)

    client = app.test_client()
    assert statuses(client, "/secret") == {403}
    assert statuses(client, *ROUTES) == {200}
    assert statuses(client, "/api/sync/subscribe?app_id=notes") == {401}
    assert client.get("/login").data == b"True"
    with client.get("/api/sync/subscribe?app_id=notes", buffered=False) as answer:
        assert (answer.status_code, next(iter(answer.iter_encoded()))) == (200, CONNECTED)


def test_a_maintenance_page() -> None:
    app = host(MAINTENANCE=True)

    @app.before_request
    def maintenance() -> tuple[str, int] | None:
        if app.config.get("MAINTENANCE") and request.blueprint != "synckit_notify":
            return "back soon", 503
        return None

    client = app.test_client()
    assert statuses(client, "/log/alice") == {503}
    assert statuses(client, *ROUTES) == {200}
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.next_frame() == CONNECTED


def test_flask_wtf() -> None:
    app = host()
    csrf = CSRFProtect(app)
    client = app.test_client()
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.next_frame() == CONNECTED
    assert client.post("/push/notes/alice").status_code == 400
    run_documented("csrf.exempt(push)", csrf=csrf, push=app.view_functions["push"])
    hears_a_push(client)


PAGES = {
    "sync": "gunicorn --worker-class sync --workers 2",
    "uWSGI": "uwsgi --master --processes 2 --enable-threads --lazy-apps",
}


@pytest.mark.thorough
@pytest.mark.parametrize("pages", PAGES.values(), ids=PAGES)
def test_sync_workers_beside_a_gevent_one_for_the_streams(pages: str, tmp_path: Path, valkey: Valkey) -> None:
    env = {"SYNCKIT_BROKER_URL": valkey.url}
    assert "`gunicorn -k gevent --bind 127.0.0.1:8001 'app:create_app()'`" in DOCUMENT
    with start(pages, tmp_path / "pages", env) as server, gunicorn(HOST, tmp_path / "streams", env=env) as streams:
        path = "/api/sync/subscribe?app_id=notes"
        with Listener(server.port, path, make_token()) as refused:
            assert refused.status == 503
        with Listener(streams.port, path, make_token()) as phone:
            assert phone.next_frame() == CONNECTED
            assert until(lambda: connected(streams))
            assert phone.next_news() == CHANGED, "of the gap before the subscription"
            assert post(server, "/push/notes/alice") == 200
            assert phone.next_news() == CHANGED
            assert post(server, "/disconnect/notes/alice") == 200
            assert phone.next_news() == b": bye revoked\n\n"


@pytest.mark.thorough
def test_nginx_sends_the_streams_to_a_gevent_worker_and_all_else_to_the_sync_workers(tmp_path: Path) -> None:
    for program in ("nginx", "openssl", "curl"):
        need(program)
    [documented] = re.findall(r"```text\n(    upstream .*?)    }\n```", DOCUMENT, re.DOTALL)
    env = {"SYNCKIT_BROKER_NAMESPACE": str(tmp_path)}
    with (
        start(PAGES["sync"], tmp_path / "pages", env) as pages,
        gunicorn(HOST, tmp_path / "streams", env=env) as streams,
    ):
        of_streams = {documented.replace("8001", "8000"): documented.replace("8001", str(streams.port))}
        with (
            Nginx(tmp_path / "nginx", pages.port, times=of_streams) as proxy,
            Curl(f"{proxy.url}/api/sync/subscribe?app_id=notes", make_token()) as phone,
        ):
            assert phone.next_frame(PATIENCE_SECONDS) == CONNECTED
            with Curl(f"{proxy.url}/push/notes/alice", None, "--request", "POST") as pushed:
                assert pushed.read_to_end(PATIENCE_SECONDS) == b"announced"
            assert phone.next_news(PATIENCE_SECONDS) == CHANGED


def connected(server: Server) -> bool:
    with Listener(server.port, "/api/sync/ready", None) as answer:
        return bool(answer.json()["connected"])


def post(server: Server, path: str) -> int:
    with Listener(server.port, path, None, method="POST") as answer:
        return answer.status
