"""A log-in in the browser: OAuth2 with PKCE (RFC 7636, RFC 8252). The password is typed into the server's own page.

    the server's page, in the browser ──▶ a port of this machine ──▶ code ── session, with the verifier ──▶ tokens

Only a redirect with our `state` is accepted. Any other is refused, and the wait goes on, so that no other program can
end a log-in by a request to the port. Neither the code nor the verifier is ever logged.
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

from .cancellable import raise_if_cancelled
from .errors import NetworkError, NotAuthenticated
from .foreign_text import printable
from .models import Account
from .session import Session

PATH = "/callback"
POLL_SECONDS = 0.03
MAX_REASON_CHARACTERS = 300

PAGE_SECONDS = 2.0
"""Upper bound of the wait for the browser to fetch the last page, before the port is closed."""

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
    """Let the user log in with the browser, and return the account.

    `open_browser` is called with the URL; it returns False if it could not open a browser. Raises NotAuthenticated if
    the user declines or does not finish within `timeout` seconds.
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
    """Return the code challenge of a verifier (RFC 7636, section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


class Callback:
    """Listens on the loopback until the browser is redirected to it with this `state`; a context manager."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._answers: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._shown = threading.Event()
        self._answered = False
        self._forged = 0
        self._server = _Server(("127.0.0.1", 0), self._handle)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def wait(self, seconds: float, closed: Callable[[], bool]) -> dict[str, str]:
        """Return the parameters of the redirect; raises NotAuthenticated after `seconds`, NetworkError if `closed`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if closed():
                raise NetworkError("the client is closed")
            raise_if_cancelled()
            try:
                answer = self._answers.get(timeout=min(left, POLL_SECONDS))
            except queue.Empty:
                continue
            self._answered = True
            return answer
        forged = f"; {self._forged} redirects were refused because their state was wrong" if self._forged else ""
        raise NotAuthenticated(f"the log-in in the browser was not finished within {seconds:g} s{forged}")

    def __enter__(self) -> Self:
        try:
            threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        except RuntimeError as error:
            self._server.server_close()
            raise NetworkError(f"cannot start a thread to wait for the browser: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._answered:
            self._shown.wait(PAGE_SECONDS)
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, path: str, show: Callable[[int, str, str], None]) -> None:
        """Pass the parameters on, then show the page; `__exit__` waits for the page, since the process may end then.

        The order matters: the page lets the browser send its next request, and only the first redirect counts.
        """
        url = urlsplit(path)
        answer = dict(parse_qsl(url.query))
        if url.path != PATH:
            show(404, "Not found", "This address is only used at the end of a log-in.")
        elif not hmac.compare_digest(answer.get("state", "").encode(), self._state.encode()):
            self._forged += 1
            log.warning("refused a redirect to the log-in: its state is wrong")
            show(400, "This log-in was not requested", "Nothing was changed. You may close this window.")
        else:
            self._answers.put(answer)
            try:
                show(200, *_outcome(answer))
            finally:  # also if the browser closed the connection
                self._shown.set()


class _Server(ThreadingTCPServer):
    """One thread for each connection: browsers open some that they do not use, and one would block all others."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], handle: Callable[[str, Callable[[int, str, str], None]], None]
    ) -> None:
        self.handle = handle
        super().__init__(address, _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error: a browser may close its connection at any time."""


class _Request(BaseHTTPRequestHandler):
    timeout = 10.0
    server: _Server

    def do_GET(self) -> None:
        self.server.handle(self.path, self._show)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the request line contains the code."""

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
        raise NotAuthenticated(f"cannot open a browser: {error}") from error
    if opened is False:  # None, which `print` returns, is fine
        raise NotAuthenticated("cannot open a browser: pass open_browser=print to show the URL instead")


def _outcome(answer: dict[str, str]) -> tuple[str, str]:
    """Return a title and a text for the browser; whether the code is valid is only known later, in the app."""
    if "code" in answer:
        return "Done", "Go back to the app. You may close this window."
    reason = _reason(answer)
    return "Not logged in", f"{reason[0].upper()}{reason[1:]}. You may close this window."


def _reason(answer: dict[str, str]) -> str:
    """Return why there is no code, as text that is safe to print."""
    if answer.get("error") == "access_denied":
        return "the log-in was declined in the browser"
    message = answer.get("error_description") or answer.get("error") or "it sent neither a code nor a reason"
    return f"the server refused the log-in: {printable(message)[:MAX_REASON_CHARACTERS]}"
