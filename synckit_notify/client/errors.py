"""The errors of the SDK; standard library only.

    SyncKitError
    ├── NetworkError         no complete answer arrived; the server may or may not have acted
    ├── ServerError          the server answered with an error; carries its status and its message
    ├── ProtocolError        the answer is not that of a SyncKit server
    ├── NotAuthenticated     the user must log in, or log in again
    ├── StateError           the state file cannot be used: damaged, of another program, or of another account
    ├── StoreError           the app's database cannot be synced: its tables must be changed, or it is damaged
    ├── NoMasterKey          encryption was not set up in this process, or the passphrase was changed
    ├── InvalidEnvelope      the stored master key cannot be decrypted: wrong passphrase, or an altered envelope
    ├── KeychainError        the keychain of the operating system cannot be used
    └── DecryptionFailed     a change cannot be read, and the client was made with strict=True

`str(error)` is one sentence for a person and never contains a token, a key or a password. All errors can be pickled and
copied, whatever arguments their constructors take, so they can be raised across a process pool.
"""

import copyreg
from typing import Any


class SyncKitError(Exception):
    """Base class of every error that the SDK raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild a copy without calling the constructor, whose arguments may differ from `args`."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class NetworkError(SyncKitError):
    """No complete answer arrived, so the server may or may not have acted; every SDK call is safe to repeat."""


class ServerError(SyncKitError):
    """The server refused a request.

    `status` is the HTTP status. `retry_after` is the time in seconds that the server asks the client to wait, or None
    if it did not say. `has_json_error` tells whether the answer was a JSON error of the server itself, and not, for
    example, the page of a proxy.
    """

    def __init__(
        self, message: str, *, status: int, retry_after: float | None = None, has_json_error: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.has_json_error = has_json_error


class ProtocolError(SyncKitError):
    """The answer is not that of a SyncKit server; check the address, or a log-in page on the network."""


class NotAuthenticated(SyncKitError):
    """There is no valid token, and the user must log in to get one."""


class StateError(SyncKitError):
    """The state cannot be used; its file is left unchanged."""


class StoreError(SyncKitError):
    """The app's database cannot be synced as it is; the text says what to change. Its rows are left unchanged."""


class NoMasterKey(SyncKitError):
    """The current master key is missing here: call `setup_encryption` with the account's passphrase."""


class InvalidEnvelope(SyncKitError):
    """The envelope was not made by this SDK or was altered, or the passphrase does not decrypt it."""


class KeychainError(SyncKitError):
    """The keychain of the operating system is missing, locked or failed."""


class DecryptionFailed(SyncKitError):
    """A change cannot be read, and the client was made with strict=True.

    Carries the fields of an `UnreadableChange`: `seq`, `table`, `row_id`, `device_id` and `reason`.
    """

    def __init__(self, *, seq: int, table: str, row_id: str, device_id: str, reason: str) -> None:
        super().__init__(
            f"change {seq} (table {table!r}, row {row_id!r}, device {device_id!r}) cannot be read: {reason}"
        )
        self.seq = seq
        self.table = table
        self.row_id = row_id
        self.device_id = device_id
        self.reason = reason
