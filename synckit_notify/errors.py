"""The errors of the server side, one tree.

    NotifyError
    ├── ConfigurationError   a setting is missing or wrong; the sentence names its key
    └── Refused              a request gets this status, these headers and this sentence
        ├── BadRequest       400
        ├── InvalidToken     401
        ├── Forbidden        403
        └── TooManyStreams   429 or 503, with Retry-After

`str(error)` is a sentence for the client: it never holds a token, a key or a password.
"""

import random


class NotifyError(Exception):
    """Anything this package raises on purpose."""


class ConfigurationError(NotifyError):
    """A setting that the service cannot start with."""


class Refused(NotifyError):
    """A request that is answered with an error instead of a stream."""

    status = 400

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to this refusal."""
        return {}


class BadRequest(Refused):
    """The request itself is malformed."""


class InvalidToken(Refused):
    """No token, or one that does not count (RFC 6750 section 3.1)."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class Forbidden(Refused):
    """A good token, but for something else."""

    status = 403


class TooManyStreams(Refused):
    """A limit of this process is reached, or it cannot stream at all.

    `retry_after` is in whole seconds and random, so that refused clients do not all come back at once.
    """

    def __init__(self, sentence: str, *, status: int) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = random.randint(5, 20)

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}
