"""The SDK's log-in with the real pages in a real browser: by mouse, by keyboard, on a phone, in dark mode."""

import queue
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from synckit_notify.client import Account, NotAuthenticated, SyncKitClient

from ..support.browser import ENTER, TAB, Browser
from ..support.contrast import CONTRASTS, READABLE
from ..support.service import EMAIL, PASSWORD, Service

pytestmark = pytest.mark.thorough

CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.fixture(scope="module")
def service(shared_service: Service) -> Service:
    """The server with its first app: the pages show the name, `notes`."""
    return shared_service


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """A browser without cookies, in its usual size, in light mode."""
    chromium.fresh()
    chromium.look()
    return chromium


class LoggingIn:
    """A client that waits in a thread for its log-in; `url` is the page to open."""

    def __init__(self, service: Service) -> None:
        self.client = SyncKitClient(service.server.url, api_key=service.api_key, encrypt=False)
        urls: queue.Queue[str] = queue.Queue()
        self._outcome: Account | NotAuthenticated | None = None
        self._thread = threading.Thread(target=self._log_in, args=(urls.put,), daemon=True)
        self._thread.start()
        self.url = urls.get(timeout=10)

    def outcome(self) -> Account:
        """Return the account that logged in, or raise the error."""
        self._thread.join(10)
        if isinstance(self._outcome, NotAuthenticated):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _log_in(self, open_browser: Callable[[str], object]) -> None:
        try:
            self._outcome = self.client.login(open_browser=open_browser, timeout=60)
        except NotAuthenticated as error:
            self._outcome = error

    def __enter__(self) -> "LoggingIn":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def log_in(browser: Browser, password: str = PASSWORD) -> None:
    browser.type("#email", EMAIL)
    browser.type("#password", password)
    browser.click("[value=log_in]")


def test_a_person_logs_in_and_allows_and_the_client_syncs(service: Service, browser: Browser) -> None:
    with LoggingIn(service) as waiting:
        browser.go(waiting.url)
        assert browser.title == "Log in to use notes"
        log_in(browser)
        assert browser.title == "Allow notes?"
        assert EMAIL in browser.text("main")
        (cookie,) = browser.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        browser.click("[value=allow]")
        assert browser.text("h1") == "Done"
        assert "You may close this window." in browser.text("main")
        assert waiting.outcome() == service.client().authenticate(EMAIL, PASSWORD)
        waiting.client.register_device("laptop", "linux")
        assert waiting.client.status().change_count == 0
    browser.go(waiting.url)
    assert browser.title == "Log in to use notes"  # the next person here is nobody yet
    assert browser.console() == []


def test_a_keyboard_is_enough(service: Service, browser: Browser) -> None:
    with LoggingIn(service) as waiting:
        browser.go(waiting.url)
        with browser.next_page():
            browser.press(EMAIL + TAB + PASSWORD + ENTER)
        assert browser.title == "Allow notes?"
        browser.press(TAB)
        assert browser.run("return document.activeElement.value") == "allow"
        assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        with browser.next_page():
            browser.press(ENTER)
        assert browser.text("h1") == "Done"
        waiting.outcome()


def test_a_wrong_password_is_told_where_a_screen_reader_hears_it_and_the_next_try_is_a_word_away(
    service: Service, browser: Browser
) -> None:
    with LoggingIn(service) as waiting:
        browser.go(waiting.url)
        log_in(browser, "wrong")
        assert browser.title.startswith("Error: ")
        assert browser.label("#problem")[0] == "alert"
        assert browser.label("#email") == ("textbox", "E-mail")
        assert browser.run("return document.querySelector('#email').value") == EMAIL
        assert browser.run("return document.activeElement.id") == "password"
        with browser.next_page():
            browser.press(PASSWORD + ENTER)
        browser.click("[value=allow]")
        waiting.outcome()


@pytest.mark.parametrize("logged_in", [False, True])
def test_cancelling_returns_to_the_app_which_reports_it(service: Service, browser: Browser, logged_in: bool) -> None:
    with LoggingIn(service) as waiting:
        browser.go(waiting.url)
        if logged_in:
            log_in(browser)
        browser.click("[value=decline]")
        assert browser.text("h1") == "Not logged in"
        with pytest.raises(NotAuthenticated, match="declined"):
            waiting.outcome()


def authorize(service: Service, **asked: str) -> str:
    """Return the URL of an authorization request for which no client waits."""
    usual = {"response_type": "code", "client_id": service.api_key, "redirect_uri": "http://127.0.0.1:9/", "state": "s"}
    query = usual | {"code_challenge": CHALLENGE, "code_challenge_method": "S256"} | asked
    return f"{service.server.url}/oauth/authorize?{urlencode(query)}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_policy_lets_the_browser_go_on_to_any_loopback(service: Service, browser: Browser, host: str) -> None:
    """Chromium applies `form-action` to the redirect too; that nothing listens there does not matter here."""
    browser.go(authorize(service, redirect_uri=f"http://{host}:9/callback"))
    browser.click("[value=decline]")
    assert browser.url.startswith(f"http://{host}:9/callback?error=access_denied")


LOOKS: list[dict[str, Any]] = [{}, {"dark": True}, {"width": 320, "height": 568}]


@pytest.mark.parametrize("look", LOOKS, ids=["day", "night", "phone"])
def test_every_page_can_be_read_by_day_by_night_and_on_the_smallest_phone(
    service: Service, browser: Browser, look: dict[str, Any]
) -> None:
    browser.look(**look)

    def check() -> None:
        assert [(text, ratio) for text, ratio in browser.run(CONTRASTS) if ratio < READABLE] == []
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        small = "return [...document.querySelectorAll('button, input:not([type=hidden])')].map(e => e.offsetHeight)"
        assert all(height >= 44 for height in browser.run(small))

    browser.go(authorize(service, client_id="nobody"))
    check()
    browser.go(authorize(service))
    check()
    log_in(browser, "wrong")
    check()
    with browser.next_page():
        browser.type("#password", PASSWORD + ENTER)
    check()


def test_no_other_page_can_put_it_in_a_frame(service: Service, browser: Browser) -> None:
    browser.go(f"{service.server.url}/api/sync/live")
    browser.console()
    browser.run(f"document.body.innerHTML = `<iframe src='{authorize(service)}'></iframe>`")
    assert browser.until(lambda: any("frame-ancestors" in line for line in browser.console()))
