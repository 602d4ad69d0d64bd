"""End-to-end encryption: a passphrase decrypts the master key, and the master key encrypts the changes.

    passphrase ──Argon2id──▶ wrapping key ──▶ envelope, kept by the server ──▶ master key, in memory only ──▶ Cipher

XChaCha20-Poly1305 encrypts the master key and the `data` of each change. The context of a change (app, user, table,
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

MEMORY_KIB, PASSES, LANES = 64 * 1024, 3, 1
BOUNDS = {"memory_kib": (MEMORY_KIB, 256 * 1024), "passes": (PASSES, 10), "lanes": (LANES, 4)}
"""Accepted parameters of an envelope: at least as strong as ours, and within the memory and time of a phone."""

_ENTRY_LABEL = b"synckit_notify entry"
_KEY_ID_LABEL = b"synckit_notify key id"


class Unreadable(Exception):
    """A change cannot be read; its text is the reason, for a person."""


class Locked(Unreadable):
    """The ciphertext is encrypted with a key that this process does not have, but may get later."""


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
    """The master key of one account, in memory only; immutable and thread-safe."""

    __slots__ = ("_header", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        key_id = hashlib.blake2b(_KEY_ID_LABEL, key=key, digest_size=KEY_ID_BYTES).digest()
        self._header = bytes([FORMAT_VERSION]) + key_id

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of the keys that this cipher decrypts with; not secret, each ciphertext contains one."""
        return frozenset({self._header[1:].hex()})

    def seal(self, context: EntryContext, data: Any) -> str:
        """Encrypt `data`, any JSON value, and return text; raises ValueError or TypeError for other values."""
        plain = json_text.encode(data, separators=(",", ":")).encode()
        nonce = random_bytes(NONCE_BYTES)
        sealed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            plain, self._authenticated(context), nonce, self._key
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
        if header != self._header:
            raise Locked("it is encrypted with a key that this process does not have")
        try:
            plain = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, self._authenticated(context), nonce, self._key
            )
        except CryptoError as error:
            raise Unreadable("it was altered or moved, or is not encrypted by this account") from error
        return decode_data(plain)

    def wrap(self, app: str, user: str, passphrase: str) -> str:
        """Encrypt the master key with the passphrase; return the envelope. Takes about 0.2 s and 64 MiB."""
        public: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "kdf": "argon2id",
            "memory_kib": MEMORY_KIB,
            "passes": PASSES,
            "lanes": LANES,
            "salt": _to_base64(random_bytes(SALT_BYTES)),
            "nonce": _to_base64(random_bytes(NONCE_BYTES)),
        }
        wrapped = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
            self._key,
            _associated_data(public, app, user),
            _from_base64(public["nonce"]),
            _wrapping_key(public, passphrase),
        )
        return _canonical(public | {"wrapped": _to_base64(wrapped)})

    def _authenticated(self, context: EntryContext) -> bytes:
        """Encode the context, each part after its length, so that no two contexts have the same encoding."""
        parts = [_ENTRY_LABEL, self._header, *(part.encode() for part in astuple(context))]
        return b"".join(struct.pack(">I", len(part)) + part for part in parts)


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
    """Return the cipher of an envelope; raises InvalidEnvelope for a wrong passphrase or an altered envelope."""
    try:
        public = _read_envelope(envelope)
        wrapped = _from_base64(public.pop("wrapped"))
        key = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
            wrapped,
            _associated_data(public, app, user),
            _from_base64(public["nonce"]),
            _wrapping_key(public, passphrase),
        )
    except CryptoError as error:
        raise InvalidEnvelope("the passphrase does not decrypt this account's master key") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidEnvelope("the server's envelope was not made by this SDK, or was altered") from error
    if len(key) != KEY_BYTES:
        raise InvalidEnvelope("the server's envelope was not made by this SDK, or was altered")
    return Cipher(key)


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
    return hash_secret_raw(
        secret=unicodedata.normalize("NFC", passphrase).encode(),  # keyboards differ in how they encode accents
        salt=_from_base64(public["salt"]),
        time_cost=public["passes"],
        memory_cost=public["memory_kib"],
        parallelism=public["lanes"],
        hash_len=KEY_BYTES,
        type=Type.ID,
    )


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
