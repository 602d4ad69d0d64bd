"""How often somebody may fail: at log-ins, at passwords, at the requests of OAuth. On Flask-Limiter.

    request ──▶ its keys: an address, an account ──▶ used up? 429 ──▶ the view, again before a password is hashed
                                                                        └──▶ 401 or 403: each key counts one more

Only failures count. Devices behind one address, a demo or a fleet that comes back log in as often as they like, and
whoever has mistyped waits for a minute. What a right password costs is bounded elsewhere (passwords): two hashes at a
time in each process, one of them for each account and each address, and 503 for who waits ten seconds for a turn.

- By address: many accounts, tried from one place. IPv6 by /64, which is what one household or one machine is given.
- By account: one account, tried from many places. It is the e-mail as it is compared, without the app, since a password
  opens all apps; with a token (`/password`) it is the user. An e-mail that nobody has is counted as any other, so that
  nothing tells them apart. The price: somebody can hold up the log-ins of an account that is not theirs, for as long as
  they go on. Devices that are logged in do not notice.
- Grants, and what a page shows, by address alone and ten times as wide: codes, refresh tokens and API keys cannot be
  guessed, this only bounds the noise. Not by `client_id`: it is in every copy of an app, so anybody could lock all of
  its users out. Not by refresh token: the first wrong one of a session ends that session.

Many attempts at once all find room at the first look, so a password's turn begins with a second one:
`check_rate_limit`.
"""

import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, request
from flask_limiter import Limiter, RequestLimit
from limits import parse_many
from werkzeug.middleware.proxy_fix import ProxyFix

from .. import ConfigurationError
from ..errors import Refused
from ..settings import broker_namespace
from . import accounts, counters, request_fields, request_limits
from .context import current_backend

DEFAULT_LIMIT = "10/minute; 100/hour"
OFF = "off"
WIDER = 10
IPV6_NETWORK = 64

EXTENSION_NAME = "synckit_limiter"
MEMORY = "memory://"

logging.getLogger("flask-limiter").setLevel(logging.WARNING)  # below that it writes out the keys
log = logging.getLogger(__name__)

Key = Callable[[], str]


class TooManyAttempts(Refused):
    """There were too many failures, from this address or for this account; which of them is not told."""

    status = 429

    def __init__(self) -> None:
        super().__init__("too many failed attempts: wait for a while, then try again")


def address() -> str:
    """Return the network that the request comes from, as far as one household or machine is given it."""
    _warn_of_proxy()
    return _network() or "nowhere"  # a Unix socket


def client_address() -> str | None:
    """Return the same if it is the client's own, and None where it may be that of a proxy which serves everybody."""
    through_unknown_proxy = "X-Forwarded-For" in request.headers and not _proxies(current_app.config)
    return None if through_unknown_proxy else _network()


def _network() -> str | None:
    try:
        found = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, IPV6_NETWORK), strict=False))


def _named_in_json() -> str:
    """Return the account that a log-in names; raises Malformed and Invalid, as the view would."""
    return _account(request_fields.parse(_body()).text("email", longest=accounts.MAX_EMAIL_CHARACTERS))


def _named_in_form() -> str:
    """Return the account that a page's form names; other buttons than that to log in count for the address."""
    email = request_fields.parse_form(_body()).optional_text(
        "email", longest=request_limits.MAX_SMALL_BODY_BYTES, shortest=0
    )
    return _account(email) if email else f"nobody at {address()}"


def _holder() -> str:
    """Return the user whose token it is; raises InvalidToken and Forbidden, as the view would."""
    return f"user {current_backend().notifier.authenticate(request).user}"


class Rule(NamedTuple):
    """What is limited at an endpoint: by which keys, in whose common count, and which answers are failures."""

    endpoint: str
    keys: Collection[Key]
    scope: str
    failures: Collection[int]
    wider: int = 1


RULES = (
    Rule("synckit_backend.auth", (address, _named_in_json), "password", (401,)),
    Rule("synckit_backend.change_password", (address, _holder), "password", (403,)),
    Rule("synckit_pages.decide", (address, _named_in_form), "password", (403,)),
    Rule("synckit_pages.show", (address,), "request", (400,), WIDER),
    Rule("synckit_oauth.token", (address,), "request", (400, 401), WIDER),
)


LIMITED = frozenset(rule.endpoint for rule in RULES)


@dataclass(slots=True)
class _Installed:
    """One application's limiter, and whether an X-Forwarded-For is expected there, or was told of."""

    limiter: Limiter
    expects_proxy: bool


class _Shell:
    """An application as Flask-Limiter sees it: its hooks are for our endpoints alone.

    At every other request they would look for limits that are not there, for 0.15 ms.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.config, self.extensions = app.config, app.extensions

    def before_request(self, hook: Callable[[], None]) -> None:
        """Leave it out: it is for limits of whole applications, and the views of ours are wrapped."""

    def after_request(self, hook: Callable[[Response], Response]) -> None:
        self._app.after_request(lambda response: hook(response) if request.endpoint in LIMITED else response)

    def teardown_request(self, hook: Callable[[BaseException | None], None]) -> None:
        self._app.teardown_request(lambda error: hook(error) if request.endpoint in LIMITED else None)


def install(app: Flask) -> None:
    """Limit the routes of an application that has them already.

    Reads SYNCKIT_LOGIN_LIMIT, SYNCKIT_PROXIES and the broker's keys; raises ConfigurationError naming what is wrong.
    """
    if proxies := _proxies(app.config):
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    limit = str(app.config.get("SYNCKIT_LOGIN_LIMIT") or DEFAULT_LIMIT).strip()
    if limit.lower() == OFF:
        return
    _Shell(app).after_request(_tell)  # runs after Flask-Limiter's own, which counts: the last that is added is first
    limiter = _make_limiter(app)
    for rule in RULES:
        _apply(app, limiter, rule, _times(limit, rule.wider))
    app.extensions[EXTENSION_NAME] = _Installed(limiter, expects_proxy=proxies > 0)


def check_rate_limit() -> None:
    """Look once more, when a password is about to be checked; raises TooManyAttempts."""
    installed: _Installed | None = current_app.extensions.get(EXTENSION_NAME)
    if installed is not None:
        limiter = installed.limiter
        if not all(limiter.limiter.test(found.limit, *found.request_args) for found in limiter.current_limits):
            raise TooManyAttempts


def _make_limiter(app: Flask) -> Limiter:
    url = app.config.get("SYNCKIT_BROKER_URL") or MEMORY
    options = {"redis_url": None if url.startswith(MEMORY) else url, "namespace": broker_namespace(app.config)}
    limiter = Limiter(
        address,
        storage_uri=f"{counters.SCHEME}://",
        storage_options=options,  # type: ignore[arg-type]
        strategy="fixed-window",
        on_breach=_refuse,
    )
    limiter.init_app(_Shell(app))  # type: ignore[arg-type]
    return limiter


def _apply(app: Flask, limiter: Limiter, rule: Rule, limit: str) -> None:
    view: Any = app.view_functions[rule.endpoint]
    for key in rule.keys:
        limited = limiter.shared_limit(
            limit, rule.scope, key_func=key, deduct_when=lambda response: response.status_code in rule.failures
        )
        view = limited(view)
    app.view_functions[rule.endpoint] = view


def _refuse(limit: RequestLimit) -> None:
    raise TooManyAttempts


def _tell(response: Response) -> Response:
    """Say in the headers how many failures are left, of the limit that is nearest to its end."""
    installed: _Installed = current_app.extensions[EXTENSION_NAME]
    if not (limits := installed.limiter.current_limits):
        return response
    nearest = min(limits, key=lambda limit: (limit.remaining, -limit.reset_at))
    response.headers["X-RateLimit-Limit"] = str(nearest.limit.amount)
    response.headers["X-RateLimit-Remaining"] = str(max(0, nearest.remaining))
    response.headers["X-RateLimit-Reset"] = str(nearest.reset_at)
    if response.status_code == TooManyAttempts.status:
        response.headers["Retry-After"] = str(max(1, nearest.reset_at - int(time.time())))
    return response


def _account(email: str) -> str:
    """Return a key that is short, and no address; a list of addresses can still be compared with it."""
    return f"account {hashlib.sha256(accounts.normalise(email).encode()).hexdigest()}"


def _body() -> bytes:
    request.max_content_length = request_limits.MAX_SMALL_BODY_BYTES
    return request.get_data()


def _times(limit: str, factor: int) -> str:
    try:
        found = parse_many(limit)
    except ValueError as error:
        raise ConfigurationError(
            f"SYNCKIT_LOGIN_LIMIT: {limit!r} is no limit: write how many may fail in what time, like "
            f"{DEFAULT_LIMIT}, or {OFF}"
        ) from error
    return "; ".join(f"{item.amount * factor} per {item.multiples} {item.GRANULARITY.name}" for item in found)


def _proxies(config: Mapping[str, Any]) -> int:
    value = str(config.get("SYNCKIT_PROXIES") or "0")
    if not (value.isascii() and value.isdecimal()):
        raise ConfigurationError(f"SYNCKIT_PROXIES: {value!r} is not a number of proxies")
    return int(value)


def _warn_of_proxy() -> None:
    """Say once that all clients look like one: it is a proxy that names them, or somebody who lies."""
    installed: _Installed = current_app.extensions[EXTENSION_NAME]
    if not installed.expects_proxy and "X-Forwarded-For" in request.headers:
        installed.expects_proxy = True
        log.warning(
            "a request has X-Forwarded-For: behind a proxy all clients count as one address, until SYNCKIT_PROXIES "
            "says how many proxies there are"
        )
