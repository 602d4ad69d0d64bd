"""Envelopes of one account, and the keys that they contain.

In: an envelope as text, and a passphrase or the newest key. Out: the keys, or an error that tells whether the
passphrase is wrong or was changed. No network and no state. Only master_key.py uses this file.
"""

from contextlib import suppress
from typing import NamedTuple

from .encryption import Cipher, WrongKey, newest_key_id, unwrap, unwrap_with_key
from .errors import InvalidEnvelope, NoMasterKey
from .models import Account

CHANGED = "the passphrase was changed: set up encryption again with the new passphrase"


class Key(NamedTuple):
    """A cipher, and the envelope that contains its keys; None for a key that was only in the keychain."""

    cipher: Cipher
    envelope: str | None


class Stored(NamedTuple):
    """The server's envelope and its version."""

    envelope: str
    version: int

    def is_older_than(self, key: Key) -> bool:
        """Return whether it is from before a rotation: the server was restored from a backup, for example."""
        return newest_key_id(self.envelope) in key.cipher.key_ids - {key.cipher.newest_id}


class Opener:
    """Opens the envelopes of one account, with a passphrase or else with the newest key, which the keychain had."""

    def __init__(self, account: Account, passphrase: str | None, key: bytes | None = None) -> None:
        self._account, self._passphrase, self._key = account, passphrase, key

    @property
    def has_passphrase(self) -> bool:
        """Return whether it can make envelopes."""
        return self._passphrase is not None

    def open(self, envelope: str) -> Key:
        """Return the keys of an envelope; raises InvalidEnvelope, and WrongKey for another passphrase or key."""
        user, app = self._account
        if self._passphrase is not None:
            return Key(unwrap(envelope, app, user, self._passphrase), envelope)
        assert self._key is not None
        return Key(unwrap_with_key(envelope, app, user, self._key), envelope)

    def open_kept(self, envelope: str | None) -> Key | None:
        """Return the keys that can be used without the server, or None."""
        if envelope is not None:
            with suppress(InvalidEnvelope):
                return self.open(envelope)
        return None if self._key is None else Key(Cipher(self._key), None)

    def wrap(self, cipher: Cipher) -> str:
        """Return an envelope."""
        assert self._passphrase is not None
        return cipher.wrap(self._account.app_id, self._account.user_id, self._passphrase)

    def open_or_keep(self, envelope: str, key: Key | None) -> Key:
        """Return the keys of the server's envelope, or `key` if it is from this envelope.

        Raises WrongKey, or NoMasterKey if `key` was opened from another envelope, so that the passphrase was right.
        """
        if key is not None and key.envelope == envelope:
            return key
        try:
            return self.open(envelope)
        except WrongKey:
            if key is None:
                raise
            raise NoMasterKey(CHANGED) from None
