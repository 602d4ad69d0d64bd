"""The account's master key in this process, or no key for a client that does not encrypt.

In: a function that returns the session. Out: a Codec. The server stores the key in an envelope that it cannot decrypt.
If the answer to a PUT was lost, the repetition finds the same envelope on the server, which counts as success. Only the
client uses this; thread-safe. Raises what the session's `call` raises, and InvalidEnvelope.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from .encryption import Cipher, new_cipher, unwrap
from .errors import EncryptionExists, NoMasterKey, ServerError
from .serialization import ClearText, member
from .session import Session

PATH = "/api/sync/keys"


class NoEncryption:
    """Replaces Encryption in a client made with `encrypt=False`."""

    key_ids: frozenset[str] = ClearText.key_ids

    def setup_new(self, passphrase: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError("this client was made with encrypt=False")

    setup_existing = setup_new

    def change_passphrase(self, old: str, new: str) -> NoReturn:
        """Raise ValueError."""
        self.setup_new(new)

    def codec(self) -> ClearText:
        """Return the codec that reads and writes data as JSON."""
        return ClearText()

    def require_newest(self) -> None:
        """Do nothing: there is no key that could be out of date."""


class _Key(NamedTuple):
    cipher: Cipher
    envelope_version: int


class Encryption:
    """One account's master key; it is missing until one of the first two methods is called."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session
        self._key: _Key | None = None

    def setup_new(self, passphrase: str) -> None:
        """Create a master key and store its envelope on the server; raises EncryptionExists if there is one."""
        cipher = new_cipher()
        account = self._session().account()
        try:
            version = self._put({"envelope": cipher.wrap(account.app_id, account.user_id, passphrase)})
        except ServerError as error:
            if error.status == 409:
                raise EncryptionExists("this account already has a master key: use its passphrase") from error
            raise
        self._key = _Key(cipher, version)

    def setup_existing(self, passphrase: str) -> None:
        """Fetch the master key; raises NoMasterKey if the account has none."""
        self._key = self._fetch(passphrase)

    def change_passphrase(self, old: str, new: str) -> None:
        """Encrypt the same master key with a new passphrase; raises NoMasterKey, and ServerError 409 on a conflict."""
        account = self._session().account()
        cipher, version = self._fetch(old)
        envelope = cipher.wrap(account.app_id, account.user_id, new)
        self._key = _Key(cipher, self._put({"envelope": envelope, "expected_version": version}))

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the keys that this process has."""
        key = self._key
        return frozenset() if key is None else key.cipher.key_ids

    def codec(self) -> Cipher:
        """Return the cipher; raises NoMasterKey before encryption is set up."""
        if self._key is None:
            raise NoMasterKey("set up encryption in this process first")
        return self._key.cipher

    def require_newest(self) -> None:
        """Raise NoMasterKey if the server has a newer envelope, which may contain a key that is missing here."""
        try:
            version = self._get()[1]
        except NoMasterKey:
            return
        if self._key is None or version > self._key.envelope_version:
            raise NoMasterKey("the passphrase was changed: set up encryption again with the new passphrase")

    def _fetch(self, passphrase: str) -> _Key:
        account = self._session().account()
        envelope, version = self._get()
        return _Key(unwrap(envelope, account.app_id, account.user_id, passphrase), version)

    def _put(self, body: dict[str, Any]) -> int:
        """Store an envelope; return its version."""
        try:
            return member(self._session().call("PUT", PATH, body, idempotent=True), "version", int)
        except ServerError as error:
            if error.status != 409:
                raise
            envelope, version = self._get()
            if envelope != body["envelope"]:
                raise
            return version

    def _get(self) -> tuple[str, int]:
        try:
            answer = self._session().call("GET", PATH, idempotent=True)
        except ServerError as error:
            if error.status == 404:
                raise NoMasterKey(
                    "this account has no master key yet: set up encryption on its first device"
                ) from error
            raise
        return member(answer, "envelope", str), member(answer, "version", int)
