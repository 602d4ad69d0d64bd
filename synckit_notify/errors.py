"""The errors of the server; those of the SDK are in `client/errors.py`.

    NotifyError
    ├── ConfigurationError   a setting is missing or wrong; the message names its key
    └── Refused              a request is answered with this status, these headers and this message
        ├── BadRequest       400
        ├── InvalidToken     401
        ├── Forbidden        403
        ├── TooManyStreams   429 or 503, with Retry-After
        ├── HookFailed       503, with Retry-After: a hook of the host raised, or returned a wrong value
        └── KeysUnavailable  503, with Retry-After: the keys of the identity provider could not be fetched yet

A Refused is a werkzeug HTTPException too, like what `abort()` raises, so Flask and every REST framework on it answer
with its status. A host's error handlers for its status, its class or HTTPException apply; without one the answer is our
JSON. NotifyError follows HTTPException among the base classes, and Flask looks for handlers in that order: so our
handler, for NotifyError, comes after those and before one for Exception, which often turns every error into a 500.

`str(error)` is a message for a person and never holds a token, a key or a password. All errors can be pickled and
copied, whatever their constructors take.
"""

import copyreg
import json
import random
from typing import Any

from werkzeug import exceptions


class NotifyError(Exception):
    """The base class of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy without the constructor, whose arguments may differ from `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigurationError(NotifyError):
    """A setting is missing or wrong; the message names its key."""


class Refused(exceptions.HTTPException, NotifyError):
    """A request that is answered with an error instead of a stream.

    A subclass sets `status`, and `description` as the default message. Flask finds a host's handler by the `code` of
    the class, which only subclasses of werkzeug's own classes have: so a handler for 401 is called for InvalidToken.
    """

    status = 400
    description = "the request was refused"
    retry_after: int | None = None
    """Seconds until the client should try again; random, so that refused clients do not all come back at once."""

    def __init__(self, sentence: str | None = None, *, status: int | None = None) -> None:
        super().__init__(sentence)
        self.args = (str(self),)
        if status is not None:
            self.status = status
        self.code = self.status

    def __str__(self) -> str:
        return self.description

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this refusal, in addition to Content-Type and Cache-Control."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Return all headers of the answer."""
        return [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *self.headers.items()]

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Return the body of the answer, as JSON."""
        return json.dumps({"error": str(self)}) + "\n"


class BadRequest(Refused, exceptions.BadRequest):
    """The request is malformed."""


class InvalidToken(Refused, exceptions.Unauthorized):
    """The token is missing or not valid (RFC 6750 section 3.1)."""

    status = 401
    description = "the token is not valid"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Forbidden(Refused, exceptions.Forbidden):
    """The token is valid, but does not allow this."""

    status = 403
    description = "the token does not allow this"


class TooManyStreams(Refused):
    """A limit of open streams is reached, or this process cannot stream at all."""

    def __init__(self, sentence: str, *, status: int) -> None:
        super().__init__(sentence, status=status)
        self.retry_after = _spread_seconds()


class HookFailed(Refused):
    """A hook of the host raised an error, or returned a wrong value; the log says which and why."""

    status = 503
    description = "the server cannot check this now; try again later"

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = _spread_seconds()


class KeysUnavailable(Refused):
    """The keys of the identity provider could not be fetched yet, so no token can be checked; the log says why."""

    status = 503
    description = "the server cannot check tokens yet; try again later"

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = _spread_seconds()


def _spread_seconds() -> int:
    return random.randint(5, 20)
