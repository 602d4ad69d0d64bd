"""The errors of the SDK; standard library only.

    SyncKitError
    ├── NetworkError         no answer came: nobody knows whether the server acted
    ├── ServerError          the server answered with an error; its status and its words
    ├── ProtocolError        the answer is not what a SyncKit server says
    ├── NotAuthenticated     log in, or log in again
    ├── StateError           the state file is damaged, foreign or in use for something else
    ├── NoMasterKey          encryption was not set up in this process
    ├── EncryptionExists     this account has a master key already
    ├── InvalidEnvelope      the stored master key cannot be unwrapped: a wrong passphrase, or a forgery
    └── DecryptionFailed     a change cannot be read, and the client was made with strict=True

`str(error)` is a sentence for a person: it never holds a token, a key or a password. All of them can be pickled and
copied, whatever their constructors take, so they cross the border of a process pool.
"""

import copyreg
from typing import Any


class SyncKitError(Exception):
    """Anything the SDK raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a copy without the constructor, whose arguments may differ from `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class NetworkError(SyncKitError):
    """No answer came, or only a part of one; a repeat may be needed and must be safe."""


class ServerError(SyncKitError):
    """The server refused; `retry_after` is in seconds, None where it did not say."""

    def __init__(self, sentence: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after


class ProtocolError(SyncKitError):
    """The answer is not what a SyncKit server says."""


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
        self.seq = seq
        self.table = table
        self.row_id = row_id
        self.device_id = device_id
        self.reason = reason
