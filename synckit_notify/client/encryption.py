"""End-to-end encryption: a passphrase decrypts the master key, and the master key encrypts the changes.

    passphrase ──Argon2id──▶ wrapping key ──▶ envelope, kept by the server ──▶ master key, in memory only ──▶ Cipher

The envelope also holds the older master keys of an account, encrypted with the newest one. So a device that has the
newest key reads them without the passphrase, and a device that has only an older key cannot read a newer one.

XChaCha20-Poly1305 encrypts the master keys and the `data` of each change. The context of a change (app, user, table,
row, operation, time) is authenticated with its ciphertext. So a server cannot read, alter, move or forge a change; it
can still withhold changes or send old ones again. The format is this SDK's own, not that of the Rust SDK. No network
and no clock.
"""

import base64
import binascii
import hashlib
import json
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import nacl.bindings as sodium
from argon2.low_level import Type, hash_secret_raw
from nacl.exceptions import CryptoError
from nacl.utils import random as random_bytes

from . import json_text
from .errors import InvalidEnvelope

FORMAT_VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
SALT_BYTES = 32
NONCE_BYTES = sodium.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
TAG_BYTES = sodium.crypto_aead_xchacha20poly1305_ietf_ABYTES
HEADER_BYTES = 1 + KEY_ID_BYTES
"""Each ciphertext starts with the format version and the id of its key, readable and authenticated."""

MAX_ENVELOPE_CHARACTERS = 4096

MAX_OLDER_KEYS = 32
"""Upper bound of the older keys in an envelope, which then has about 1,700 characters."""

MEMORY_KIB, PASSES, LANES = 64 * 1024, 3, 1
BOUNDS = {"memory_kib": (MEMORY_KIB, 256 * 1024), "passes": (PASSES, 10), "lanes": (LANES, 4)}
"""Accepted parameters of an envelope: at least as strong as ours, and within the memory and time of a phone."""

_ENTRY_LABEL = b"synckit_notify entry"
_KEY_ID_LABEL = b"synckit_notify key id"
_OLDER_KEYS_LABEL = "synckit_notify older keys"


class Unreadable(Exception):
    """A change cannot be read; its text is the reason, for a person."""


class Locked(Unreadable):
    """The ciphertext is encrypted with a key that this process does not have, but may get later."""


class WrongKey(InvalidEnvelope):
    """The envelope is well-formed, but this passphrase or this master key does not decrypt it."""


@dataclass(frozen=True, slots=True)
class EntryContext:
    """The context that a ciphertext is bound to; `timestamp` is the exact text that is sent."""

    app: str
    user: str
    table: str
    row_id: str
    op: str
    timestamp: str


class Cipher:
    """The master keys of one account, in memory only; the newest one encrypts. Immutable and thread-safe."""

    __slots__ = ("_header", "_keys")

    def __init__(self, key: bytes, older: Sequence[bytes] = ()) -> None:
        self._keys = {_key_id(each): each for each in (key, *older)}
        self._header = bytes([FORMAT_VERSION]) + _key_id(key)

    @property
    def newest_key(self) -> bytes:
        """The key that encrypts."""
        return self._keys[self._header[1:]]

    @property
    def newest_id(self) -> str:
        """The id of the key that encrypts."""
        return self._header[1:].hex()

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the keys that this cipher decrypts with; not secret, each ciphertext contains one."""
        return frozenset(key_id.hex() for key_id in self._keys)

    def rotated(self) -> "Cipher":
        """Return a cipher with a fresh random key, which keeps the newest MAX_OLDER_KEYS of the present keys."""
        return Cipher(random_bytes(KEY_BYTES), list(self._keys.values())[:MAX_OLDER_KEYS])

    def with_older(self, other: "Cipher") -> "Cipher":
        """Return a cipher that also decrypts what `other` does, as long as there are at most MAX_OLDER_KEYS."""
        newest, *older = (self._keys | other._keys).values()
        return Cipher(newest, older[:MAX_OLDER_KEYS])

    def seal(self, context: EntryContext, data: Any) -> str:
        """Encrypt `data`, any JSON value, and return text; raises ValueError or TypeError for other values."""
        plain = json_text.encode(data, separators=(",", ":")).encode()
        nonce = random_bytes(NONCE_BYTES)
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            plain, _authenticated(self._header, context), nonce, self.newest_key
        )
        return _to_base64(self._header + nonce + sealed)

    def open(self, context: EntryContext, text: str | None) -> Any:
        """Decrypt and return the JSON value; raises Unreadable if this account did not encrypt it in this context.

        Raises the subclass Locked if the ciphertext is encrypted with another key. A deletion without ciphertext is
        refused too, because a server could have forged it.
        """
        if text is None:
            raise Unreadable("it has no ciphertext, so it may not come from a device of this account")
        raw = ciphertext_of(text)
        if raw is None:
            raise Unreadable("it is not encrypted, or not in a format of this SDK")
        header, nonce, sealed = _split(raw, HEADER_BYTES, NONCE_BYTES)
        key = self._keys.get(header[1:])
        if key is None:
            raise Locked("it is encrypted with a key that this process does not have")
        try:
            plain = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, _authenticated(header, context), nonce, key
            )
        except CryptoError as error:
            raise Unreadable("it was altered or moved, or is not encrypted by this account") from error
        return decode_data(plain)

    def wrap(self, app: str, user: str, passphrase: str) -> str:
        """Encrypt the newest key with the passphrase, the older ones with the newest; return the envelope.

        Takes about 0.2 s and 64 MiB.
        """
        public: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "kdf": "argon2id",
            "memory_kib": MEMORY_KIB,
            "passes": PASSES,
            "lanes": LANES,
            "salt": _to_base64(random_bytes(SALT_BYTES)),
            "nonce": _to_base64(random_bytes(NONCE_BYTES)),
            "key_id": self.newest_id,
        }
        if len(self._keys) > 1:
            public["older"] = self._seal_older_keys(app, user)
        wrapped = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            self.newest_key,
            _associated_data(public, app, user),
            _from_base64(public["nonce"]),
            _wrapping_key(public, passphrase),
        )
        return _canonical(public | {"wrapped": _to_base64(wrapped)})

    def _seal_older_keys(self, app: str, user: str) -> str:
        _, *older = self._keys.values()
        nonce, context = random_bytes(NONCE_BYTES), _older_keys_context(app, user)
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(b"".join(older), context, nonce, self.newest_key)
        return _to_base64(nonce + sealed)


def ciphertext_of(text: str) -> bytes | None:
    """Return the bytes of text that has the form of our ciphertext, or None for any other text."""
    try:
        raw = _from_base64(text)
    except ValueError:
        return None
    return raw if len(raw) >= HEADER_BYTES + NONCE_BYTES + TAG_BYTES and raw[0] == FORMAT_VERSION else None


def decode_data(plain: bytes | str) -> Any:
    """Return the JSON value of decrypted data; raises Unreadable."""
    try:
        return json_text.decode(plain if isinstance(plain, str) else plain.decode())
    except json_text.NestedTooDeeply as error:
        raise Unreadable(f"its data {error}") from None
    except ValueError:
        raise Unreadable("its data is not JSON") from None


def new_cipher() -> Cipher:
    """Return a cipher with a fresh random master key."""
    return Cipher(random_bytes(KEY_BYTES))


def unwrap(envelope: str, app: str, user: str, passphrase: str) -> Cipher:
    """Return the cipher of an envelope; raises WrongKey for a wrong passphrase, InvalidEnvelope for other faults."""
    try:
        public = _read_envelope(envelope)
        wrapped = _from_base64(public.pop("wrapped"))
        key = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
            wrapped,
            _associated_data(public, app, user),
            _from_base64(public["nonce"]),
            _wrapping_key(public, passphrase),
        )
        return _with_older_keys(key, public, app, user)
    except CryptoError as error:
        raise WrongKey("the passphrase does not decrypt this account's master key") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _altered() from error


def unwrap_with_key(envelope: str, app: str, user: str, key: bytes) -> Cipher:
    """Return the cipher of an envelope whose newest key is already known.

    Raises WrongKey if the envelope has another newest key, InvalidEnvelope for other faults.
    """
    try:
        public = _read_envelope(envelope)
        if public.get("key_id", _key_id(key).hex()) != _key_id(key).hex():
            raise WrongKey("the envelope contains a newer master key")
        return _with_older_keys(key, public, app, user)
    except (CryptoError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _altered() from error


def newest_key_id(envelope: str) -> str | None:
    """Return the id of the newest key in an envelope; None if it does not say, as before keys could be rotated."""
    try:
        key_id = _read_envelope(envelope).get("key_id")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return key_id if isinstance(key_id, str) else None


def _altered() -> InvalidEnvelope:
    return InvalidEnvelope("the server's envelope was not made by this SDK, or was altered")


def _with_older_keys(key: bytes, public: dict[str, Any], app: str, user: str) -> Cipher:
    """Return a cipher with the keys that the newest one decrypts; raises CryptoError, ValueError and TypeError."""
    if len(key) != KEY_BYTES:
        raise ValueError("a key of another length")
    if "older" not in public:
        return Cipher(key)
    nonce, sealed = _split(_from_base64(public["older"]), NONCE_BYTES)
    joined = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, _older_keys_context(app, user), nonce, key)
    if len(joined) % KEY_BYTES:
        raise ValueError("older keys of another length")
    return Cipher(key, [joined[start : start + KEY_BYTES] for start in range(0, len(joined), KEY_BYTES)])


def _read_envelope(envelope: str) -> dict[str, Any]:
    """Return the fields of an envelope; raises ValueError unless it is exactly as `wrap` writes it, within BOUNDS."""
    if len(envelope) > MAX_ENVELOPE_CHARACTERS:
        raise ValueError("too long")
    public = json.loads(envelope)
    if not isinstance(public, dict) or _canonical(public) != envelope:
        raise ValueError("not canonical")
    if public["version"] != FORMAT_VERSION or public["kdf"] != "argon2id":
        raise ValueError("another format")
    for name, (least, most) in BOUNDS.items():
        if type(public[name]) is not int or not least <= public[name] <= most:
            raise ValueError("out of bounds")
    return public


def _wrapping_key(public: dict[str, Any], passphrase: str) -> bytes:
    if not passphrase:
        raise InvalidEnvelope("the passphrase must not be empty")
    try:
        secret = unicodedata.normalize("NFC", passphrase).encode()  # keyboards differ in how they encode accents
    except UnicodeEncodeError:
        raise InvalidEnvelope("the passphrase must not contain a lone surrogate") from None
    return hash_secret_raw(
        secret=secret,
        salt=_from_base64(public["salt"]),
        time_cost=public["passes"],
        memory_cost=public["memory_kib"],
        parallelism=public["lanes"],
        hash_len=KEY_BYTES,
        type=Type.ID,
    )


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(_KEY_ID_LABEL, key=key, digest_size=KEY_ID_BYTES).digest()


def _authenticated(header: bytes, context: EntryContext) -> bytes:
    """Encode the context, each part after its length, so that no two contexts have the same encoding."""
    parts = [_ENTRY_LABEL, header, *(part.encode() for part in astuple(context))]
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _older_keys_context(app: str, user: str) -> bytes:
    return _canonical({"app": app, "user": user, "label": _OLDER_KEYS_LABEL}).encode()


def _associated_data(public: dict[str, Any], app: str, user: str) -> bytes:
    return _canonical({"app": app, "user": user, "envelope": public}).encode()


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _split(raw: bytes, *lengths: int) -> list[bytes]:
    parts = []
    for length in lengths:
        part, raw = raw[:length], raw[length:]
        parts.append(part)
    return [*parts, raw]


def _to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _from_base64(text: str) -> bytes:
    """Decode canonical base64; white space and unused bits, which would allow several texts, are a ValueError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if _to_base64(raw) != text:
        raise ValueError("not canonical base64")
    return raw
