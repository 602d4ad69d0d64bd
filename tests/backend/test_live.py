"""The live page without a browser: what is served, to whom it gives a token, and that production has none of it."""

import json
import re
from collections.abc import Callable

import jwt
import pytest
from flask import Flask

from synckit_notify.backend import Backend, development, live
from synckit_notify.backend.database import schema

from ..support.backend import SQLITE_ONLY, Caller, Send, change
from ..support.tokens import KEY
from ..support.versions import needs

HERE = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}

pytestmark = SQLITE_ONLY


@pytest.fixture
def demo(app: Flask) -> Flask:
    """The backend at its first start on the loopback."""
    development.offer_demo(app, [("127.0.0.1", 8000)])
    return app


def ask(app: Flask, *, address: str = "127.0.0.1", **headers: str | None) -> tuple[int, dict[str, str]]:
    """Ask for a token as the page does, but for what is given."""
    sent = HERE | {name.replace("_", "-"): value for name, value in headers.items()}
    given = {name: value for name, value in sent.items() if value is not None}
    answer = app.test_client().post("/live/session", headers=given, environ_base={"REMOTE_ADDR": address})
    return answer.status_code, answer.get_json()


def test_the_page_may_load_only_its_own_files(app: Flask) -> None:
    page = app.test_client().get("/")
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(linked) == [f"/static/{name}" for name in ("icon.svg", "live.css", "live.js", "synckit.js")]
    answers = [page, *(app.test_client().get(path, buffered=True) for path in [*linked, "/static/notes.js"])]
    kinds = {answer.mimetype.split("/")[1] for answer in answers}
    assert kinds == {"html", "css", "javascript", "svg+xml"}  # of javascript, Pythons name two
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (answer.status_code, "unsafe" in str(policy)) == (200, False)
    assert re.search(r"<script>|<style|style=|onclick", page.text) is None


@pytest.mark.parametrize("path", ["/static/nothing.js", "/static/../templates/live.html", "/static/"])
def test_nothing_else_is_served(app: Flask, path: str) -> None:
    assert app.test_client().get(path).status_code == 404


def test_production_has_none_of_it(make_app: Callable[..., Flask]) -> None:
    client = make_app(SYNCKIT_ENV="production").test_client()
    for answer in (client.get("/"), client.get("/static/synckit.js"), client.post("/live/session", headers=HERE)):
        assert (answer.status_code, answer.is_json) == (404, True)


def test_the_page_knows_where_the_api_is_mounted(make_app: Callable[..., Flask]) -> None:
    page = make_app(SYNCKIT_URL_PREFIX="/v1/sync").test_client().get("/", base_url="http://localhost/behind")
    assert 'data-api="/behind/v1/sync" data-session="/behind/live/session"' in page.text


def test_what_page_and_curl_push_is_not_in_the_log_of_the_printed_account(
    capsys: pytest.CaptureFixture[str], demo: Flask, send: Send
) -> None:
    """Its SDK could not read it, and would say so at every pull."""
    printed = capsys.readouterr().out
    page = Caller(send, ask(demo)[1]["token"])
    assert page.push(page.register("Laptop", installation_id="tab"), change(table="notes")) == 1
    [(token, push)] = re.findall(r"Bearer (\S+)' -d '(.+)' ", printed)
    assert send("POST", "/push", json.loads(push), Caller(send, token).headers)[1]["cursor"] == 2  # the page shows it
    words = {name: re.findall(rf"{name} +(\S+)\n", printed)[0] for name in ("e-mail", "password", "API key")}
    credentials = {"email": words["e-mail"], "password": words["password"], "api_key": words["API key"]}
    _, answer = send("POST", "/auth", credentials, {})
    account = Caller(send, answer["token"])
    assert account.get("/status")[1]["cursor"] == 0
    assert account.get("/keys")[0] == 404


def test_a_demo_of_an_older_release_gets_an_app_for_the_page(demo: Flask, backend: Backend) -> None:
    backend.store.write(
        lambda connection: connection.execute(schema.apps.delete().where(schema.apps.c.name == "Demo page")) and None
    )
    first, second = ask(demo)[1], ask(demo)[1]
    assert first["app_id"] == second["app_id"]


def test_the_page_gets_a_short_token_for_the_demo_account(demo: Flask, send: Send) -> None:
    status, answer = ask(demo)
    assert status == 200
    claims = jwt.decode(answer["token"], KEY, ["HS256"])
    assert (claims["app"], claims["sub"]) == (answer["app_id"], answer["user_id"])
    assert claims["exp"] - claims["iat"] == live.TOKEN_SECONDS
    phone = Caller(send, answer["token"])
    assert phone.push(phone.register("phone")) == 1


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "127.8.9.10:80", "[::1]:8000", "LOCALHOST:8000"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_browser_on_this_machine_gets_one_under_any_loopback_name(demo: Flask, host: str, address: str) -> None:
    origin = f"http://{host}".removesuffix(":80")
    assert ask(demo, Host=host, Origin=origin, address=address)[0] == 200


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "fe80::1", ""])
def test_another_machine_gets_none(demo: Flask, address: str) -> None:
    status, answer = ask(demo, address=address)
    assert (status, "machine only: open http://127.0.0.1" in answer["error"]) == (403, True)


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example:8000",
        "127.0.0.1.example",
        "localhost.example:8000",
        pytest.param("127.0.0.1:8000.example", marks=needs("werkzeug", "3.1.8")),
        "example@127.0.0.1",
    ],
)
def test_another_host_name_that_resolves_here_gets_none(demo: Flask, host: str) -> None:
    assert ask(demo, Host=host, Origin=f"http://{host}")[0] in (400, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "https://127.0.0.1:8000"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_another_page_in_the_same_browser_gets_none(demo: Flask, headers: dict[str, str | None]) -> None:
    assert ask(demo, **headers)[0] == 403


@pytest.mark.parametrize(
    "header", ["X_Forwarded_For", "X_Forwarded_Proto", "X_Forwarded_Host", "Forwarded", "Via", "X_Real_IP"]
)
def test_nobody_gets_one_through_a_proxy(demo: Flask, header: str) -> None:
    assert ask(demo, **{header: "127.0.0.1"})[0] == 403


def test_without_a_demo_account_the_answer_says_how_to_get_one(app: Flask) -> None:
    status, answer = ask(app)
    assert (status, "empty database" in answer["error"]) == (404, True)


def test_a_token_is_issued_to_a_post_only(demo: Flask) -> None:
    assert demo.test_client().get("/live/session", headers=HERE).status_code == 405
