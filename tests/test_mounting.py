"""The Notifier mounted into an existing Flask application with routes, errors and hooks of its own."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from werkzeug.exceptions import HTTPException, Unauthorized

from synckit_notify import ConfigurationError, InvalidToken, Notifier, Principal
from synckit_notify.errors import Refused
from synckit_notify.testing import CHANGED, CONNECTED, open_stream

from .support import full_host, minimal_host
from .support.tokens import KEY, make_token
from .support.wait import collect_garbage, wait_until

SUBSCRIBE = "/v1/sync/subscribe?app_id=notes"


@pytest.fixture
def host(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setenv("FOREIGN_DATABASE", str(tmp_path / "foreign.db"))
    app = full_host.create_app()
    yield app
    full_host.close(app)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestForeignHost:
    def test_a_stream_under_the_hosts_prefix_receives_a_push(self, host: Flask) -> None:
        client = host.test_client()
        with open_stream(client, "notes", make_token(), device_id="phone") as stream:
            assert stream.next_frame() == CONNECTED
            client.post("/notes/notes/alice?device=laptop")
            assert stream.next_frame() == CHANGED
            assert stream.response.headers["X-Host"] == "foreign"

    def test_the_hosts_own_routes_and_errors_stay_its_own(self, host: Flask) -> None:
        client = host.test_client()
        assert client.get("/").status_code == 200
        assert client.get("/nowhere").text == "<h1>NotFound</h1>"
        assert client.get("/v1/sync/nowhere").text == "<h1>NotFound</h1>"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", SUBSCRIBE, 401), ("POST", SUBSCRIBE, 405), ("GET", "/v1/sync/subscribe", 401)],
    )
    def test_our_errors_stay_json_behind_the_hosts_error_pages(self, host: Flask, method, path, status) -> None:
        answer = host.test_client().open(path, method=method)
        assert (answer.status_code, list(answer.json)) == (status, ["error"])

    def test_no_database_connection_stays_checked_out_while_streams_are_open(self, host: Flask) -> None:
        client = host.test_client()
        streams = [open_stream(client, "notes", make_token()) for _ in range(5 * full_host.POOL_SIZE)]
        wait_until(lambda: client.get("/").text == "checked out: 0")  # the sweep has one for a moment
        for stream in streams:
            stream.close()

    def test_a_token_from_before_valid_since_is_refused_and_its_streams_end(self, host: Flask) -> None:
        client = host.test_client()
        with open_stream(client, "notes", make_token(iat=int(time.time()) - 60)) as stream:
            assert stream.next_frame() == CONNECTED
            since = (datetime.now(UTC) - timedelta(seconds=30)).replace(tzinfo=None).isoformat()
            client.post(f"/admin/logout/alice?since={since}", headers={"X-Admin": "yes"})
            assert stream.next_frame() == b": bye revoked\n\n"
        old = client.get(SUBSCRIBE, headers=bearer(make_token(iat=int(time.time()) - 60)))
        assert (old.status_code, old.json) == (401, {"error": "the token was revoked"})
        assert len(host.extensions["synckit_notify"].node().registry) == 0
        with open_stream(client, "notes", make_token()) as again:
            assert again.next_frame() == CONNECTED

    def test_the_sweep_finds_a_commit_whose_process_died_before_publish(self, host: Flask) -> None:
        client, before = host.test_client(), set(threading.enumerate())
        with open_stream(client, "notes", make_token()) as stream:
            assert stream.next_frame() == CONNECTED
            client.post("/notes/notes/alice?silently")
            assert stream.next_frame(2.0) == CHANGED
        assert set(threading.enumerate()) <= before

    def test_ready_follows_the_hosts_own_check(self, host: Flask) -> None:
        client = host.test_client()
        assert client.get("/v1/sync/ready").status_code == 200
        broken = client.get("/v1/sync/ready", headers={"X-Broken": "yes"})
        assert (broken.status_code, broken.json["ready"], broken.json["host"]) == (503, False, False)
        assert client.get("/v1/sync/live").json == {"live": True}

    def test_a_host_whose_after_request_fails_leaks_no_subscriber(self, host: Flask) -> None:
        host.logger.disabled = True  # its log records would keep the response alive in the traceback

        @host.after_request
        def fail(response):
            raise RuntimeError("a bug of the host")

        answer = host.test_client().get(SUBSCRIBE, headers=bearer(make_token()))
        assert answer.status_code == 500
        answer.close()
        worker = host.extensions["synckit_notify"].node()
        # Flask keeps the exception, and so the response, in a cycle.
        wait_until(lambda: collect_garbage() and not worker.busy())


class TestPublish:
    def listener(self, app: Flask, user: str):
        stream = open_stream(app.test_client(), "7", make_token(user, "7"))
        assert stream.next_frame() == CONNECTED
        return stream

    @pytest.mark.parametrize("user", ["12", 12])
    def test_ids_are_compared_as_strings(self, user: object) -> None:
        app = minimal_host.create_app()
        with self.listener(app, "12") as stream, app.app_context():
            minimal_host.notifier.publish(7, user)
            assert stream.next_frame() == CHANGED

    def test_a_uuid_is_its_canonical_string(self) -> None:
        app, user = minimal_host.create_app(), UUID("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")
        with self.listener(app, str(user)) as stream, app.app_context():
            minimal_host.notifier.publish("7", user)
            assert stream.next_frame() == CHANGED

    @pytest.mark.parametrize("bad", [None, True, 1.5, b"7", ["7"], object()])
    def test_any_other_id_is_a_type_error(self, bad: object) -> None:
        with minimal_host.create_app().app_context():
            for arguments in ((bad, "alice"), ("notes", bad)):
                with pytest.raises(TypeError, match="an id must be a str, an int or a UUID"):
                    minimal_host.notifier.publish(*arguments)
                with pytest.raises(TypeError):
                    minimal_host.notifier.disconnect(*arguments)

    def test_the_only_application_is_found_without_a_context(self) -> None:
        app = Flask(__name__)
        app.config["SYNCKIT_JWT_KEY"] = KEY
        notifier = Notifier(app)
        with self.listener(app, "alice") as stream:
            notifier.publish(7, "alice")
            assert stream.next_frame() == CHANGED

    def test_publish_works_from_another_thread(self) -> None:
        app = Flask(__name__)
        app.config["SYNCKIT_JWT_KEY"] = KEY
        notifier = Notifier(app)
        with self.listener(app, "alice") as stream:
            threading.Thread(target=notifier.publish, args=(7, "alice")).start()
            assert stream.next_frame() == CHANGED

    def test_none_or_several_applications_without_a_context_are_an_error(self) -> None:
        notifier = Notifier()
        with pytest.raises(RuntimeError, match=r"call notifier\.init_app\(app\) first"):
            notifier.publish("notes", "alice")
        apps = [Flask("one"), Flask("two")]
        for app in apps:
            app.config["SYNCKIT_JWT_KEY"] = KEY
            notifier.init_app(app)
        with pytest.raises(RuntimeError, match="serves 2 applications"):
            notifier.publish("notes", "alice")

    def test_an_application_without_a_notifier_is_an_error(self) -> None:
        with Flask("bare").app_context(), pytest.raises(RuntimeError, match="init_app"):
            Notifier().publish("notes", "alice")


def test_two_applications_in_one_process_receive_only_their_own_notices() -> None:
    one, two = minimal_host.create_app(), minimal_host.create_app(SYNCKIT_URL_PREFIX="/two")
    with (
        open_stream(one.test_client(), "notes", make_token()) as first,
        open_stream(two.test_client(), "notes", make_token()) as second,
    ):
        assert [first.next_frame(), second.next_frame()] == [CONNECTED] * 2
        two.test_client().post("/push/notes/alice")
        assert second.next_frame() == CHANGED
        with pytest.raises(TimeoutError):
            first.next_frame(0.05)


def test_an_application_that_matches_host_names_has_the_routes_on_each_of_them() -> None:
    app = Flask("hosts", host_matching=True, static_host="static.example.org")
    app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_METRICS="1", SYNCKIT_CORS_ORIGINS="https://app.example.org")
    Notifier(app)
    app.add_url_rule("/", "page", lambda: "a page", host="www.example.org")
    for address in ("http://www.example.org", "http://sync.example.org:8000"):
        client = app.test_client()
        for route in ("live", "ready", "metrics"):
            assert client.get(f"/api/sync/{route}", base_url=address).status_code == 200
        refused = client.get("/api/sync/subscribe?app_id=notes", base_url=address)
        assert (refused.status_code, list(refused.json)) == (401, ["error"])
        with open_stream(client, "notes", make_token(), headers={"Host": address.removeprefix("http://")}) as stream:
            assert stream.next_frame() == CONNECTED
    assert app.test_client().get("/", base_url="http://sync.example.org").status_code == 404


def test_a_rate_limit_of_the_host_can_exempt_the_blueprint_by_name() -> None:
    app = minimal_host.create_app()
    limiter = Limiter(get_remote_address, app=app, default_limits=["2/hour"], storage_uri="memory://")
    limiter.exempt(app.blueprints["synckit_notify"])
    client = app.test_client()
    assert [client.get("/api/sync/live").status_code for _ in range(4)] == [200] * 4
    assert [client.get("/log/alice").status_code for _ in range(3)] == [200, 200, 429]


def test_a_ready_check_may_add_json_fields_but_not_replace_ours() -> None:
    app = Flask("host")
    app.config["SYNCKIT_JWT_KEY"] = KEY
    notifier = Notifier(app)
    notifier.ready_check(lambda: {"replica": False, "lag": 3, "ready": "no", "since": datetime.now(UTC)})
    answer = app.test_client().get("/api/sync/ready")
    assert answer.status_code == 200
    assert (answer.json["replica"], answer.json["lag"], answer.json["ready"]) == (False, 3, True)
    assert "since" not in answer.json


def test_mounting_twice_is_an_error() -> None:
    app = minimal_host.create_app()
    with pytest.raises(RuntimeError, match="already"):
        Notifier(app)


def test_a_missing_key_is_named_at_start() -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_JWT_KEY must be set"):
        Notifier(Flask(__name__))


def test_hooks_may_come_before_or_after_mounting() -> None:
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    notifier = Notifier(app)
    client = app.test_client()
    with open_stream(client, "notes", make_token(iat=100)):
        pass
    notifier.valid_since(lambda principal: datetime.fromtimestamp(101, UTC))
    assert client.get("/api/sync/subscribe?app_id=notes", headers=bearer(make_token(iat=100))).status_code == 401


def test_a_host_checks_its_own_requests_the_same_way() -> None:
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    notifier = Notifier(app)
    with app.test_request_context(headers=bearer(make_token(device="laptop"))) as context:
        principal = notifier.authenticate(context.request)
    assert isinstance(principal, Principal)
    assert (principal.app, principal.user, principal.device) == ("notes", "alice", "laptop")


def mounted(*handlers: type[Exception] | int) -> FlaskClient:
    """A host with a route that authenticates, and error handlers of its own."""
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    for error in handlers:
        app.register_error_handler(error, lambda _: ("the host's page", 418))
    notifier = Notifier(app)
    app.add_url_rule("/push", view_func=lambda: notifier.authenticate(request).user)
    return app.test_client()


@pytest.mark.parametrize("handlers", [(), (Exception,), (404,)])
def test_a_bad_token_in_the_hosts_own_route_is_a_401_in_json(handlers: tuple[type[Exception] | int, ...]) -> None:
    answer = mounted(*handlers).get("/push", headers=bearer("nonsense"))
    assert (answer.status_code, answer.json) == (401, {"error": "the token is not valid"})
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("error", [401, Unauthorized, HTTPException, Refused, InvalidToken])
def test_an_error_handler_of_the_host_takes_precedence(error: type[Exception] | int) -> None:
    assert mounted(error).get("/push", headers=bearer("nonsense")).status_code == 418


def test_a_dropped_response_frees_its_subscriber() -> None:
    app = minimal_host.create_app()
    answer = app.test_client().get("/api/sync/subscribe?app_id=notes", headers=bearer(make_token()), buffered=False)
    assert answer.status_code == 200
    registry = app.extensions["synckit_notify"].node().registry
    assert len(registry) == 1
    del answer
    assert len(registry) == 0


@pytest.mark.parametrize("register", ["valid_since", "changed_channels", "ready_check"])
def test_a_hook_must_be_a_function(register: str) -> None:
    with pytest.raises(TypeError, match="a hook must be a function, not str"):
        getattr(Notifier(), register)("a name")
    with pytest.raises(TypeError, match="a hook must be a function, not str"):
        Notifier(authenticate="a name")  # type: ignore[arg-type]
