"""The SDK's side of a browser log-in: a listener on the loopback, and a scripted browser."""

import contextlib
import inspect
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from synckit_notify.client import NetworkError, NotAuthenticated, ServerError, StateError, SyncKitClient, browser_login
from synckit_notify.client.browser_login import Callback, s256
from synckit_notify.client.models import Device

from ..support.scripted_server import (
    API_KEY,
    AUTH,
    STATUS,
    TOKEN,
    Answer,
    FakeClock,
    LoseAnswer,
    Refuse,
    Script,
    logged_in,
    tokens,
)

GRANTED = Answer(tokens("granted", user_id="alice", app_id="notes"))
GOOD = Answer({"change_count": 1, "cursor": 1, "epoch": "e"})


class Browser:
    """Requests the redirect URL of the log-in; each answer changes some parameters, or is another path."""

    def __init__(self, *answers: dict[str, str | None] | str, opened: object = None) -> None:
        self._answers = answers
        self._opened = opened
        self.url = ""
        self.pages: list[tuple[int, str, dict[str, str]]] = []

    def __call__(self, url: str) -> object:
        self.url = url
        for answer in self._answers:
            self.pages.append(self.get(answer if isinstance(answer, str) else self.callback(answer)))
        return self._opened

    @property
    def asked(self) -> dict[str, str]:
        """Return the parameters of the authorization request."""
        return dict(parse_qsl(urlsplit(self.url).query))

    def callback(self, changed: dict[str, str | None]) -> str:
        query = {"code": "the-code", "state": self.asked["state"]} | changed
        return "/callback?" + urlencode({name: value for name, value in query.items() if value is not None})

    def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        address = f"http://{urlsplit(self.asked['redirect_uri']).netloc}{path}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.status, answer.read().decode(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture
def client() -> Iterator[Callable[..., tuple[SyncKitClient, Script]]]:
    made: list[SyncKitClient] = []

    def make(**steps: Any) -> tuple[SyncKitClient, Script]:
        places = {"token": TOKEN, "status": STATUS, "auth": AUTH}
        server = Script({places[name]: told for name, told in steps.items()})
        made.append(SyncKitClient("http://server", api_key=API_KEY, http=httpx2.Client(transport=server)))
        return made[-1], server

    yield make
    for each in made:
        each.close()


Make = Callable[..., tuple[SyncKitClient, Script]]


def test_after_a_browser_log_in_the_client_is_logged_in_as_after_authenticate(client: Make) -> None:
    phone, server = client(token=[GRANTED], status=[GOOD])
    browser = Browser({})
    assert phone.login(open_browser=browser) == ("alice", "notes")
    phone.status()
    assert server.asked[-1].token == "access-granted"
    assert phone._state.tokens().refresh == "refresh-granted"


def test_the_server_is_asked_for_a_code_and_given_the_secret_that_belongs_to_it(client: Make) -> None:
    phone, server = client(token=[GRANTED])
    browser = Browser({})
    phone.login(open_browser=browser)
    assert browser.url.startswith("http://server/oauth/authorize?")
    asked, given = browser.asked, server.bodies(TOKEN)[0]
    verifier = given.pop("code_verifier")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/callback", asked["redirect_uri"])
    assert asked == {
        "response_type": "code",
        "client_id": API_KEY,
        "redirect_uri": asked["redirect_uri"],
        "state": asked["state"],
        "code_challenge": s256(verifier),
        "code_challenge_method": "S256",
    }
    assert given == {
        "grant_type": "authorization_code",
        "client_id": API_KEY,
        "code": "the-code",
        "redirect_uri": asked["redirect_uri"],
    }
    assert re.fullmatch(r"[\w.~-]{43,128}", verifier, re.ASCII)


def test_no_two_log_ins_share_a_secret(client: Make) -> None:
    phone, server = client(token=[GRANTED, GRANTED])
    browsers = [Browser({}), Browser({})]
    for browser in browsers:
        phone.login(open_browser=browser)
    assert len({browser.asked["state"] for browser in browsers}) == 2
    assert len({body["code_verifier"] for body in server.bodies(TOKEN)}) == 2


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert s256(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_browser_is_told_that_it_may_be_closed_and_keeps_nothing(client: Make) -> None:
    phone, _ = client(token=[GRANTED])
    browser = Browser({})
    phone.login(open_browser=browser)
    ((status, page, headers),) = browser.pages
    assert status == 200
    assert "You may close this window." in page
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "the-code" not in page


def test_the_log_in_names_a_registered_device(client: Make) -> None:
    phone, server = client(token=[GRANTED], auth=[Answer(tokens("x", token="t", user_id="alice", app_id="notes"))])
    phone._state.keep_device(Device("d1", "phone", "android", datetime.now(UTC)))
    phone.login(open_browser=Browser({}))
    phone.authenticate("alice@example.org", "secret")
    assert [body["device_id"] for body in (*server.bodies(TOKEN), *server.bodies(AUTH))] == ["d1", "d1"]


@pytest.mark.parametrize(
    "forged", [{"state": "guessed"}, {"state": None}, {"state": "é"}, {"state": None, "error": "x"}]
)
def test_a_redirect_with_another_state_is_refused_and_the_wait_goes_on(
    client: Make, forged: dict[str, str | None]
) -> None:
    phone, server = client(token=[GRANTED])
    browser = Browser(forged | {"code": "forged"}, {})
    phone.login(open_browser=browser)
    assert [status for status, _, _ in browser.pages] == [400, 200]
    assert [body["code"] for body in server.bodies(TOKEN)] == ["the-code"]


def test_only_the_first_redirect_counts(client: Make) -> None:
    phone, server = client(token=[GRANTED])
    phone.login(open_browser=Browser({"code": "first"}, {"code": "second"}))
    assert [body["code"] for body in server.bodies(TOKEN)] == ["first"]


def test_the_first_redirect_counts_even_if_its_page_is_shown_late() -> None:
    pages: list[str] = []

    def show_slowly(status: int, title: str, text: str) -> None:
        time.sleep(0.2)
        pages.append(title)

    with Callback("ours") as callback:
        slow = threading.Thread(target=callback._handle, args=("/callback?state=ours&code=first", show_slowly))
        slow.start()
        answer = callback.wait(5, lambda: False)
    assert answer["code"] == "first"
    assert pages == ["Done"], "the app waits for the page, since its process may end next"
    slow.join()


def test_the_log_in_does_not_wait_long_for_a_browser_that_does_not_fetch_its_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browser_login, "PAGE_SECONDS", 0.1)
    left = threading.Event()
    with Callback("ours") as callback:
        arguments = ("/callback?state=ours&code=first", lambda *_: left.wait(60))
        threading.Thread(target=callback._handle, args=arguments, daemon=True).start()
        assert callback.wait(5, lambda: False)["code"] == "first"
        began = time.monotonic()
    assert time.monotonic() - began < 5
    left.set()


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/callback/", "/callback%00"])
def test_other_paths_of_the_callback_are_404(client: Make, path: str) -> None:
    phone, _ = client(token=[GRANTED])
    browser = Browser(path, {})
    phone.login(open_browser=browser)
    assert [status for status, _, _ in browser.pages] == [404, 200]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"error": "access_denied"}, "the log-in was declined in the browser"),
        ({"error": "server_error"}, "the server refused the log-in: server_error"),
        ({"error": "x", "error_description": "<b>no\n\x1b[31m"}, r"the server refused the log-in: <b>no \\x1b\[31m"),
        ({}, "the server refused the log-in: it sent neither a code nor a reason"),
    ],
)
def test_the_user_and_the_app_are_told_why_there_is_no_code(
    client: Make, answer: dict[str, str | None], sentence: str
) -> None:
    phone, server = client()
    browser = Browser({"code": None} | answer)
    with pytest.raises(NotAuthenticated, match=f"^{sentence}$"):
        phone.login(open_browser=browser)
    ((_, page, _),) = browser.pages
    assert "Not logged in" in page
    assert "You may close this window." in page
    assert "<b>" not in page
    assert server.asked == []


@pytest.mark.parametrize(
    ("step", "error", "sentence"),
    [
        (Refuse(400, "invalid_grant"), NotAuthenticated, "invalid_grant"),
        (
            Answer({"error": "invalid_grant", "error_description": "the-code is old"}, 400),
            NotAuthenticated,
            "^\\*\\*\\* is old$",
        ),
        (Answer({"error": "invalid_client", "error_description": "who?"}, 401), NotAuthenticated, "who"),
        (Refuse(503, "later"), ServerError, "later"),
        (LoseAnswer(), NetworkError, "no answer"),
    ],
)
def test_the_error_of_a_refused_code_does_not_contain_the_code(
    client: Make, step: Any, error: type[Exception], sentence: str
) -> None:
    phone, _ = client(token=[step])
    with pytest.raises(error, match=sentence):
        phone.login(open_browser=Browser({}))
    assert phone._state.tokens() is None


def test_the_log_in_of_another_account_is_refused_by_the_state_file(client: Make) -> None:
    phone, _ = client(token=[Answer(tokens("x", user_id="bob", app_id="notes"))])
    logged_in(phone._state, FakeClock())
    with pytest.raises(StateError, match="belongs to another account"):
        phone.login(open_browser=Browser({}))


def test_a_log_in_that_is_not_finished_in_time_is_not_authenticated(client: Make) -> None:
    phone, _ = client()
    began = time.monotonic()
    with pytest.raises(NotAuthenticated, match=r"^the log-in in the browser was not finished within 0\.2 s$"):
        phone.login(open_browser=Browser(), timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 2.0
    with pytest.raises(
        NotAuthenticated, match=r"within 0\.2 s; 2 redirects were refused because their state was wrong$"
    ):
        phone.login(open_browser=Browser({"state": "x"}, {"state": "y"}), timeout=0.2)


def test_without_a_browser_the_log_in_fails_at_once(client: Make) -> None:
    phone, _ = client(token=[GRANTED])
    with pytest.raises(NotAuthenticated, match="cannot open a browser"):
        phone.login(open_browser=Browser(opened=False))

    def broken(url: str) -> None:
        raise webbrowser.Error("could not locate runnable browser")

    with pytest.raises(NotAuthenticated, match="could not locate runnable browser"):
        phone.login(open_browser=broken)


def test_the_defaults_are_the_default_browser_and_five_minutes() -> None:
    parameters = inspect.signature(SyncKitClient.login).parameters
    assert (parameters["open_browser"].default, parameters["timeout"].default) == (webbrowser.open, 300.0)


def test_closing_the_client_ends_the_wait_for_the_browser(client: Make) -> None:
    phone, _ = client()
    threading.Timer(0.1, phone.close).start()
    began = time.monotonic()
    with pytest.raises(NetworkError, match="the client is closed"):
        phone.login(open_browser=Browser())
    assert time.monotonic() - began < 2.0


def test_an_unused_connection_of_the_browser_blocks_nothing(client: Make) -> None:
    phone, _ = client(token=[GRANTED])
    idle: list[socket.socket] = []

    def browse(url: str) -> None:
        browser.url = url
        port = urlsplit(browser.asked["redirect_uri"]).port
        idle.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(3))
        browser.get(browser.callback({}))

    browser = Browser()
    phone.login(open_browser=browse, timeout=5.0)
    for each in idle:
        each.close()


def test_the_port_is_closed_after_every_outcome(client: Make) -> None:
    phone, _ = client(token=[GRANTED, Refuse(400)])
    for browser, timeout in (Browser({}), 5.0), (Browser({}), 5.0), (Browser(), 0.05):
        with contextlib.suppress(NotAuthenticated):
            phone.login(open_browser=browser, timeout=timeout)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", urlsplit(browser.asked["redirect_uri"]).port))


def test_bytes_that_are_not_http_do_not_end_the_log_in_and_print_nothing(
    client: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    phone, _ = client(token=[GRANTED])
    browser = Browser()

    def browse(url: str) -> None:
        browser.url = url
        port = urlsplit(browser.asked["redirect_uri"]).port
        for rubbish in (
            b"\x16\x03\x01\x02\x00",
            b"POST /callback HTTP/1.1\r\n\r\n",
            b"GET /callback HTTP/9\r\n\r\n",
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(rubbish)
        browser.get(browser.callback({}))

    phone.login(open_browser=browse, timeout=5.0)
    assert capfd.readouterr() == ("", "")


def test_no_secret_is_logged(client: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    phone, server = client(token=[GRANTED])
    browser = Browser({"state": "forged"}, "/other", {})
    phone.login(open_browser=browser)
    said = caplog.text + "".join(capfd.readouterr())
    assert "its state is wrong" in said
    secrets = ["the-code", browser.asked["state"], server.bodies(TOKEN)[0]["code_verifier"], API_KEY, "access-granted"]
    assert not [secret for secret in secrets if secret in said]
