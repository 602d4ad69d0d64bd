"""The errors of the backend. Each answers a request with its status, its headers and its sentence as JSON.

    Refused (synckit_notify.errors)
    ├── MalformedBody                400  the body is neither JSON nor a form
    ├── WrongCredentials             401
    ├── WrongPassword                403
    ├── NotLocal                     403
    ├── NotFound                     404
    ├── Conflict                     409
    │   └── MustReadAgain            409
    ├── InvalidField                 422
    ├── TooManyAttempts              429
    ├── Busy                         503
    │   └── Unwritable               503
    └── OAuthError                   400  answered as RFC 6749, section 5.2 says
        ├── InvalidGrant             400
        ├── UnsupportedGrantType     400
        ├── InvalidClient            401
        └── UserNotFound             401

The token errors InvalidToken (401) and Forbidden (403) are those of the extension.
"""

import random

from ..errors import Refused


class MalformedBody(Refused):
    """The body is not a JSON object, or not a form."""

    status = 400


class WrongCredentials(Refused):
    """The API key, the e-mail or the password is wrong; the answer does not tell which."""

    status = 401
    description = "the API key, the e-mail or the password is wrong"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class WrongPassword(Refused):
    """The token is valid, but the old password in the request is wrong."""

    status = 403


class NotLocal(Refused):
    """The live page was not opened on the machine that serves it."""

    status = 403
    description = "the demo works on this machine only: open http://127.0.0.1:PORT/ on it, without a proxy"


class NotFound(Refused):
    """There is no such account, app, device, change or envelope."""

    status = 404


class Conflict(Refused):
    """The request contradicts what is stored: a name in use, a version or an epoch that was replaced."""

    status = 409


class MustReadAgain(Conflict):
    """The device is retired, or was restored from a copy: it must read the log again from its start."""

    description = (
        "this device was away for too long: pull again from cursor 0, without an epoch, until has_more is false"
    )


class InvalidField(Refused):
    """A field is missing, of the wrong type or out of bounds."""

    status = 422


class TooManyAttempts(Refused):
    """There were too many failures, from this address or for this account; the answer does not tell which."""

    status = 429
    description = "too many failed attempts: wait for a while, then try again"


class Busy(Refused):
    """The server is overloaded, or its database is locked, away or unusable; the client may try again soon.

    `reason` is a sentence for the operator alone, with the words of the driver.
    """

    status = 503
    description = "the server is busy, try again"
    seconds = (1, 5)
    """The bounds of the random `Retry-After`."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__()
        self.reason = reason
        self.retry_after = random.randint(*self.seconds)


class Unwritable(Busy):
    """The database can be read but not written: a full disk, or a read-only database."""

    description = "the server cannot store anything at the moment, try again later"
    seconds = (10, 30)


class OAuthError(Refused):
    """A refusal with an error code of RFC 6749, section 5.2; its sentence becomes the `error_description`."""

    error = "invalid_request"


class InvalidGrant(OAuthError):
    """The refresh token, the code or its proof is not valid."""

    error = "invalid_grant"


class UnsupportedGrantType(OAuthError):
    """The grant type is not one that the server supports."""

    error = "unsupported_grant_type"


class InvalidClient(OAuthError):
    """No app has this API key."""

    error = "invalid_client"
    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}  # HTTP wants one with every 401; Basic would open a browser's dialogue


class UserNotFound(OAuthError):
    """The token is valid, but its user is not stored here (any more); the code is upstream's."""

    error = "user_not_found"
    status = 401
    description = "there is no such account"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}
