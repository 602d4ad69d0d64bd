"""The authorization code grant of RFC 6749 with PKCE (RFC 7636), built on Authlib.

    validate_request ──▶ the user decides ──▶ authorize: a redirect with a code ──▶ exchange_code: a Session

Authlib parses and validates the parameters. The classes below connect it to the database and restrict it: public
clients only, S256 only, `state` required. Errors are OAuth2Error. An error has a `redirect_uri` if a redirect may send
it to the app, and none if the address of the app is not verified. This module does not use Flask.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    AuthorizationServer,
    ClientMixin,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from sqlalchemy import Row

from ..database.store import Store
from ..sessions import Session
from . import clients, codes
from .clients import Client
from .codes import Replayed
from .payloads import AuthorizationQuery, CodeGrant

__all__ = ["AuthorizationRequest", "OAuth2Error", "authorize", "exchange_code", "validate_request"]

CHALLENGE = re.compile(r"[\w-]{43}", re.ASCII)

logging.getLogger("authlib").setLevel(logging.INFO)  # at DEBUG it logs API keys


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A valid request for authorization, to be shown to the user."""

    app_name: str
    redirect_uri: str


def validate_request(store: Store, query: AuthorizationQuery) -> AuthorizationRequest:
    """Validate the parameters of an app; raise OAuth2Error."""
    grant = _Server(store).get_consent_grant(_given(query))
    return AuthorizationRequest(grant.client.client.name, grant.redirect_uri)


def authorize(store: Store, query: AuthorizationQuery, user: Row[Any] | None) -> str:
    """Return the address to redirect a user to who allowed the request; `user` is None if they declined.

    Raises the errors of `validate_request`, OAuth2Error if the user declined, and WrongCredentials if the user's
    sessions ended after `user` was read.
    """
    server = _Server(store)
    grant = server.get_consent_grant(_given(query))
    location: str = server.create_authorization_response(grant.request, user, grant)
    return location


def exchange_code(store: Store, app: str, body: CodeGrant) -> Session | Replayed:
    """Exchange an app's code for a session; raise OAuth2Error."""
    code, device = body.code, body.device_id
    request = _Request(_given(body))
    if store.read(lambda connection: codes.was_redeemed(connection, app, code)):
        return store.write(lambda connection: codes.end_replayed(connection, app, code))
    _Server(store).get_token_grant(request).validate_token_request()
    return store.write(lambda connection: codes.redeem(connection, request.authorization_code.row, device))


class _Client(ClientMixin):
    """An app, in the form that Authlib expects."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return self.client.accepts_redirect(redirect_uri)

    def get_allowed_scope(self, scope: str) -> str | None:
        return ""

    def check_response_type(self, response_type: str) -> bool:
        return True  # checked by _PKCE

    def check_grant_type(self, grant_type: str) -> bool:
        return True

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"


class _Code(AuthorizationCodeMixin):
    """A stored code, in the form that Authlib expects."""

    code_challenge_method = "S256"

    def __init__(self, row: Row[Any]) -> None:
        self.row = row
        self.code_challenge = row.challenge

    def get_redirect_uri(self) -> str:
        return str(self.row.redirect_uri)


class _Request(OAuth2Request):
    """The parameters of a request, from a query string or a body."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        # Authlib requires an https URL; it cannot know that a proxy in front provides TLS.
        super().__init__("POST", "https://localhost/oauth")
        self.payload = BasicOAuth2Payload(parameters)
        self._parameters = parameters

    @property
    def form(self) -> Mapping[str, str]:
        return self._parameters


class _Server(AuthorizationServer):
    """The Authlib server with our tables and one grant; made for each request."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.register_grant(_CodeGrant, [_PKCE()])

    def query_client(self, client_id: str) -> _Client | None:
        client = self.store.read(lambda connection: clients.find(connection, client_id))
        return None if client is None else _Client(client)

    def create_oauth2_request(self, request: Mapping[str, str]) -> OAuth2Request:
        return _Request(request)

    def validate_requested_scope(self, scope: str | None) -> None:
        """Refuse any scope: there are none, and granting less than requested would have to be reported."""
        if scope:
            raise InvalidScopeError()

    def handle_response(self, status: int, body: object, headers: list[tuple[str, str]]) -> str:
        return dict(headers)["Location"]

    def handle_error_response(self, request: OAuth2Request, error: OAuth2Error) -> None:
        raise error

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Do nothing: no signal is used."""


class _CodeGrant(AuthorizationCodeGrant):
    """The parts that Authlib leaves to the application: checking redirect addresses and storing codes."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    @classmethod
    def check_authorization_endpoint(cls, request: OAuth2Request) -> bool:
        return True  # for any response type: checked by _PKCE

    @staticmethod
    def validate_authorization_redirect_uri(request: OAuth2Request, client: _Client) -> str:
        uri: str = request.payload.redirect_uri or ""
        if not client.check_redirect_uri(uri):  # Authlib's message would repeat the address
            raise InvalidRequestError("redirect_uri: must be a loopback address or registered for this app")
        return uri

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        app, given = request.client.client.app, request.payload
        bound = {"redirect_uri": given.redirect_uri, "challenge": given.data["code_challenge"]}
        self.server.store.write(lambda connection: codes.store(connection, code, app=app, user=request.user, **bound))

    def query_authorization_code(self, code: str, client: _Client) -> _Code | None:
        row = self.server.store.read(lambda connection: codes.find(connection, client.client.app, code))
        return None if row is None else _Code(row)


class _PKCE(CodeChallenge):
    """Require S256; Authlib alone would also accept `plain` or no challenge at all."""

    def validate_code_challenge(self, grant: _CodeGrant, redirect_uri: str) -> None:
        given = grant.request.payload.data
        if "response_type" not in given:
            raise InvalidRequestError("response_type: is missing")
        if given["response_type"] != "code":
            raise OAuth2Error("response_type: must be code", error="unsupported_response_type")
        if "state" not in given:
            raise InvalidRequestError("state: is missing")
        if given.get("code_challenge_method") != "S256":
            raise InvalidRequestError("code_challenge_method: must be S256")
        if CHALLENGE.fullmatch(given.get("code_challenge", "")) is None:
            raise InvalidRequestError("code_challenge: must be 43 characters of base64url")


def _given(parameters: AuthorizationQuery | CodeGrant) -> dict[str, str]:
    return {name: text for name, text in parameters.values.items() if text is not None}
