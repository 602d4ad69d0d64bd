"""The account's master key: made, fetched and wrapped anew; the server keeps its envelope and cannot open it.

A session's `call`, an app and a user in, a Cipher out. Only the client may use it. A repeat of a request whose answer
was lost meets the own envelope: that counts as done. Raises what `call` raises, and InvalidEnvelope.
"""

from typing import Any, Protocol

from .encryption import Cipher, new_cipher, unwrap
from .errors import EncryptionExists, NoMasterKey, ServerError
from .wire import member

PATH = "/api/sync/keys"


class Call(Protocol):
    """`Session.call`."""

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None, *, safe: bool) -> dict[str, Any]: ...


class Encryption:
    """One account's envelope at the server."""

    def __init__(self, session_call: Call, app: str, user: str) -> None:
        self._call, self._app, self._user = session_call, app, user

    def setup_new(self, passphrase: str) -> Cipher:
        """Make a master key and keep it at the server; raises EncryptionExists, and never overwrites one."""
        cipher = new_cipher()
        try:
            self._put({"envelope": cipher.wrap(self._app, self._user, passphrase)})
        except ServerError as error:
            if error.status == 409:
                raise EncryptionExists("this account has a master key: use the passphrase it was made with") from error
            raise
        return cipher

    def setup_existing(self, passphrase: str) -> Cipher:
        """Fetch the master key; raises NoMasterKey if there is none."""
        return unwrap(self._get()[0], self._app, self._user, passphrase)

    def change_passphrase(self, old: str, new: str) -> Cipher:
        """Wrap the same master key anew; raises NoMasterKey, and ServerError 409 if another device was faster."""
        envelope, version = self._get()
        cipher = unwrap(envelope, self._app, self._user, old)
        self._put({"envelope": cipher.wrap(self._app, self._user, new), "expected_version": version})
        return cipher

    def _put(self, body: dict[str, Any]) -> None:
        try:
            self._call("PUT", PATH, body, safe=True)
        except ServerError as error:
            if error.status != 409 or self._get()[0] != body["envelope"]:
                raise

    def _get(self) -> tuple[str, int]:
        try:
            answer = self._call("GET", PATH, safe=True)
        except ServerError as error:
            if error.status == 404:
                raise NoMasterKey(
                    "this account has no master key yet: set up encryption on its first device"
                ) from error
            raise
        return member(answer, "envelope", str), member(answer, "version", int)
