"""`FakeServer`: the transport that answers the requests of clients in the same process, with faults on demand.

    request ──▶ fault? ──▶ route ──▶ sessions.py, account.py ──▶ answer ──▶ fault? ──▶ client
                                              └── push: streams.py tells the user's other devices

One lock is held while a request is answered, and never during a wait.
"""

import copy
import json
import threading
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any, TypedDict
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2

from ..client import SyncKitClient
from . import faults, streams
from .account import Account, Answer
from .clock import FakeClock
from .fields import Fields, Refused
from .routes import DEVICES, SUBSCRIBE, allowed_methods, method_of
from .sessions import Session, Sessions

URL = "http://fake-server"
API_KEY, EMAIL, PASSWORD = "fake-api-key", "user@example.org", "password"

MAX_BODY_BYTES = {"/api/sync/push": 8 * 2**20, "/api/sync/pull": 256 * 1024}
MAX_SMALL_BODY_BYTES = 16 * 1024


class ClientArguments(TypedDict):
    """The arguments of a client of a FakeServer."""

    server_url: str
    api_key: str
    http: httpx2.Client
    clock: Callable[[], float]
    wait: Callable[[float], object]


class FakeServer(httpx2.BaseTransport):
    """A server in memory with one app and one user, EMAIL with PASSWORD. Thread-safe.

    `clock` gives all its times. Clients use it too, and their waits for a retry advance it instead of taking time.
    """

    def __init__(self, *, clock: FakeClock | None = None) -> None:
        self.clock = FakeClock() if clock is None else clock
        self.online = True
        """Whether requests arrive; see `go_offline`."""
        self._lock = threading.RLock()
        self._planned: list[faults.Planned] = []
        self._sessions = Sessions()
        self._sessions.apps[API_KEY] = str(uuid.uuid4())
        self._accounts: dict[tuple[str, str], Account] = {}
        self._streams: list[streams.EventStream] = []
        self._epoch = str(uuid.uuid4())
        self.add_user(EMAIL, PASSWORD)

    # For the app under test

    @property
    def arguments(self) -> ClientArguments:
        """The arguments for SyncKitClient or AsyncSyncKitClient: `SyncKitClient(**server.arguments, state=...)`."""
        http = httpx2.Client(transport=self)
        return ClientArguments(server_url=URL, api_key=API_KEY, http=http, clock=self.clock.time, wait=self.clock.wait)

    def client(
        self, device: str = "Laptop", *, email: str = EMAIL, password: str = PASSWORD, **options: Any
    ) -> SyncKitClient:
        """Return a client that is logged in and registered; `options` are arguments of SyncKitClient."""
        arguments: dict[str, Any] = {**self.arguments, **options}
        client = SyncKitClient(**arguments)
        client.authenticate(email, password)
        client.register_device(device, "linux")
        return client

    def browser(self, url: str, email: str = EMAIL) -> None:
        """Log in on the server's page as a user does: `client.login(open_browser=server.browser)`."""
        asked = dict(parse_qsl(urlsplit(url).query))
        with self._lock:
            code = self._sessions.authorize(asked["client_id"], asked["code_challenge"], email)
        target = f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        threading.Thread(target=lambda: opener.open(target, timeout=10).close(), daemon=True).start()

    def add_user(self, email: str, password: str) -> None:
        """Add an account, or replace its password."""
        with self._lock:
            user, _ = self._sessions.users.get(email.casefold(), (str(uuid.uuid4()), ""))
            self._sessions.users[email.casefold()] = user, password

    # Faults

    def next(self, fault: faults.Fault, *, path: str | None = None, times: int = 1) -> None:
        """Let this happen to the next requests to a path such as "/api/sync/push", or to any path."""
        with self._lock:
            self._planned.append(faults.Planned(fault, path, times))

    def go_offline(self) -> None:
        """Break all streams, and let no request arrive."""
        with self._lock:
            self.online = False
            for stream in self._streams:
                stream.break_off()

    def go_online(self) -> None:
        """Let requests arrive again."""
        self.online = True

    def end_streams(self, reason: str = "max_age") -> None:
        """End all streams with `: bye <reason>`."""
        with self._lock:
            for stream in self._streams:
                stream.end(reason)

    def keepalive(self) -> None:
        """Send a keepalive on all streams now; they send one after 30 s without anything else."""
        with self._lock:
            for stream in self._streams:
                stream.keepalive()

    def expire_tokens(self) -> None:
        """Let all access tokens expire now, and end their streams; clients renew them by themselves."""
        with self._lock:
            self._sessions.expire_tokens()
            self.end_streams("token_expired")

    def back_up(self) -> object:
        """Return a copy of all devices, envelopes and logs, for `restore`."""
        with self._lock:
            return copy.deepcopy(self._accounts)

    def restore(self, backup: object) -> None:
        """Restore a backup as an operator does: the log gets a new epoch, and all streams end."""
        if not isinstance(backup, dict):
            raise TypeError("backup must be what back_up() returned")
        with self._lock:
            self._epoch = str(uuid.uuid4())
            self._accounts = copy.deepcopy(backup)
            for account in self._accounts.values():
                account.restored(self._epoch)
            self.end_streams("draining")

    def compact(self, keep_days: float = 180) -> None:
        """Compact all logs as `flask synckit compact` does: by `clock`, a device away for so long is retired."""
        with self._lock:
            before = self.clock.microseconds() - round(keep_days * 24 * 3600 * 1_000_000)
            for account in self._accounts.values():
                account.compact(before)

    # The transport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request; httpx2 calls this."""
        connection = streams.Connection()
        trace = request.extensions.get("trace")
        if trace is not None:
            trace("connection.connect_tcp.complete", {"return_value": connection})
        content = request.read()
        with self._lock:
            if not self.online:
                raise httpx2.ConnectError("the fake server is offline")
            fault = faults.take(self._planned, request.url.path)
        if isinstance(fault, faults.Delay):
            connection.wait(fault.seconds)
        if isinstance(fault, faults.Refuse):
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return _answer(fault.status, {"error": fault.message}, headers, connection)
        with self._lock:
            response = self._respond(request, content, connection)
        if request.method == "HEAD":
            response = httpx2.Response(response.status_code, headers=response.headers, extensions=response.extensions)
        if isinstance(fault, faults.LoseAnswer | faults.DropConnection) and isinstance(
            response.stream, streams.EventStream
        ):
            response.stream.break_off()
        elif isinstance(fault, faults.LoseAnswer):
            raise httpx2.ReadError("the answer was lost")
        elif isinstance(fault, faults.DropConnection):
            return httpx2.Response(
                response.status_code, headers=response.headers, stream=faults.BrokenBody(response.content)
            )
        return response

    def _respond(self, request: httpx2.Request, content: bytes, connection: streams.Connection) -> httpx2.Response:
        path = request.url.path
        try:
            method = method_of(request.method, path)
            if method == "OPTIONS":
                return _answer(200, None, {"Allow": ", ".join(allowed_methods(path))}, connection)
            if path == SUBSCRIBE:
                return self._subscribe(request, connection)
            answer = self._route(request, method, path, content)
        except Refused as refused:
            error: Answer = {"error": str(refused)}
            if path == "/oauth/token" and refused.status != 405:
                error = {"error": refused.code or "invalid_request", "error_description": str(refused)}
                refused.status = 400 if refused.code is None else refused.status
            return _answer(refused.status, error, refused.headers, connection)
        return _answer(204 if answer is None else 200, answer, {}, connection)

    def _route(self, request: httpx2.Request, method: str, path: str, content: bytes) -> Answer | None:
        """Return the answer to a request, None for one without a body."""
        now = self.clock.microseconds()
        match method, path:
            case "POST", "/api/sync/auth":
                return self._sessions.log_in(Fields.of_json(content), self.clock.time())
            case "POST", "/oauth/token":
                return self._sessions.grant(Fields.of_form(content), self.clock.time())
            case "GET", "/api/sync/live":
                return {"live": True}
        session = self._sessions.of_token(request.headers.get("Authorization", ""), self.clock.time())
        if len(content) > MAX_BODY_BYTES.get(path, MAX_SMALL_BODY_BYTES):
            raise Refused(413, "The data value transmitted exceeds the capacity limit.")
        account = self._account(session)
        match method, path:
            case "POST", "/api/sync/password":
                answer = self._sessions.change_password(session, Fields.of_json(content), self.clock.time())
                self._end_revoked_streams()
                return answer
            case "POST", "/api/sync/logout":
                self._sessions.end(session)
                self._end_revoked_streams()
                return None
            case "POST", "/api/sync/devices":
                registered = account.register(Fields.of_json(content), now)
                session.device = registered["id"]
                return registered
            case "GET", "/api/sync/devices":
                return account.list_devices(Fields.of_query(request.url.query))
            case "POST", "/api/sync/push":
                device, pushed = account.push(Fields.of_json(content), now)
                self._announce(session, device)
                return pushed
            case "POST", "/api/sync/pull":
                return account.pull(Fields.of_json(content), now)
            case "GET", "/api/sync/status":
                return account.status()
            case "PUT", "/api/sync/keys":
                return account.put_envelope(Fields.of_json(content))
            case "GET", "/api/sync/keys":
                return account.get_envelope()
            case "GET", "/oauth/userinfo":
                return _user(session)
            case "DELETE", _:
                self._delete_device(account, path.removeprefix(f"{DEVICES}/"))
                return None
        raise AssertionError(f"{method} {path} is in METHODS and has no answer")

    def _subscribe(self, request: httpx2.Request, connection: streams.Connection) -> httpx2.Response:
        session = self._sessions.of_token(request.headers.get("Authorization", ""), self.clock.time())
        app_id, device = _identifier(request, "app_id"), _identifier(request, "device_id")
        if app_id is None:
            raise Refused(400, "the query parameter app_id is required")
        if app_id != session.app:
            raise Refused(403, "the token is for another app")
        if request.method == "HEAD":
            return httpx2.Response(200, headers=streams.HEADERS, extensions={"network_stream": connection})
        stream = streams.EventStream((session.app, session.user), session.id, device)
        connection.when_down(stream.break_off)
        self._streams = [each for each in self._streams if not each.is_over] + [stream]
        return httpx2.Response(200, headers=streams.HEADERS, stream=stream, extensions={"network_stream": connection})

    def _account(self, session: Session) -> Account:
        return self._accounts.setdefault((session.app, session.user), Account(self._epoch))

    def _announce(self, session: Session, device: str) -> None:
        for stream in self._streams:
            if stream.user == (session.app, session.user) and stream.device != device:
                stream.changed()

    def _delete_device(self, account: Account, device: str) -> None:
        account.delete_device(device)
        for session in self._sessions.of_device(device):
            self._sessions.end(session)
        for stream in self._streams:
            if stream.device == device:
                stream.end("revoked")
        self._end_revoked_streams()

    def _end_revoked_streams(self) -> None:
        for stream in self._streams:
            if not self._sessions.lives(stream.session):
                stream.end("revoked")


def _answer(
    status: int, body: Answer | None, headers: dict[str, str], connection: streams.Connection
) -> httpx2.Response:
    content = b"" if body is None else json.dumps(body).encode()
    own = {"Content-Type": "application/json"} if content else {}
    return httpx2.Response(
        status,
        headers=own | {"Cache-Control": "no-store"} | headers,
        content=content,
        extensions={"network_stream": connection},
    )


def _identifier(request: httpx2.Request, name: str) -> str | None:
    """Return a query parameter that is an id; None if it is absent."""
    values = request.url.params.get_list(name)
    if len(values) > 1:
        raise Refused(400, f"the query parameter {name} must be given once")
    if values and (not values[0].strip() or len(values[0]) > 128 or not values[0].isprintable()):
        raise Refused(400, f"the query parameter {name} must be 1 to 128 printable characters")
    return values[0] if values else None


def _user(session: Session) -> Answer:
    names = dict.fromkeys(("username", "display_name", "email"), session.email)
    return {"sub": session.user, "user_id": session.user, "app_id": session.app, "avatar_url": None} | names
