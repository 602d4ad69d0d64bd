"""The account's master key in this process, or no key for a client that does not encrypt.

    passphrase, or the key in the keychain ──▶ the envelope in the state file ──▶ the server's envelope ──▶ a Codec

In: functions that return the session and the state. The server stores the key in an envelope that it cannot decrypt;
the state file keeps the last envelope that was decrypted here, so that the passphrase opens it without the network. A
new key is made only if the server says that the account has none, and if nothing here contains one: neither the state
file, nor this process, nor (where it may be used) the keychain.

If the answer to a PUT was lost, the repetition finds the same envelope on the server, which counts as success. Only the
client uses this; thread-safe. Raises what the session's `call` raises, InvalidEnvelope and KeychainError.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

from . import keychain
from .cancellable import start
from .encryption import Cipher, WrongKey, new_cipher
from .envelopes import CHANGED, Key, Opener, Stored
from .errors import (
    InvalidEnvelope,
    KeychainError,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ProtocolError,
    ServerError,
)
from .models import Account, EncryptionSetup
from .serialization import ClearText, member
from .session import Session
from .state import State

PATH = "/api/sync/keys"

CHECK_SECONDS = 5.0
"""Upper bound of the wait for the server if the envelope of the state file was decrypted already."""

MAX_ROUNDS = 3
"""How often the server's envelope is fetched if other devices replace it meanwhile."""

UNREACHABLE = (NetworkError, ProtocolError, ServerError, NotAuthenticated)
"""Errors of a server that cannot be used now; everything that was decrypted here can."""

CHANGED_MEANWHILE = (
    "the passphrase was changed on another device at the same time: set up encryption again with the passphrase "
    "that was chosen there"
)

T = TypeVar("T")

log = logging.getLogger("synckit_notify.client")


class NoEncryption:
    """Replaces Encryption in a client made with `encrypt=False`."""

    key_ids: frozenset[str] = ClearText.key_ids

    def setup(self, passphrase: str | None, *, remember: bool) -> NoReturn:
        """Raise ValueError."""
        raise ValueError("this client was made with encrypt=False")

    def change_passphrase(self, old: str, new: str) -> NoReturn:
        """Raise ValueError."""
        self.setup(new, remember=False)

    rotate = change_passphrase

    def forget(self) -> None:
        """Do nothing: there is no key."""

    def codec(self) -> ClearText:
        """Return the codec that reads and writes data as JSON."""
        return ClearText()

    def require_newest(self) -> None:
        """Do nothing: there is no key that could be out of date."""


class Agreed(NamedTuple):
    """The keys that this device and the server have, and the version there; `created` if they were made just now."""

    key: Key
    version: int | None
    created: bool = False


class Encryption:
    """One account's master key; it is missing until `setup` was called.

    `moved_from` is the former URL of the server, under which the keychain may have the key.
    """

    def __init__(
        self, session: Callable[[], Session], state: Callable[[], State], moved_from: str | None = None
    ) -> None:
        self._session, self._state, self._moved_from = session, state, moved_from
        self._key: Key | None = None

    def setup(self, passphrase: str | None, *, remember: bool) -> EncryptionSetup:
        """Open the account's key with the passphrase, or with the key in the keychain; make one if there is none.

        Raises NoMasterKey if the passphrase was changed, or without a passphrase and without a key in the keychain.
        """
        account = self._session().account()
        remembered = self._remembered() if passphrase is None else None
        if passphrase is None and remembered is None:
            raise NoMasterKey("the keychain has no master key of this account: pass the passphrase")
        opener = Opener(account, passphrase, remembered)
        key = opener.open_kept(self._state().envelope())
        if key is not None:
            self._key = key  # from here on changes can be queued, whatever the server answers
        try:
            stored = self._fetch(None if key is None else CHECK_SECONDS)
            agreed = self._agree(opener, key, stored, self._remembered if remember else lambda: None)
        except UNREACHABLE as error:
            if key is None and self._state().envelope() is not None:
                raise InvalidEnvelope("the passphrase does not decrypt this account's master key") from error
            if key is None:
                raise
            log.info("encryption was set up without the server: %s", error)
            agreed = Agreed(key, None)
        self._use(agreed.key)
        if remember:
            keychain.write(self._entry(account), agreed.key.cipher.newest_key)
        return EncryptionSetup(agreed.created)

    def change_passphrase(self, old: str, new: str) -> None:
        """Encrypt the same keys with a new passphrase."""
        self._replace(old, new, lambda cipher: cipher)

    def rotate(self, old: str, new: str) -> None:
        """Make a new key, encrypt it and the older ones with a new passphrase, and remove it from the keychain."""
        self._replace(old, new, lambda cipher: cipher.rotated())
        try:
            keychain.forget(self._entry(self._session().account()))
        except KeychainError as error:  # the old key there does no harm: `setup` recognises it
            log.warning("the former master key is still in the keychain: %s", error)

    def forget(self) -> None:
        """Remove the key from this process and from the keychain; raises KeychainError."""
        self._key = None
        account = self._state().account()
        if account is not None:
            keychain.forget(self._entry(account))

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
        """Raise NoMasterKey if the server has a newer envelope, which may contain a key that is missing here.

        A new passphrase alone raises nothing: the envelope then contains the same newest key.
        """
        key, stored = self._key, self._fetch()
        if stored is None or (key is not None and (stored.envelope == key.envelope or stored.is_older_than(key))):
            return
        if key is None:
            raise NoMasterKey(CHANGED)
        try:
            self._use(Opener(self._session().account(), None, key.cipher.newest_key).open(stored.envelope))
        except WrongKey:
            raise NoMasterKey(CHANGED) from None

    def _agree(
        self,
        opener: Opener,
        key: Key | None,
        stored: Stored | None,
        remembered: Callable[[], bytes | None],
        rounds: int = MAX_ROUNDS,
    ) -> Agreed:
        """Return the keys of the server's envelope, after storing one there if it has none or an older one.

        `remembered` returns the key in the keychain; it is called only before a new key would be made.
        """
        try:
            if stored is None:
                return self._offer(opener, key, remembered)
            known = key or self._key
            if known is not None and known.envelope is not None and stored.is_older_than(known):
                stored = Stored(known.envelope, self._put(known.envelope, stored.version))
            return self._keeping_mine(opener, opener.open_or_keep(stored.envelope, key), stored.version)
        except ServerError as error:
            if error.status != 409 or rounds == 0:
                raise
        return self._agree(opener, key, self._fetch(), remembered, rounds - 1)

    def _offer(self, opener: Opener, key: Key | None, remembered: Callable[[], bytes | None]) -> Agreed:
        """Give the server the envelope that it lacks: the one of the state file, or a new one with a key in hand."""
        kept = self._state().envelope()
        if kept is not None:
            version = self._put(kept)
            return Agreed(opener.open_or_keep(kept, key), version)
        if key is not None:  # from the keychain: without a passphrase there is nothing to encrypt it with
            return Agreed(key, None)
        cipher = self._in_hand(remembered)
        made = cipher or new_cipher()
        envelope = opener.wrap(made)
        return Agreed(Key(made, envelope), self._put(envelope), created=cipher is None)

    def _keeping_mine(self, opener: Opener, theirs: Key, version: int) -> Agreed:
        """Add the keys of this process to an envelope that lacks them, so that what they encrypted stays readable.

        That is the case if a server lost its envelope, and a device that never had it made a new key.
        """
        cipher = theirs.cipher if self._key is None else theirs.cipher.with_older(self._key.cipher)
        if opener.has_passphrase and cipher.key_ids > theirs.cipher.key_ids:
            envelope = opener.wrap(cipher)
            return Agreed(Key(cipher, envelope), self._put(envelope, version))
        return Agreed(theirs, version)

    def _in_hand(self, remembered: Callable[[], bytes | None]) -> Cipher | None:
        """Return the keys of this process, or else the one in the keychain, or None."""
        if self._key is not None:
            return self._key.cipher
        key = remembered()
        return None if key is None else Cipher(key)

    def _replace(self, old: str, new: str, change: Callable[[Cipher], Cipher]) -> None:
        """Store another envelope in place of the server's; raises NoMasterKey if another device did so meanwhile."""
        account = self._session().account()
        opener, newer = Opener(account, old), Opener(account, new)
        kept, stored = self._state().envelope(), self._fetch()
        if kept is None and stored is None:
            raise NoMasterKey("this account has no master key yet: call setup_encryption first")
        try:
            key, version, _ = self._agree(opener, opener.open_kept(kept), stored, lambda: None)
        except (WrongKey, NoMasterKey):
            if stored is None or not self._adopt(newer, stored.envelope):
                raise
            return  # a repetition: the answer to the first call was lost
        cipher = change(key.cipher)
        envelope = newer.wrap(cipher)
        try:
            self._put(envelope, version)
        except ServerError as error:
            stored = self._fetch() if error.status == 409 else None
            if stored is None:
                raise
            if not self._adopt(newer, stored.envelope):
                raise NoMasterKey(CHANGED_MEANWHILE) from error
        else:
            self._use(Key(cipher, envelope))

    def _adopt(self, opener: Opener, envelope: str) -> bool:
        """Use the keys of an envelope if it can be opened; return whether it can."""
        try:
            self._use(opener.open(envelope))
        except WrongKey:
            return False
        return True

    def _use(self, key: Key) -> None:
        if key.envelope is not None and key.envelope != self._state().envelope():
            self._state().keep_envelope(key.envelope)
        self._key = key

    def _entry(self, account: Account) -> keychain.Entry:
        return keychain.Entry.of(self._session().url, account)

    def _remembered(self) -> bytes | None:
        """Return the key in the keychain; if it is there under the server's former URL, rename the entry first."""
        account = self._session().account()
        entry = self._entry(account)
        key = keychain.read(entry)
        if key is None and self._moved_from is not None:
            former = keychain.Entry.of(self._moved_from, account)
            key = keychain.read(former)
            if key is not None:
                keychain.write(entry, key)
                keychain.forget(former)
        return key

    def _put(self, envelope: str, expected_version: int | None = None) -> int:
        """Store an envelope, the first one without `expected_version`; return its version."""
        body: dict[str, Any] = {"envelope": envelope}
        if expected_version is not None:
            body["expected_version"] = expected_version
        try:
            return member(self._session().call("PUT", PATH, body, idempotent=True), "version", int)
        except ServerError as error:
            stored = self._fetch() if error.status == 409 else None
            if stored is None or stored.envelope != envelope:
                raise
            return stored.version

    def _fetch(self, within: float | None = None) -> Stored | None:
        return _fetch(self._session(), within)


def exists(session: Session) -> bool:
    """Return whether the account that is logged in has a master key on the server."""
    return _fetch(session) is not None


def _fetch(session: Session, within: float | None = None) -> Stored | None:
    """Return the server's envelope, or None if the server itself says that there is none.

    `within` is the time limit in seconds of a single attempt; None makes as many attempts as other calls.
    """

    def ask() -> dict[str, Any]:
        return session.call("GET", PATH, idempotent=within is None)

    try:
        answer = ask() if within is None else _run(ask, within)
    except ServerError as error:
        if error.status == 404 and error.has_json_error:
            return None
        raise
    return Stored(member(answer, "envelope", str), member(answer, "version", int))


def _run(call: Callable[[], T], seconds: float) -> T:
    """Return the result of a call; raises NetworkError if it takes longer than so many seconds."""
    future = start(call)
    try:
        return future.result(seconds)
    except TimeoutError:
        future.cancel()
        raise NetworkError(f"no answer from the server within {seconds:g} s") from None
