"""A user with a browser that keeps cookies and runs no script, and the app that opened it."""

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from flask import Flask
from werkzeug.test import TestResponse

from .backend import PASSWORD

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
"""The example of RFC 7636, appendix B."""

CALLBACK = "http://127.0.0.1:53123/callback"


class Visitor:
    """Alice with a fresh browser; `asked` are the parameters that her app sends her with."""

    def __init__(
        self,
        app: Flask,
        api_key: str,
        *,
        email: str = "alice@example.org",
        base_url: str = "http://localhost",
        **asked: str | None,
    ) -> None:
        self.browser = app.test_client()
        self._email = email
        self._base_url = base_url
        usual = {"response_type": "code", "client_id": api_key, "redirect_uri": CALLBACK, "state": "a state"}
        usual |= {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
        self.asked = {name: value for name, value in (usual | asked).items() if value is not None}

    def visit(self, query: str | None = None) -> TestResponse:
        """Open the page that the app shows."""
        return self.browser.get(f"/oauth/authorize?{self._query(query)}", base_url=self._base_url)

    def press(self, page: TestResponse, action: str, **fields: str) -> TestResponse:
        """Fill in a page's form and press one of its buttons."""
        assert f'name="action" value="{action}"' in page.text, page.text
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
        form = {name: unescape(value) for name, value in hidden} | fields | {"action": action}
        return self.post(form)

    def post(self, form: dict[str, str]) -> TestResponse:
        """Send a form, whatever is in it."""
        return self.browser.post(f"/oauth/authorize?{self._query()}", data=form, base_url=self._base_url)

    def log_in(self) -> TestResponse:
        """Log in, and return the page that comes next."""
        answer = self.press(self.visit(), "log_in", email=self._email, password=PASSWORD)
        assert answer.status_code == 303, answer.text
        assert answer.location == f"?{self._query()}"
        return self.visit()

    def allow(self) -> str:
        """Log in, allow, and return the code."""
        return sent_to(self.press(self.log_in(), "allow"))["code"]

    def _query(self, query: str | None = None) -> str:
        return urlencode(self.asked) if query is None else query


def sent_to(answer: TestResponse, address: str = CALLBACK) -> dict[str, str]:
    """Return the parameters with which a browser is sent to the app."""
    assert answer.status_code == 302, answer.text
    parts = urlsplit(answer.location)
    assert answer.location.split("?")[0] == address
    return dict(parse_qsl(parts.query))


def grant(api_key: str, code: str) -> dict[str, Any]:
    """Return what an app trades a code with."""
    usual = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": api_key}
    return usual | {"code_verifier": VERIFIER}
