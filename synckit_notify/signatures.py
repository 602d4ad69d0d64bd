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
from itertools import islice
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

MAX_VERIFIED = 32_768
"""About 4 MiB in a process."""

Header = dict[str, Any]
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


class KeySource(Protocol):
    """Where public keys come from: a setting, or the key set of an identity provider."""

    def find(self, kid: str | None, algorithm: str) -> object | None:
        """Return the public key to use, None if there is none for this algorithm; raises KeysUnavailable."""

    def check(self) -> None:
        """Raise KeysUnavailable if there are none yet."""

    def describe(self) -> str:
        """Return where they come from."""


class VerifiedTokens:
    """The tokens whose signature was right, each with what it was checked with. Any thread may use it.

    It keeps digests and no tokens: MAX_VERIFIED of them, and the oldest is forgotten first.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, object] = {}

    def remember(self, token: str, key: object) -> None:
        """Remember a token with a right signature."""
        for oldest in list(islice(self._keys, max(0, len(self._keys) - MAX_VERIFIED + 1))):
            self._keys.pop(oldest, None)
        self._keys[_digest(token)] = key

    def includes(self, token: str, key: object) -> bool:
        """Return whether this token was remembered with this key."""
        return self._keys.get(_digest(token), self) is key


class SharedKeys:
    """Checks HMAC tokens against one key ring. Immutable.

    Raises ConfigurationError for keys or algorithms that cannot work.
    """

    def __init__(self, keys: KeyRing, algorithms: tuple[str, ...]) -> None:
        self._keys = keys
        self._algorithms = algorithms
        self._verified = VerifiedTokens()
        self._jws = jwt.PyJWS(algorithms=[])
        for name in algorithms:
            self._jws.register_algorithm(name, _PreparedHMAC(_hash_of(name, keys)))

    def open(self, token: str) -> tuple[Header, Claims]:
        """Return the header and the claims; raises InvalidToken."""
        if self._verified.includes(token, self):  # its keys never change
            return _contents(token)
        try:
            decoded = self._jws.decode_complete(token, key=self._key_for(token), algorithms=self._algorithms)
            claims = _object(decoded["payload"])
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("the token is not valid") from error
        self._verified.remember(token, self)
        return decoded["header"], claims

    def check(self) -> None:
        """Do nothing: the keys are in the settings."""

    def describe(self) -> str:
        """Return the algorithms and the names of the keys."""
        kids = ", ".join(repr(kid) for kid in self._keys if kid is not None)
        keys = ("one key without kid" if None in self._keys else "", f"keys {kids}" if kids else "")
        return ", ".join(filter(None, (*self._algorithms, *keys)))

    def _key_for(self, token: str) -> bytes:
        if len(self._keys) == 1 and None in self._keys:
            return self._keys[None]
        kid = self._jws.get_unverified_header(token).get("kid")
        key = self._keys.get(kid) or self._keys.get(None)
        if key is None:
            raise InvalidToken("the token is not valid")
        return key


class PublicKeys:
    """Checks tokens of an identity provider with its public keys. Immutable; the source of the keys may change.

    A malformed token is refused before any key is looked up, so it causes no fetch. Raises ConfigurationError for
    algorithms that are not of this family.
    """

    def __init__(self, source: KeySource, algorithms: tuple[str, ...]) -> None:
        for name in algorithms:
            if name not in PUBLIC_KEY_ALGORITHMS:
                raise ConfigurationError(
                    f"SYNCKIT_JWT_ALGORITHMS: {name!r} is not supported with public keys; "
                    f"choose from {', '.join(PUBLIC_KEY_ALGORITHMS)}"
                )
        self._source = source
        self._verified = VerifiedTokens()
        self._jws = jwt.PyJWS(algorithms=algorithms)
        self._algorithms = {name: self._jws.get_algorithm_by_name(name) for name in algorithms}

    def check(self) -> None:
        """Raise KeysUnavailable if the source has no keys yet; may wait for a fetch, 5 s at most."""
        self._source.check()

    def describe(self) -> str:
        """Return the algorithms and where the keys come from."""
        return f"{', '.join(self._algorithms)}, {self._source.describe()}"

    def open(self, token: str) -> tuple[Header, Claims]:
        """Return the header and the claims; raises InvalidToken, or KeysUnavailable for a well-formed token."""
        try:
            decoded = self._jws.decode_complete(token, options={"verify_signature": False})
            header, claims = decoded["header"], _object(decoded["payload"])
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise InvalidToken("the token is not valid") from error
        name = header.get("alg")
        algorithm = self._algorithms.get(name) if isinstance(name, str) else None
        if algorithm is None:
            raise InvalidToken("the token is not valid")
        key = self._source.find(header.get("kid"), name)
        if key is not None and not self._verified.includes(token, key):
            if not algorithm.verify(token.rpartition(".")[0].encode(), key, decoded["signature"]):
                key = None
            else:
                self._verified.remember(token, key)
        if key is None:
            raise InvalidToken("the token is not valid")
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


def _contents(token: str) -> tuple[Header, Claims]:
    """Return the header and the claims of a token that was verified."""
    header, payload, _ = token.split(".")
    return _header(header), json.loads(base64url_decode(payload))


@lru_cache(maxsize=64)
def _header(segment: str) -> Header:
    """Return a token's header, for reading only; an issuer sends the same one with many tokens."""
    header: Header = json.loads(base64url_decode(segment))
    return header


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _object(payload: bytes) -> Claims:
    claims = json.loads(payload)
    if not isinstance(claims, dict):
        raise InvalidToken("the token is not valid")
    return claims
