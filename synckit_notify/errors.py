"""The errors of both sides, one tree each.

    NotifyError              the server side
    ├── ConfigurationError   a setting is missing or wrong; the sentence names its key
    └── Refused              a request gets this status, these headers and this sentence
        ├── BadRequest       400
        ├── InvalidToken     401
        ├── Forbidden        403
        └── TooManyStreams   429 or 503, with Retry-After

    SyncKitError             the SDK
    ├── NetworkError         no answer came: nobody knows whether the server acted
    ├── ServerError          the server answered with an error; its status and its words
    ├── ProtocolError        the answer is not what a SyncKit server says
    ├── NotAuthenticated     log in, or log in again
    ├── StateError           the state file is damaged, foreign or in use for something else
    ├── NoMasterKey          encryption was not set up in this process
    ├── EncryptionExists     this account has a master key already
    ├── InvalidEnvelope      the stored master key cannot be unwrapped: a wrong passphrase, or a forgery
    └── DecryptionFailed     a change cannot be read, and the client was made with strict=True

`str(error)` is a sentence for a person: it never holds a token, a key or a password.
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


class SyncKitError(Exception):
    """Anything the SDK raises on purpose."""


class NetworkError(SyncKitError):
    """No answer came, or only a part of one; a repeat may be needed and must be safe."""


class ServerError(SyncKitError):
    """The server refused; `retry_after` is in seconds, None where it did not say."""

    def __init__(self, sentence: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class ProtocolError(SyncKitError):
    """The answer is not what the contract says."""


class NotAuthenticated(SyncKitError):
    """There is no token that counts, and none can be had without the user."""


class StateError(SyncKitError):
    """The state cannot be used; its file is left as it is."""


class NoMasterKey(SyncKitError):
    """Encryption must be set up before anything is pushed or read."""


class EncryptionExists(SyncKitError):
    """Another device has set up encryption; use its passphrase."""


class InvalidEnvelope(SyncKitError):
    """The envelope is no envelope of ours, or the passphrase does not open it."""


class DecryptionFailed(SyncKitError):
    """A change cannot be read, and the client was made with strict=True; the fields of an UnreadableChange."""

    def __init__(self, *, seq: int, table: str, row_id: str, device_id: str, reason: str) -> None:
        super().__init__(
            f"change {seq} (table {table!r}, row {row_id!r}, device {device_id!r}) cannot be read: {reason}"
        )
        self.seq, self.table, self.row_id, self.device_id, self.reason = seq, table, row_id, device_id, reason
