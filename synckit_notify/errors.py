"""The errors of the server; those of the SDK are in `client/errors.py`.

    NotifyError
    ├── ConfigurationError   a setting is missing or wrong; the sentence names its key
    └── Refused              a request gets this status, these headers and this sentence
        ├── BadRequest       400
        ├── InvalidToken     401
        ├── Forbidden        403
        ├── TooManyStreams   429 or 503, with Retry-After
        └── HookFailed       503, with Retry-After: a hook of the host raised, or returned what it must not

A Refused is an HTTPException of werkzeug too, like what `abort()` raises, so Flask and every REST framework on it
answer with its status. A host's error handlers for its status, its class or HTTPException apply; without one the answer
is our JSON. NotifyError stands behind HTTPException among the base classes, and Flask finds handlers in that order: so
ours, which is for NotifyError, comes after those and before one for Exception, which often makes a 500 of everything.

`str(error)` is a sentence for a person: it never holds a token, a key or a password. All of them can be pickled and
copied, whatever their constructors take.
"""

import copyreg
import json
import random
from typing import Any

from werkzeug import exceptions


class NotifyError(Exception):
    """Anything this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a copy without the constructor, whose arguments may differ from `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ConfigurationError(NotifyError):
    """A setting that the service cannot start with."""


class Refused(exceptions.HTTPException, NotifyError):
    """A request that is answered with an error instead of a stream.

    A subclass sets `status`, and `description` for the sentence where none is given. Flask looks for a host's handler
    by the `code` of the class, which only subclasses of werkzeug's own classes have: what a host registers for 401
    is also called for InvalidToken.
    """

    status = 400
    description = "the request is refused"
    retry_after: int | None = None
    """Whole seconds until a repeat makes sense; random, so that refused clients do not all come back at once."""

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
        """The headers that belong to this refusal."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Return the headers of the whole answer."""
        return [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *self.headers.items()]

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Return the JSON of the answer."""
        return json.dumps({"error": str(self)}) + "\n"


class BadRequest(Refused, exceptions.BadRequest):
    """The request itself is malformed."""


class InvalidToken(Refused, exceptions.Unauthorized):
    """No token, or one that does not count (RFC 6750 section 3.1)."""

    status = 401
    description = "the token is not valid"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Forbidden(Refused, exceptions.Forbidden):
    """A good token, but for something else."""

    status = 403
    description = "the token does not allow this"


class TooManyStreams(Refused):
    """A limit of this process is reached, or it cannot stream at all."""

    def __init__(self, sentence: str, *, status: int) -> None:
        super().__init__(sentence, status=status)
        self.retry_after = _spread_seconds()


class HookFailed(Refused):
    """A hook of the host raised an error of its own, or returned what it must not; the log says which and why."""

    status = 503
    description = "the server cannot check this now, try again later"

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = _spread_seconds()


def _spread_seconds() -> int:
    return random.randint(5, 20)
