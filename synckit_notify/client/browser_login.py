"""A log-in in the browser: OAuth2 with PKCE (RFC 7636, RFC 8252). The password is typed into the server's own page.

    the server's page, in the browser ──▶ a port of this machine ──▶ code ── session, with the verifier ──▶ tokens

Only an answer with our `state` counts. Any other is refused and waited past, so nobody can end a log-in by knocking at
the port. Neither the code nor the verifier is ever logged.
"""

import base64
import hashlib
import hmac
import html
import logging
import queue
import secrets
import threading
import time
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from .errors import NetworkError, NotAuthenticated
from .foreign_text import printable
from .models import Account
from .session import Session

PATH = "/callback"
LOOK_SECONDS = 0.05
MAX_REASON_CHARACTERS = 300

PAGE_SECONDS = 2.0
"""The app waits for the browser to take its page this long, unless the browser takes it at once."""

STYLE = "body{margin:4rem auto;max-width:30rem;padding:0 1rem;font:1.125rem/1.5 system-ui,sans-serif}"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
<main>
<h1>{title}</h1>
<p role="status">{text}</p>
</main>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}

log = logging.getLogger("synckit_notify.client")


def log_in(session: Session, open_browser: Callable[[str], object], timeout: float) -> Account:
    """Let the user log in in the browser, and return who did.

    `open_browser` is given the address; `print` will do where there is no browser, and False says that none was opened.
    Raises NotAuthenticated if the user declines, or does not come to an end within `timeout` seconds.
    """
    verifier, state = secrets.token_urlsafe(64), secrets.token_urlsafe(32)
    with Callback(state) as callback:
        address = callback.address
        _open(open_browser, session.authorize_url(redirect_uri=address, state=state, code_challenge=s256(verifier)))
        answer = callback.wait(timeout, session.closed)
    if "code" not in answer:
        raise NotAuthenticated(_reason(answer))
    return session.exchange(code=answer["code"], redirect_uri=address, code_verifier=verifier)


def s256(verifier: str) -> str:
    """Return the challenge of a verifier (RFC 7636, section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


class Callback:
    """Listens on the loopback until the browser brings an answer with this `state`; use it in a `with`."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._answers: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._shown = threading.Event()
        self._answered = False
        self._forged = 0
        self._server = _Server(("127.0.0.1", 0), self._handle)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def wait(self, seconds: float, closed: Callable[[], bool]) -> dict[str, str]:
        """Return the answer's parameters; raises NotAuthenticated if none comes, NetworkError if `closed` says so."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if closed():
                raise NetworkError("the client is closed")
            try:
                answer = self._answers.get(timeout=min(left, LOOK_SECONDS))
            except queue.Empty:
                continue
            self._answered = True
            return answer
        forged = f"; {self._forged} answers were not ours, their state was another" if self._forged else ""
        raise NotAuthenticated(f"nobody finished the log-in in the browser within {seconds:g} s{forged}")

    def __enter__(self) -> Self:
        try:
            threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,), daemon=True).start()
        except RuntimeError as error:
            self._server.server_close()
            raise NetworkError(f"no thread can be started to wait for the browser: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._answered:
            self._shown.wait(PAGE_SECONDS)
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, path: str, show: Callable[[int, str, str], None]) -> None:
        """Hand the answer over, then show the page; `__exit__` waits for the page, since the process may end then.

        In this order: the page makes the browser send what comes next, and only the first answer counts.
        """
        asked = urlsplit(path)
        answer = dict(parse_qsl(asked.query))
        if asked.path != PATH:
            show(404, "Nothing here", "This address is only for the end of a log-in.")
        elif not hmac.compare_digest(answer.get("state", "").encode(), self._state.encode()):
            self._forged += 1
            log.warning("an answer to the log-in had another state: it is not ours")
            show(400, "Nobody asked for this log-in", "Nothing has happened. You may close this window.")
        else:
            self._answers.put(answer)
            try:
                show(200, *_outcome(answer))
            finally:  # also if the browser did not stay to hear it
                self._shown.set()


class _Server(ThreadingTCPServer):
    """A thread per connection: browsers open some that they do not use, and one would hold up all others."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], handle: Callable[[str, Callable[[int, str, str], None]], None]
    ) -> None:
        self.handle = handle
        super().__init__(address, _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


class _Request(BaseHTTPRequestHandler):
    timeout = 10.0
    server: _Server

    def do_GET(self) -> None:
        self.server.handle(self.path, self._show)

    def log_message(self, format: str, *args: object) -> None:
        """The request line holds the code."""

    def _show(self, status: int, title: str, text: str) -> None:
        page = PAGE.format(style=STYLE, title=html.escape(title), text=html.escape(text)).encode()
        self.send_response(status)
        for name, value in (HEADERS | {"Content-Length": str(len(page))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)


def _open(open_browser: Callable[[str], object], url: str) -> None:
    try:
        opened = open_browser(url)
    except webbrowser.Error as error:
        raise NotAuthenticated(f"no browser could be opened: {error}") from error
    if opened is False:  # and not None, which is what `print` says
        raise NotAuthenticated("no browser could be opened: give open_browser a function that shows the address")


def _outcome(answer: dict[str, str]) -> tuple[str, str]:
    """Return a title and a text for the browser; whether the code is worth anything, the app will know."""
    if "code" in answer:
        return "Done", "Go back to the app. You may close this window."
    reason = _reason(answer)
    return "Not logged in", f"{reason[0].upper()}{reason[1:]}. You may close this window."


def _reason(answer: dict[str, str]) -> str:
    """Return why there is no code, in words that are safe to print."""
    if answer.get("error") == "access_denied":
        return "the log-in was declined in the browser"
    said = answer.get("error_description") or answer.get("error") or "it gave no code and no reason"
    return f"the server refused the log-in: {printable(said)[:MAX_REASON_CHARACTERS]}"
