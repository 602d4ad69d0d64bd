"""The form and signature of a token (RFC 7515, 8725), checked by PyJWT with the algorithms and keys of the settings.

    SharedKeys    HMAC, with keys that the issuer and this server share
    PublicKeys    RSA, elliptic curves and EdDSA, with public keys of an identity provider

In: a bearer token. Out: its header and claims, which `tokens.py` checks; anything wrong raises InvalidToken. The
algorithm that a token names never decides anything: the two families are never mixed, and each public key is used only
with the algorithms that fit it.

A device sends the same token with many requests. A signature that was right stays right, so it is checked once; the
claims, the expiry and the revocation are checked every time, and so is whether the key is still one of the keys.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

import jwt
from jwt.algorithms import HMACAlgorithm
from jwt.utils import base64url_decode

from .errors import ConfigurationError, InvalidToken

_HMAC = {
    "HS256": (HMACAlgorithm.SHA256, 32),
    "HS384": (HMACAlgorithm.SHA384, 48),
    "HS512": (HMACAlgorithm.SHA512, 64),
}
"""The hash and the minimum key length in bytes of each algorithm (RFC 7518 section 3.2)."""

PUBLIC_KEY_ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)

MIN_VERIFIED, MAX_VERIFIED = 8_192, 120_000
"""How many verified tokens an application remembers in a process; its stream limit decides. 120,000 take 4 MiB."""

_DIGEST_BYTES = 32
_PARTS = 1024
"""Of the table of verified tokens. Each has up to 118 digests, in which a search takes a microsecond."""

_JWS = jwt.PyJWS()
"""Only for what it decodes: each family verifies signatures with its own algorithms."""

Header = Mapping[str, Any]
Claims = dict[str, Any]
KeyRing = Mapping[str | None, bytes]
"""Keys by `kid`; None holds the key for tokens without a `kid`, or with one that is not listed."""


class Signatures(Protocol):
    """Checks the form and signature of tokens, which are ASCII and of limited length. Any thread may use it."""

    def open(self, token: str) -> tuple[Header, Claims]:
        """Return the header and the claims; raises InvalidToken."""

    def check(self) -> None:
        """Raise KeysUnavailable if there are no keys to check tokens with."""

    def describe(self) -> str:
        """Return the algorithms and where the keys come from, without any secret."""


class VerificationKey(Protocol):
    """A public key. Two of the same fingerprint are the same key, also after another fetch."""

    @property
    def key(self) -> Any: ...

    @property
    def fingerprint(self) -> bytes: ...


class KeySource(Protocol):
    """Where public keys come from: a setting, or the key set of an identity provider."""

    def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """Return the public key to use, None if there is none for this algorithm; raises KeysUnavailable."""

    def check(self) -> None:
        """Raise KeysUnavailable if there are none yet."""

    def describe(self) -> str:
        """Return where they come from."""


class VerifiedTokens:
    """The tokens whose signature was right, each with the key that it was checked with. Any thread may use it.

    It keeps digests of 32 bytes and no tokens, twice as many as streams may be open: a device gets a new token now and
    then. Only a token with a right signature is added, so nobody without a key can fill it. The digests lie in parts,
    one after the other; a part that is full forgets its oldest. So it needs no lock, and 40 bytes for a token.
    """

    def __init__(self, max_streams: int | None = None) -> None:
        tokens = min(max(2 * max_streams, MIN_VERIFIED), MAX_VERIFIED) if max_streams else MAX_VERIFIED
        self._bytes_of_part = -(-tokens // _PARTS) * _DIGEST_BYTES
        self._parts = [b""] * _PARTS

    def remember(self, token: str, key: bytes = b"") -> None:
        """Remember a token with a right signature; `key` is the fingerprint of its key where keys may change."""
        digest, part = _place(token, key)
        self._parts[part] = (self._parts[part] + digest)[-self._bytes_of_part :]

    def includes(self, token: str, key: bytes = b"") -> bool:
        """Return whether this token was remembered with this key."""
        digest, part = _place(token, key)
        return digest in self._parts[part]


class SharedKeys:
    """Checks HMAC tokens against one key ring. Immutable.

    Raises ConfigurationError for keys or algorithms that cannot work.
    """

    def __init__(self, keys: KeyRing, algorithms: tuple[str, ...], *, max_streams: int | None = None) -> None:
        self._keys = keys
        self._verified = VerifiedTokens(max_streams)
        self._algorithms = {name: _PreparedHMAC(_hash_of(name, keys)) for name in algorithms}

    def open(self, token: str) -> tuple[Header, Claims]:
        """Return the header and the claims; raises InvalidToken."""
        if self._verified.includes(token):  # with these keys, which never change
            return _verified_contents(token)
        header, claims, signature = _unverified_contents(token)
        algorithm = self._algorithms.get(_algorithm_name(header))
        key = self._keys.get(header.get("kid")) or self._keys.get(None)
        if algorithm is None or key is None or not algorithm.verify(_signed_part(token), key, signature):
            raise InvalidToken("the token is not valid")
        self._verified.remember(token)
        return header, claims

    def check(self) -> None:
        """Do nothing: the keys are in the settings."""

    def describe(self) -> str:
        """Return the algorithms and the names of the keys."""
        kids = ", ".join(repr(kid) for kid in self._keys if kid is not None)
        keys = ("one key without kid" if None in self._keys else "", f"keys {kids}" if kids else "")
        return ", ".join(filter(None, (*self._algorithms, *keys)))


class PublicKeys:
    """Checks tokens of an identity provider with its public keys. Immutable; the source of the keys may change.

    A malformed token is refused before any key is looked up, so it causes no fetch. Raises ConfigurationError for
    algorithms that are not of this family.
    """

    def __init__(self, source: KeySource, algorithms: tuple[str, ...], *, max_streams: int | None = None) -> None:
        for name in algorithms:
            if name not in PUBLIC_KEY_ALGORITHMS:
                raise ConfigurationError(
                    f"SYNCKIT_JWT_ALGORITHMS: {name!r} is not supported with public keys; "
                    f"choose from {', '.join(PUBLIC_KEY_ALGORITHMS)}"
                )
        self._source = source
        self._verified = VerifiedTokens(max_streams)
        self._algorithms = {name: _JWS.get_algorithm_by_name(name) for name in algorithms}

    def check(self) -> None:
        """Raise KeysUnavailable if the source has no keys yet; may wait for a fetch, 5 s at most."""
        self._source.check()

    def describe(self) -> str:
        """Return the algorithms and where the keys come from."""
        return f"{', '.join(self._algorithms)}, {self._source.describe()}"

    def open(self, token: str) -> tuple[Header, Claims]:
        """Return the header and the claims; raises InvalidToken, or KeysUnavailable for a well-formed token."""
        header, claims, signature = _unverified_contents(token)
        name = _algorithm_name(header)
        algorithm = self._algorithms.get(name)
        found = None if algorithm is None else self._source.find(header.get("kid"), name)
        if algorithm is None or found is None:
            raise InvalidToken("the token is not valid")
        if not self._verified.includes(token, found.fingerprint):
            if not algorithm.verify(_signed_part(token), found.key, signature):
                raise InvalidToken("the token is not valid")
            self._verified.remember(token, found.fingerprint)
        return header, claims


class _PreparedHMAC(HMACAlgorithm):
    """HMAC whose key is checked when the service starts and not for every token, and computed in one call to OpenSSL.

    A connect takes 1,745,000 instructions instead of 1,834,000, 5 % fewer (`python -m benchmarks.instructions`, CPython
    3.11, PyJWT 2.15); a request with a token saves as many.
    """

    def prepare_key(self, key: str | bytes) -> bytes:
        if not isinstance(key, bytes):
            raise TypeError("an HMAC key must be bytes")
        return key

    def check_key_length(self, key: bytes) -> None:
        """Do nothing: `_hash_of` has checked the length."""

    def sign(self, msg: bytes, key: bytes) -> bytes:
        return hmac.digest(key, msg, self.hash_alg)


def _hash_of(name: str, keys: KeyRing) -> Any:
    if name in PUBLIC_KEY_ALGORITHMS:
        raise ConfigurationError(
            f"SYNCKIT_JWT_ALGORITHMS: {name} needs a public key: set SYNCKIT_JWT_PUBLIC_KEY or SYNCKIT_JWT_JWKS_URL "
            "instead of SYNCKIT_JWT_KEY"
        )
    if name not in _HMAC:
        raise ConfigurationError(f"SYNCKIT_JWT_ALGORITHMS: {name!r} is not supported; choose from {', '.join(_HMAC)}")
    make_hash, shortest = _HMAC[name]
    for key in keys.values():
        if len(key) < shortest:
            raise ConfigurationError(
                f"SYNCKIT_JWT_KEY: a key for {name} must have at least {shortest} bytes, this one has {len(key)}; "
                "make one with: python3 -c 'import secrets; print(secrets.token_hex(32))'"
            )
        _refuse_public_key(key)
    return make_hash


def _refuse_public_key(key: bytes) -> None:
    """Refuse a public key as HMAC secret: everybody could sign with it (RFC 8725 section 2.1)."""
    try:
        HMACAlgorithm(hashlib.sha256).prepare_key(key)
    except jwt.InvalidKeyError as error:
        raise ConfigurationError(f"SYNCKIT_JWT_KEY: {error}") from error


def _unverified_contents(token: str) -> tuple[Header, Claims, bytes]:
    """Return the header, the claims and the signature of a well-formed token; raises InvalidToken."""
    try:
        decoded = _JWS.decode_complete(token, options={"verify_signature": False})
        header, claims = decoded["header"], _object(decoded["payload"])
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise InvalidToken("the token is not valid") from error
    if not isinstance(header.get("kid", ""), str):  # PyJWT before 2.11 lets it pass
        raise InvalidToken("the token is not valid")
    return header, claims, decoded["signature"]


def _verified_contents(token: str) -> tuple[Header, Claims]:
    """Return the header and the claims of a token that was verified, as `_unverified_contents` did then."""
    header, _, payload = _signed_part(token).partition(b".")
    try:
        return _header(header), _object(base64url_decode(payload))
    except RecursionError as error:  # the stack is deeper than it was then
        raise InvalidToken("the token is not valid") from error


@lru_cache(maxsize=64)
def _header(segment: bytes) -> Header:
    """Return the header of a verified token. An issuer sends the same one with many tokens, so nobody may change it."""
    return MappingProxyType(_object(base64url_decode(segment)))


def _signed_part(token: str) -> bytes:
    return token.rpartition(".")[0].encode()


def _algorithm_name(header: Header) -> str:
    name = header.get("alg")
    return name if isinstance(name, str) else ""


def _place(token: str, key: bytes) -> tuple[bytes, int]:
    """Return the digest of a token with its key, and the part of a table that it belongs to."""
    digest = hashlib.sha256(key + token.encode()).digest()
    return digest, int.from_bytes(digest[:2], "big") % _PARTS


def _object(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise InvalidToken("the token is not valid")
    return value
