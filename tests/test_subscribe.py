"""The table of answers in docs/protocol.md, row by row, through the Flask test client."""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from synckit_notify import Forbidden, InvalidToken, Notifier, Principal
from synckit_notify.runtime.logs import LINES_PER_SECOND
from synckit_notify.streams.channel import EndReason
from synckit_notify.testing import CHANGED, CONNECTED, KEEPALIVE, open_stream

from .support import minimal_host
from .support.tokens import KEY, make_token

PATH = "/api/sync/subscribe"


@pytest.fixture
def app() -> Flask:
    return minimal_host.create_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def streams(app: Flask) -> int:
    return len(app.extensions["synckit_notify"].node().registry)


def ask(client: FlaskClient, query: str = "app_id=notes", token: str | None = None, **options: object) -> TestResponse:
    headers = {"Authorization": f"Bearer {token if token is not None else make_token()}"}
    return client.open(f"{PATH}?{query}", headers=headers, **({"method": "GET"} | options))


def assert_refused(answer: TestResponse, status: int) -> None:
    assert answer.status_code == status
    assert list(answer.json) == ["error"]
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_headers_of_a_stream(client: FlaskClient) -> None:
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.response.status_code == 200
        assert dict(stream.response.headers) == {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store, no-transform",
            "X-Accel-Buffering": "no",
            "SyncKit-Keepalive": "30",
        }


def test_the_keepalive_header_tells_the_configured_period() -> None:
    client = minimal_host.create_app(SYNCKIT_KEEPALIVE_SECONDS="0.5").test_client()
    with open_stream(client, "notes", make_token()) as stream:
        assert stream.response.headers["SyncKit-Keepalive"] == "0.5"
        assert [stream.next_frame(), stream.next_frame()] == [CONNECTED, KEEPALIVE]


BAD_QUERIES = {
    "missing": "",
    "blank": "app_id=",
    "spaces": "app_id=%20%20",
    "twice": "app_id=notes&app_id=notes",
    "129 characters": "app_id=" + "a" * 129,
    "control character": "app_id=a%00b",
    "broken UTF-8": "app_id=%ff%fe%00",
    "device blank": "app_id=notes&device_id=",
    "device twice": "app_id=notes&device_id=a&device_id=b",
    "device of 129 characters": "app_id=notes&device_id=" + "d" * 129,
}


@pytest.mark.parametrize("query", BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
def test_400_for_a_malformed_query(app: Flask, client: FlaskClient, query: str) -> None:
    assert_refused(ask(client, query), 400)
    assert streams(app) == 0


BAD_AUTHORIZATIONS = [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "bearer nonsense", "Bearer é", "Token x"]


@pytest.mark.parametrize("authorization", BAD_AUTHORIZATIONS)
def test_401_without_a_valid_token(app: Flask, client: FlaskClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.get(f"{PATH}?app_id=notes", headers=headers)
    assert_refused(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert streams(app) == 0


def test_401_never_repeats_the_token(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = make_token(life=-10)
    answer = ask(client, token=token)
    assert_refused(answer, 401)
    assert token not in answer.text + caplog.text
    assert len(lines_of(caplog)) == 1


def test_refusals_of_one_application_hide_no_line_of_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    flooded, quiet = minimal_host.create_app().test_client(), minimal_host.create_app().test_client()
    for _ in range(3 * LINES_PER_SECOND):
        ask(flooded, token="none")
    assert len(lines_of(caplog)) < 3 * LINES_PER_SECOND
    caplog.clear()
    ask(quiet, token="none")
    assert len(lines_of(caplog)) == 1


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "synckit_notify"]


def test_the_scheme_is_read_in_any_case(client: FlaskClient) -> None:
    with client.get(
        f"{PATH}?app_id=notes", headers={"Authorization": f"bEARER  {make_token()}"}, buffered=False
    ) as answer:
        assert answer.status_code == 200


def test_403_for_another_app(app: Flask, client: FlaskClient) -> None:
    assert_refused(ask(client, "app_id=tasks"), 403)
    assert streams(app) == 0


@pytest.mark.parametrize(("limit", "status"), [("SYNCKIT_MAX_STREAMS_PER_CHANNEL", 429), ("SYNCKIT_MAX_STREAMS", 503)])
def test_a_reached_limit_answers_with_retry_after(limit: str, status: int) -> None:
    client = minimal_host.create_app(**{limit: 2}).test_client()
    with open_stream(client, "notes", make_token()), open_stream(client, "notes", make_token()):
        answer = ask(client)
        assert_refused(answer, status)
        assert 5 <= int(answer.headers["Retry-After"]) <= 20
    with open_stream(client, "notes", make_token()) as again:
        assert again.next_frame() == CONNECTED


@pytest.mark.parametrize("socket", ["gunicorn.socket", "werkzeug.socket"])
def test_503_on_a_server_that_one_stream_would_block(app: Flask, client: FlaskClient, socket: str) -> None:
    answer = ask(client, environ_overrides={socket: object(), "wsgi.multithread": False})
    assert_refused(answer, 503)
    assert "gevent" in answer.json["error"]
    assert "Retry-After" in answer.headers
    assert streams(app) == 0


def test_head_answers_the_headers_and_registers_nothing(app: Flask, client: FlaskClient) -> None:
    answer = ask(client, method="HEAD")
    assert answer.status_code == 200
    assert answer.content_type == "text/event-stream"
    assert answer.data == b""
    assert streams(app) == 0


def test_head_is_refused_like_get(client: FlaskClient) -> None:
    assert ask(client, "app_id=tasks", method="HEAD").status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_405_with_allow_for_other_methods(client: FlaskClient, method: str) -> None:
    answer = ask(client, method=method)
    assert_refused(answer, 405)
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


def test_options_tells_what_is_allowed(client: FlaskClient) -> None:
    answer = client.options(PATH)
    assert (answer.status_code, answer.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")


def test_accept_and_last_event_id_are_ignored(client: FlaskClient) -> None:
    headers = {"Accept": "application/json", "Last-Event-ID": "17"}
    with open_stream(client, "notes", make_token(), headers=headers) as stream:
        assert stream.next_frame() == CONNECTED


def test_a_stream_opened_while_the_worker_stops_gets_bye_at_once(app: Flask, client: FlaskClient) -> None:
    class StoppingGunicorn:
        alive = False

    worker = app.extensions["synckit_notify"].node()
    worker._gunicorn = StoppingGunicorn()
    answer = ask(client, buffered=False)
    assert re.fullmatch(rb"retry: \d{3,4}\n\n: bye draining\n\n", b"".join(answer.response))
    answer.close()
    assert streams(app) == 0
    assert client.get("/api/sync/ready").status_code == 503
    assert client.get("/api/sync/live").status_code == 200


def test_the_pushers_own_device_is_left_out_by_claim_or_by_parameter(client: FlaskClient) -> None:
    with (
        open_stream(client, "notes", make_token(device="laptop"), device_id="phone") as by_claim,
        open_stream(client, "notes", make_token(), device_id="laptop") as by_parameter,
        open_stream(client, "notes", make_token(), device_id="phone") as other,
        open_stream(client, "notes", make_token()) as unnamed,
    ):
        for stream in (by_claim, by_parameter, other, unnamed):
            assert stream.next_frame() == CONNECTED
        client.post("/push/notes/alice?device=laptop")
        assert [other.next_frame(), unnamed.next_frame()] == [CHANGED, CHANGED]
        for silent in (by_claim, by_parameter):
            with pytest.raises(TimeoutError):
                silent.next_frame(0.05)


def test_a_stream_ends_with_its_token(client: FlaskClient) -> None:
    with open_stream(client, "notes", make_token(life=3)) as stream:
        assert [stream.next_frame(), stream.next_frame(10)] == [CONNECTED, b": bye token_expired\n\n"]
        with pytest.raises(EOFError):
            stream.next_frame()


def test_a_stream_ends_at_its_age_limit() -> None:
    client = minimal_host.create_app(SYNCKIT_MAX_STREAM_SECONDS=0.2).test_client()
    with open_stream(client, "notes", make_token()) as stream:
        assert [stream.next_frame(), stream.next_frame()] == [CONNECTED, b": bye max_age\n\n"]


def test_a_disconnect_ends_the_streams_of_one_device(app: Flask, client: FlaskClient) -> None:
    with (
        open_stream(client, "notes", make_token(device="laptop")) as laptop,
        open_stream(client, "notes", make_token(device="phone")) as phone,
    ):
        assert [laptop.next_frame(), phone.next_frame()] == [CONNECTED] * 2
        client.post("/disconnect/notes/alice?device=laptop")
        assert laptop.next_frame() == f": bye {EndReason.REVOKED}\n\n".encode()
        with pytest.raises(TimeoutError):
            phone.next_frame(0.05)


class TestOwnAuthentication:
    """A host with a token check of its own needs no key, and its refusals have our JSON."""

    def client(self, answer: Principal | Exception) -> FlaskClient:
        def authenticate(_: object) -> Principal:
            if isinstance(answer, Exception):
                raise answer
            return answer

        app = Flask(__name__)
        Notifier(app, authenticate=authenticate)
        return app.test_client()

    def test_the_principal_of_authenticate_opens_the_stream(self) -> None:
        with open_stream(self.client(Principal(app="notes", user="alice")), "notes", "anything") as stream:
            assert stream.next_frame() == CONNECTED

    def test_ids_and_naive_times_of_a_principal_are_normalized(self) -> None:
        soon = (datetime.now(UTC) + timedelta(seconds=2)).replace(tzinfo=None)
        with open_stream(self.client(Principal(app=7, user=uuid4(), expires_at=soon)), "7", "anything") as stream:
            assert [stream.next_frame(), stream.next_frame(3)] == [CONNECTED, b": bye token_expired\n\n"]

    def test_valid_since_is_called_with_the_session(self) -> None:
        asked: list[Principal] = []
        app = Flask(__name__)
        who = Principal(app="notes", user="alice", session=uuid4(), issued_at=datetime.now(UTC))
        notifier = Notifier(app, authenticate=lambda request: who)
        notifier.valid_since(lambda principal: asked.append(principal) or datetime.max)
        assert_refused(app.test_client().get(f"{PATH}?app_id=notes"), 401)
        assert [principal.session for principal in asked] == [str(who.session)]

    @pytest.mark.parametrize(("error", "status"), [(InvalidToken("who are you"), 401), (Forbidden("not you"), 403)])
    def test_a_refusal_of_authenticate_is_answered(self, error: Exception, status: int) -> None:
        answer = self.client(error).get(f"{PATH}?app_id=notes")
        assert_refused(answer, status)
        assert answer.json == {"error": str(error)}

    def test_an_invalid_principal_is_refused(self) -> None:
        assert self.client(Principal(app="notes", user="alice")).get(f"{PATH}?app_id=tasks").status_code == 403


def test_no_request_is_answered_with_500(client: FlaskClient) -> None:
    for query in ("app_id=%F0%9F%98%80", "app_id[]=1", "&&&==", "app_id=" + "%C0%80" * 40, "app_id=notes;x=1"):
        for authorization in (f"Bearer {make_token()}", "Bearer " + "A" * 100_000, "Bearer .", "\x01", KEY):
            answer = client.get(f"{PATH}?{query}", headers={"Authorization": authorization})
            assert answer.status_code in (400, 401, 403), (query, authorization[:20])
