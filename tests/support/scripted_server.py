"""A server that follows a script, and a clock that only advances when something waits: no network, no real time.

A script is a list of steps for each path; a request without a step left raises ScriptOver:

    server = Script({PUSH: [LoseAnswer(), Answer({"cursor": 1})], TOKEN: [Answer(tokens("second"))]})

`server.asked` records the path, the body and the bearer token of each request.
"""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx2

from synckit_notify.client.models import Account
from synckit_notify.client.session import Session
from synckit_notify.client.state import State, Tokens

from .fake_transport import ScriptOver

AUTH, DEVICES, STATUS = "/api/sync/auth", "/api/sync/devices", "/api/sync/status"
PUSH, PULL, KEYS, TOKEN = "/api/sync/push", "/api/sync/pull", "/api/sync/keys", "/oauth/token"
SUBSCRIBE = "/api/sync/subscribe"

API_KEY, PASSWORD = "the-api-key", "correct horse"
LIFE = 3600.0


@dataclass
class Answer:
    """The server succeeds."""

    content: object = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refuse(Answer):
    """The server refuses."""

    def __init__(self, status: int, words: str = "no", **headers: str) -> None:
        super().__init__({"error": words}, status, {name.replace("_", "-"): value for name, value in headers.items()})


class RefuseToken(Refuse):
    """The access token is refused."""

    def __init__(self) -> None:
        super().__init__(401, "the token has expired")


class RefuseGrant(Refuse):
    """The refresh token is refused."""

    def __init__(self) -> None:
        super().__init__(400, "invalid_grant")


class Busy(Refuse):
    """Too many requests."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(429, "slow down", retry_after=str(retry_after))


class LoseRequest:
    """The request does not arrive."""


class LoseAnswer:
    """The request arrives, but its answer does not."""


class AnswerWithPage:
    """A log-in page or a captive portal answers with HTML."""

    def __init__(self, status: int) -> None:
        self.status = status


class FakeClock:
    """The time of day, and a record of all waits that advanced it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.waits: list[float] = []

    def time(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(round(seconds, 6))
        self.now += seconds


@dataclass
class Asked:
    """One request."""

    path: str
    body: Any
    token: str | None


class Script(httpx2.BaseTransport):
    """The scripted server, as an httpx2 transport."""

    def __init__(self, steps: dict[str, list[Any]]) -> None:
        self.steps = steps
        self.asked: list[Asked] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path, bearer = request.url.path, request.headers.get("authorization")
        self.asked.append(Asked(path, _body(request), bearer and bearer.removeprefix("Bearer ")))
        if not self.steps.get(path):
            raise ScriptOver(f"no further {path} is scripted")
        step = self.steps[path].pop(0)
        match step() if callable(step) else step:
            case LoseRequest():
                raise httpx2.ConnectError("[Errno 111] Connection refused")
            case LoseAnswer():
                raise httpx2.ReadTimeout("timed out")
            case Answer(content, status, headers):
                return httpx2.Response(status, content=json.dumps(content), headers=headers)
            case AnswerWithPage(status=status):
                return httpx2.Response(status, html="<h1>Please log in to the hotel's network</h1>")
            case other:
                raise ScriptOver(f"{other!r} is no step")

    def paths(self) -> list[str]:
        """Return the paths of all requests, in order."""
        return [asked.path for asked in self.asked]

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies sent to this path, in order."""
        return [asked.body for asked in self.asked if asked.path == path]

    def over(self) -> bool:
        """Return whether the whole script was used."""
        return not any(self.steps.values())


def _body(request: httpx2.Request) -> Any:
    content = request.read()
    if content.startswith(b"{"):
        return json.loads(content)
    return dict(parse_qsl(content.decode())) if content else dict(request.url.params)


def tokens(name: str, life: float | None = LIFE, **more: object) -> dict[str, object]:
    """Return an answer of the token endpoint."""
    return {
        "access_token": f"access-{name}",
        "token_type": "Bearer",
        "expires_in": life,
        "refresh_token": f"refresh-{name}",
        **more,
    }


def logged_in(state: State, clock: FakeClock, name: str = "first") -> None:
    """Store tokens in a state, as a log-in does."""
    state.bind("http://server", API_KEY)
    state.log_in(Account("alice", "notes"), Tokens(f"access-{name}", f"refresh-{name}", LIFE, clock.time()))


def session_with(server: Script, state: State, clock: FakeClock, draw: float = 0.0) -> Session:
    """Return a session that uses the scripted server."""
    http = httpx2.Client(transport=server)
    return Session("http://server", API_KEY, state, http=http, clock=clock.time, wait=clock.wait, random=lambda: draw)
