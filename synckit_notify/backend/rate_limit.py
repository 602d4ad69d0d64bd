"""Limits for failed attempts: log-ins, password checks and OAuth requests. Counted with the package `limits`.

    request ──▶ its keys: address, account ──▶ a limit reached? 429 ──▶ the view, checked again before a password hash
                                                                         └──▶ 401 or 403: one more for each key

Only failures count. Devices behind one address, a demo or a fleet that reconnects may log in as often as they like.
What a correct password costs is bounded elsewhere (passwords.py).

- By address: one place that tries many accounts. IPv6 addresses count by /64, which is what one household or one
  machine is given.
- By account: many places that try one account. The key is the normalized e-mail without the app, since a password opens
  all apps; for `/password` it is the user of the token. Unknown e-mails count in the same way, so the answer does not
  tell which accounts exist. The price: an attacker can block the log-ins of somebody else's account for as long as the
  attack lasts. Devices that are logged in are not affected.
- OAuth grants and the log-in page count by address alone, with ten times the limit: codes, refresh tokens and API keys
  cannot be guessed, so this only bounds the noise. They do not count by `client_id`, which is in every copy of an app:
  anybody could lock out all its users. They do not count by refresh token: the first wrong one ends the session.

Attempts that arrive together all pass the first check, so the turn to hash a password begins with a second one,
`check_rate_limit`.
"""

import functools
import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, g, request
from limits import RateLimitItem
from werkzeug.middleware.proxy_fix import ProxyFix

from ..runtime.per_process import PerProcess
from . import accounts, request_limits, request_parsing
from .context import current_backend
from .counters import Counters
from .errors import TooManyAttempts
from .request_fields import Body, Text, optional
from .settings import BackendSettings

REQUEST_FACTOR = 10
"""How many times the configured limit OAuth requests have, since what they guess at cannot be guessed."""

IPV6_NETWORK_BITS = 64

EXTENSION_NAME = "synckit_limiter"

log = logging.getLogger(__name__)

Key = Callable[[], str]


class Named(Body):
    """The account that a log-in names."""

    email = Text(longest=accounts.MAX_EMAIL_CHARACTERS)


class NamedOnPage(Body):
    """The account that a form of the log-in page names, if it does; the page itself checks the length."""

    email = optional(Text(longest=request_limits.MAX_SMALL_BODY_BYTES, shortest=0))


def address() -> str:
    """Return the client's IPv4 address or IPv6 network, the key of a limit."""
    _warn_of_proxy()
    return _network() or "nowhere"  # a Unix socket


def client_address() -> str | None:
    """Return the same, or None if it may be the address of a proxy that all clients share."""
    through_unknown_proxy = "X-Forwarded-For" in request.headers and not current_backend().settings.proxies
    return None if through_unknown_proxy else _network()


def _network() -> str | None:
    try:
        found = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, IPV6_NETWORK_BITS), strict=False))


def _account_in_json() -> str:
    """Return the account that a log-in names; raises MalformedBody and InvalidField, as the view would."""
    return _account(Named(request_parsing.parse(_body())).email)


def _account_in_form() -> str:
    """Return the account that the page's form names; its other buttons count for the address alone."""
    email = NamedOnPage(request_parsing.parse_form(_body())).email
    return _account(email) if email else f"nobody at {address()}"


def _user_of_token() -> str:
    """Return the user of the token; raises InvalidToken and Forbidden, as the view would."""
    return f"user {current_backend().notifier.authenticate(request).user}"


class Rule(NamedTuple):
    """What is limited at one endpoint. Endpoints of the same `scope` share their counters."""

    keys: Collection[Key]
    scope: str
    failures: Collection[int]
    """The statuses that count."""
    factor: int = 1
    """How many times the configured limit it has."""


RULES = {
    "synckit_backend.auth": Rule((address, _account_in_json), "password", (401,)),
    "synckit_backend.change_password": Rule((address, _user_of_token), "password", (403,)),
    "synckit_pages.decide": Rule((address, _account_in_form), "password", (403,)),
    "synckit_pages.show": Rule((address,), "request", (400,), REQUEST_FACTOR),
    "synckit_oauth.token": Rule((address,), "request", (400, 401), REQUEST_FACTOR),
}


class Limiter:
    """The limits of one application, and its counters, which each process makes at its first count."""

    def __init__(self, settings: BackendSettings) -> None:
        self._limits = settings.login_limits
        self._counters = PerProcess(lambda: Counters(settings.redis_url, settings.broker_namespace))
        self.expects_proxy = settings.proxies > 0
        """Whether X-Forwarded-For is expected, or was warned of already."""

    def limited(self, view: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
        """Return the view behind a check, which raises TooManyAttempts."""
        limits = [type(limit)(limit.amount * rule.factor, limit.multiples) for limit in self._limits]

        @functools.wraps(view)
        def checked(**values: Any) -> Any:
            g.synckit_attempt = attempt = Attempt(self._counters.get(), rule.failures)
            for key in rule.keys:
                attempt.add(limits, key(), rule.scope)
            return view(**values)

        return checked


class Attempt:
    """One request to a limited endpoint: the limits that apply to it, each with the name of its counter."""

    def __init__(self, counters: Counters, failures: Collection[int]) -> None:
        self._counters, self._failures = counters, failures
        self._limits: list[tuple[RateLimitItem, str]] = []

    def add(self, limits: Sequence[RateLimitItem], owner: str, scope: str) -> None:
        """Apply the limits of an address or account to this request; raises TooManyAttempts if one is reached."""
        added = [(limit, limit.key_for(owner, scope)) for limit in limits]
        self._limits += added
        self._check(added)

    def check_again(self) -> None:
        """Raise TooManyAttempts if a limit is reached now."""
        self._check(self._limits)

    def _check(self, limits: Sequence[tuple[RateLimitItem, str]]) -> None:
        if any(self._counters.get(counter) >= limit.amount for limit, counter in limits):
            raise TooManyAttempts

    def finish(self, response: Response) -> None:
        """Count the request if it failed, and add headers about the limit with the fewest failures left."""
        failed = response.status_code in self._failures
        states = []
        for limit, counter in self._limits:
            expiry = limit.get_expiry()
            count = self._counters.incr(counter, expiry) if failed else self._counters.get(counter)
            reset_at = int(self._counters.get_expiry(counter)) + 1
            states.append((max(0, limit.amount - count), -reset_at, limit.amount))
        if not states:
            return
        remaining, reset_at, amount = min(states)
        response.headers["X-RateLimit-Limit"] = str(amount)
        response.headers["X-RateLimit-Remaining"] = str(remaining)
        response.headers["X-RateLimit-Reset"] = str(-reset_at)
        if response.status_code == TooManyAttempts.status:
            response.headers["Retry-After"] = str(max(1, -reset_at - int(time.time())))


def install(app: Flask, settings: BackendSettings) -> None:
    """Limit the routes of an application, which must be registered already."""
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    if not settings.login_limits:
        return
    app.extensions[EXTENSION_NAME] = limiter = Limiter(settings)
    for endpoint, rule in RULES.items():
        app.view_functions[endpoint] = limiter.limited(app.view_functions[endpoint], rule)
    app.after_request(_finish)


def check_rate_limit() -> None:
    """Check the limits of this request again, when its password is about to be hashed; raises TooManyAttempts."""
    attempt: Attempt | None = g.get("synckit_attempt")
    if attempt is not None:
        attempt.check_again()


def _finish(response: Response) -> Response:
    attempt: Attempt | None = g.pop("synckit_attempt", None)
    if attempt is not None:
        attempt.finish(response)
    return response


def _account(email: str) -> str:
    """Return a short key without the address; whoever has a list of addresses can still compare."""
    return f"account {hashlib.sha256(accounts.normalise(email).encode()).hexdigest()}"


def _body() -> bytes:
    request.max_content_length = request_limits.MAX_SMALL_BODY_BYTES
    return request.get_data()


def _warn_of_proxy() -> None:
    """Warn once that all clients may look like one: a proxy sets X-Forwarded-For, or a client forges it."""
    limiter: Limiter = current_app.extensions[EXTENSION_NAME]
    if not limiter.expects_proxy and "X-Forwarded-For" in request.headers:
        limiter.expects_proxy = True
        log.warning(
            "a request has X-Forwarded-For: behind a proxy all clients count as one address, until SYNCKIT_PROXIES "
            "gives the number of proxies"
        )
