"""What the requests and the answers under `/oauth` hold; see `../payloads.py`."""

from typing import TypedDict

from .. import accounts
from ..passwords import MAX_PASSWORD_CHARACTERS
from ..payloads import MAX_ID_CHARACTERS
from ..request_fields import Body, Choice, Field, Text, optional
from .clients import MAX_ADDRESS_CHARACTERS

ACTIONS = ("log_in", "allow", "decline", "switch")


class Grant(Body):
    """The grant type and the app's API key."""

    grant_type: Field[str] = Text(longest=MAX_ID_CHARACTERS)
    client_id = Text("The app's API key.", longest=MAX_ID_CHARACTERS)


class RefreshGrant(Grant):
    """A refresh token, which is replaced by the one in the answer."""

    grant_type = Choice(("refresh_token",))
    refresh_token = Text(longest=MAX_ID_CHARACTERS)


class CodeGrant(Grant):
    """An authorization code, with the proof of RFC 7636."""

    grant_type = Choice(("authorization_code",))
    code = Text(longest=MAX_ADDRESS_CHARACTERS)
    redirect_uri = Text(longest=MAX_ADDRESS_CHARACTERS)
    code_verifier = Text(longest=MAX_ADDRESS_CHARACTERS)
    device_id = optional(Text("Deleting this device ends the session.", longest=MAX_ID_CHARACTERS))


class Tokens(TypedDict):
    """A session, as RFC 6749, section 5.1 says."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    user_id: str
    app_id: str


class UserInfo(TypedDict):
    """The user of a token."""

    sub: str
    user_id: str
    app_id: str
    username: str
    display_name: str
    email: str
    avatar_url: str | None


def _parameter(about: str) -> Field[str | None]:
    return optional(Text(about, longest=MAX_ADDRESS_CHARACTERS, shortest=0))


class AuthorizationQuery(Body):
    """The request of an app, as RFC 6749, section 4.1.1 and RFC 7636, section 4.3 say.

    No parameter is required here, and one without a value counts as absent: the app is redirected to with the error.
    """

    response_type = _parameter("Must be code.")
    client_id = _parameter("The app's API key.")
    redirect_uri = _parameter("A loopback address, or one that is registered for the app.")
    state = _parameter("Comes back with the code.")
    scope = _parameter("Must be absent.")
    code_challenge = _parameter("The SHA-256 of the verifier in base64url.")
    code_challenge_method = _parameter("Must be S256.")


class PageForm(Body):
    """What every form of the page holds: the page's secret, and which button was pressed."""

    secret = Text(longest=100)
    action = Choice(ACTIONS)


class LogInForm(Body):
    """What the page's form to log in holds besides."""

    email = Text(longest=accounts.MAX_EMAIL_CHARACTERS)
    password = Text(longest=MAX_PASSWORD_CHARACTERS)
