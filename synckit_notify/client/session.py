"""A session with one server: requests with a token that is renewed in time, and the rules for retries.

    call ──▶ token, renewed in time ──▶ request ──▶ 401: renew, repeat once ──▶ temporary error: wait, retry ──▶ answer

In: the server's URL, an app's API key and a State. Out: JSON objects, and one connection per subscription. Thread-safe.
Tokens, keys and passwords leave this file only in requests, never in a log, a repr or an error message.
"""

import logging
import random as chance
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlencode

import httpx2

from .cancellable import Signal, holding
from .connection import HttpClient
from .errors import NetworkError, NotAuthenticated, ProtocolError, ServerError
from .models import Account
from .responses import HttpResponse, parse_json
from .schedule import RetryPolicy, pause, retry_after
from .serialization import member, read_tokens
from .state import State, Tokens
from .stream import EventConnection, SyncNotifyStream

EARLY_SECONDS = 30.0
"""A token is renewed this long before it expires, so that it does not expire on the way to the server."""

RETRIES = 3
POLICY = RetryPolicy(base=0.5, cap=8.0)

RETRY_SECONDS = 60.0
"""No retry starts later than this: a server that answers very slowly must not delay a call four times."""

LEASE_SECONDS = 60.0
"""How long a process may hold the right to renew the token: longer than a renewal takes.

If the process dies during the renewal, the others wait this long.
"""

LEASE_POLL_SECONDS = 0.1
log = logging.getLogger("synckit_notify.client")


class Session:
    """The session of one installation; implements StreamSession.

    `http` is used as it is, and not closed; it must not use HTTP/2, where a stream has no socket of its own. `clock`
    returns the time of day in seconds. Raises ValueError if `server_url` is not an http or https URL, and StateError
    if the state belongs to another server.
    """

    def __init__(
        self,
        server_url: str,
        api_key: str,
        state: State,
        *,
        moved_from: str | None = None,
        http: httpx2.Client | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._http = HttpClient(server_url, http)
        self._api_key = api_key
        self._state = state
        state.bind(self._http.url, api_key, moved_from)
        self._closed = Signal()
        self._clock, self._random = clock, random
        self._wait = wait or self._closed.wait
        self._name = str(uuid.uuid4())
        self._renewing = threading.Lock()
        self._subscribed_with: Tokens | None = None
        self._streams: weakref.WeakSet[SyncNotifyStream] = weakref.WeakSet()
        self._streams_lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's URL, without a slash at its end."""
        return self._http.url

    def authenticate(self, email: str, password: str) -> Account:
        """Log in, in one attempt; raises NotAuthenticated for wrong credentials, StateError for another account."""
        credentials = {"email": email, "password": password, "api_key": self._api_key} | self._device()
        response = self._http.send("POST", "/api/sync/auth", body=credentials)
        if response.status == 401:
            raise NotAuthenticated(response.message((password, self._api_key)))
        return self._enter(self._answer(response, password), "token")

    def authorize_url(self, **parameters: str) -> str:
        """Return the URL of the server's page for a log-in in the browser."""
        query = {"response_type": "code", "client_id": self._api_key, "code_challenge_method": "S256"} | parameters
        return f"{self._http.url}/oauth/authorize?{urlencode(query)}"

    def exchange(self, **proof: str) -> Account:
        """Exchange an authorization code for tokens, in one attempt; raises what `authenticate` raises."""
        form = {"grant_type": "authorization_code", "client_id": self._api_key} | proof | self._device()
        response = self._http.send("POST", "/oauth/token", form=form)
        if response.status in (400, 401):
            raise NotAuthenticated(response.message((*proof.values(), self._api_key)))
        return self._enter(self._answer(response, *proof.values()), "access_token")

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, idempotent: bool
    ) -> dict[str, Any]:
        """Send a request with the token and return the JSON object of the answer.

        A request that is `idempotent` is sent up to three times more after a temporary error. Raises NetworkError,
        ServerError, ProtocolError and NotAuthenticated.
        """
        policy, retries = POLICY, RETRIES if idempotent else 0
        began = time.monotonic()
        while True:
            try:
                answer = self._answer(self._authorized(method, path, body))
            except (NetworkError, ServerError) as error:
                asked = pause(error)
                if retries == 0 or asked is None or self._closed.is_set():
                    raise
                if time.monotonic() - began >= RETRY_SECONDS:
                    raise
                delay, policy = policy.apply(self._random(), at_least=asked)
                retries -= 1
                log.info("%s; next attempt in %.1f s", error, delay)
            else:
                for stream in self._watching():
                    stream.request_succeeded()
                return answer
            self._wait(delay)

    def change_password(self, old: str, new: str) -> None:
        """Change the password, in one attempt, and use the tokens of the answer; the former ones are revoked.

        No token is renewed meanwhile: the server ends the streams before it answers, and their session is over.
        """
        body = {"old_password": old, "new_password": new}
        tokens = self._fresh()
        for is_last in False, True:
            with self._alone():
                response = self._http.send("POST", "/api/sync/password", body=body, token=self._present().access)
                if response.status != 401 or is_last:
                    self._enter(self._answer(response, old, new), "token")
                    return
            self._renew(tokens)

    def log_out(self) -> bool:
        """End the session on the server, in one attempt, and forget the tokens; return whether it ended there.

        The streams then raise NotAuthenticated.
        """
        try:
            self.call("POST", "/api/sync/logout", idempotent=False)
        except NotAuthenticated:
            pass  # it is over already
        except (NetworkError, ProtocolError, ServerError) as error:
            log.warning("the session could not be ended on the server: %s", error)
            return False
        finally:
            self._state.log_out()
            for stream in self._watching():
                stream.retry_now()
        return True

    def refresh(self) -> None:
        """Replace the token of the last subscription, or the current one, in one attempt.

        Raises NotAuthenticated if the server refuses, NetworkError or ServerError to try later.
        """
        present = self._present()
        self._renew(self._subscribed_with or present)

    def connect(self) -> EventConnection:
        """Subscribe, in one attempt; raises NetworkError, ServerError, ProtocolError and NotAuthenticated."""
        account = self.account()
        tokens = self._subscribed_with = self._fresh()
        return self._http.subscribe({"app_id": account.app_id} | self._device(), tokens.access, self._secrets())

    def position(self) -> tuple[str, int]:
        """Return the server's epoch and cursor, in one attempt; raises what `call` raises."""
        answer = self.call("GET", "/api/sync/status", idempotent=False)
        return member(answer, "epoch", str), member(answer, "cursor", int)

    def watch(self, stream: SyncNotifyStream) -> None:
        """Tell this stream about each successful request; it is referenced weakly."""
        with self._streams_lock:
            self._streams.add(stream)

    def close(self) -> None:
        """End waits and close connections; later calls raise NetworkError."""
        self._closed.set()
        self._http.close()

    def closed(self) -> bool:
        """Return whether `close` was called."""
        return self._closed.is_set()

    def account(self) -> Account:
        """Return the account that is logged in; raises NotAuthenticated without one."""
        found = self._state.account()
        if found is None:
            raise NotAuthenticated("log in first")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watching(self) -> list[SyncNotifyStream]:
        with self._streams_lock:
            return list(self._streams)

    def _enter(self, answer: Mapping[str, Any], name: str) -> Account:
        account = Account(member(answer, "user_id", str), member(answer, "app_id", str))
        self._state.log_in(account, read_tokens(answer, name, self._clock()))
        return account

    def _device(self) -> dict[str, str]:
        """Return the request field that names the device; empty before it is registered."""
        device = self._state.device()
        return {} if device is None else {"device_id": device.id}

    def _authorized(self, method: str, path: str, body: Mapping[str, Any] | None) -> HttpResponse:
        tokens = self._fresh()
        response = self._http.send(method, path, body=body, token=tokens.access)
        if response.status != 401:
            return response
        self._renew(tokens)
        response = self._http.send(method, path, body=body, token=self._present().access)
        if response.status == 401:
            raise NotAuthenticated("the server refuses a token that was renewed a moment ago")
        return response

    def _fresh(self) -> Tokens:
        """Return the tokens, renewed if they expire soon; if the renewal fails, the current ones while valid."""
        tokens = self._present()
        left = self._left(tokens)
        if left > EARLY_SECONDS or tokens.refresh is None:
            return tokens
        try:
            self._renew(tokens)
        except ServerError as error:
            log.warning("the token could not be renewed: %s", error)
        except (NetworkError, ProtocolError):
            if left <= 0:
                raise
        return self._present()

    def _renew(self, stale: Tokens) -> None:
        """Replace these tokens unless that has already happened; one renewal at a time among all threads and processes.

        All fields are compared, because two access tokens of the same second are equal.
        """
        if self._present() == stale:
            with self._alone():
                if self._present() == stale:  # again: another one may have renewed them meanwhile
                    self._use_refresh_token(stale.refresh)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep all other threads and processes from renewing the tokens."""
        with holding(self._renewing):
            while not self._state.take_lease(self._name, self._clock(), LEASE_SECONDS):
                self._wait(LEASE_POLL_SECONDS)
                if self._closed.is_set():
                    raise NetworkError("the client is closed")
            try:
                yield
            finally:
                self._state.release_lease(self._name)

    def _use_refresh_token(self, refresh_token: str | None) -> None:
        if refresh_token is None:
            raise NotAuthenticated("the token is no longer valid: log in again")
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": self._api_key}
        response = self._http.send("POST", "/oauth/token", form=form)
        secrets, answer = self._secrets(), parse_json(response.content)
        code = answer.get("error") if isinstance(answer, dict) and response.status in (400, 401) else None
        if code == "invalid_grant":
            self._state.replace_tokens(refresh_token, None)
        if code in ("invalid_grant", "invalid_client", "unauthorized_client"):
            raise NotAuthenticated(f"log in again: {response.message(secrets)}")
        renewed = read_tokens(self._answer(response), "access_token", self._clock(), refresh_token)
        self._state.replace_tokens(refresh_token, renewed)

    def _left(self, tokens: Tokens) -> float:
        """Return how many seconds a token is still valid; 0 if the clock was set back, since then nobody knows."""
        if tokens.life is None:
            return float("inf")
        age = self._clock() - tokens.received_at
        return tokens.life - age if age >= 0 else 0.0

    def _present(self) -> Tokens:
        tokens = self._state.tokens()
        if tokens is None:
            raise NotAuthenticated("log in first")
        return tokens

    def _secrets(self) -> tuple[str, ...]:
        tokens = self._state.tokens()
        return (self._api_key, *(() if tokens is None else (tokens.access, tokens.refresh or "")))

    def _answer(self, response: HttpResponse, *secrets: str) -> dict[str, Any]:
        """Return the JSON object of a successful answer, empty without a body; raises ServerError, ProtocolError."""
        if not response.is_success:
            message = response.message((*secrets, *self._secrets()))
            raise ServerError(
                message,
                status=response.status,
                retry_after=retry_after(response.headers, self._clock()),
                has_json_error=response.has_json_error,
            )
        answer = parse_json(response.content) if response.content else {}
        if not isinstance(answer, dict):
            raise ProtocolError("the answer is not a JSON object: check that this is the address of a SyncKit server")
        return answer
