"""Public keys and the algorithms that fit them. No I/O.

PyJWT builds the keys. Which algorithms fit is decided here from the key's type and curve, and from its own `alg` if it
has one: the algorithm that a token names is only looked up in this list (RFC 8725, section 3.1).
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from typing import Any

import jwt

MIN_RSA_BITS = 2048
"""RFC 7518, sections 3.3 and 3.5."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class UnusableKey(ValueError):
    """A key that cannot verify tokens; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of `cryptography`, the algorithms that may use it, and its SHA-256 digest."""

    key: Any
    algorithms: frozenset[str]
    fingerprint: bytes

    @classmethod
    def from_pem(cls, pem: str | bytes) -> "PublicKey":
        """Return the key of a PEM text that begins with `-----BEGIN PUBLIC KEY-----`; raises UnusableKey."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UnusableKey("it is not a public key in PEM form") from error
        return cls(key, _fitting(key), _fingerprint(key))

    def check(self) -> None:
        """Do nothing: the key is in the settings."""

    def describe(self) -> str:
        """Return that there is one key."""
        return "one public key"

    def find(self, kid: str | None, algorithm: str) -> "PublicKey | None":
        """Return the key if the algorithm fits it. A key of the settings has no `kid`: that of the token is ignored."""
        return self if algorithm in self.algorithms else None


@dataclass(frozen=True, slots=True)
class Keys:
    """The usable keys of one key set, by `kid`."""

    by_kid: dict[str | None, tuple[PublicKey, ...]]
    skipped: tuple[str, ...] = ()
    """Why other keys are not used, except keys that are not for signatures."""

    @classmethod
    def from_json(cls, text: bytes) -> "Keys":
        """Return the keys of a JWK set; raises UnusableKey for a text that is not one, or that has no usable key."""
        try:
            listed = json.loads(text)["keys"]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise UnusableKey("it must be a JSON object with the member keys") from error
        by_kid: dict[str | None, tuple[PublicKey, ...]] = {}
        skipped = []
        for jwk in listed if isinstance(listed, list) else ():
            if not isinstance(jwk, dict) or jwk.get("kty") == "oct" or jwk.get("use", "sig") == "enc":
                continue
            kid = jwk.get("kid") if isinstance(jwk.get("kid"), str) else None
            try:
                by_kid[kid] = (*by_kid.get(kid, ()), _from_jwk(jwk))
            except UnusableKey as error:
                skipped.append(f"kid {kid!r:.80}: {error}")
        if not by_kid:
            raise UnusableKey("; ".join(["it has no key that can verify tokens", *skipped])[:500])
        return cls(by_kid, tuple(skipped))

    def knows(self, kid: str | None) -> bool:
        """Return whether a key has this `kid`; True for None, since a token without one asks for no key by name."""
        return kid is None or kid in self.by_kid

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """Return the key to use. A token without a `kid` is checked only if exactly one key fits its algorithm."""
        named = [self.by_kid.get(kid, ())] if kid is not None else self.by_kid.values()
        fitting = [each for keys in named for each in keys if algorithm in each.algorithms]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None


def is_installed() -> bool:
    """Return whether `cryptography` is installed."""
    return importlib.util.find_spec("cryptography") is not None


def _from_jwk(jwk: dict[str, Any]) -> PublicKey:
    """Return one key of a set. Each is given to PyJWT alone: PyJWT 2.10 refuses a whole set that holds one odd key."""
    try:
        (parsed,) = jwt.PyJWKSet([jwk]).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        raise UnusableKey("PyJWT cannot read it") from error
    own = jwk.get("alg")
    algorithms = frozenset(name for name in _fitting(parsed.key) if own in (name, None))
    if not algorithms:
        raise UnusableKey("its alg does not fit its type")
    return PublicKey(parsed.key, algorithms, _fingerprint(parsed.key))


def _fingerprint(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def _fitting(key: object) -> frozenset[str]:
    """Return the algorithms that fit the type of a key; raises UnusableKey."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise UnusableKey(f"an RSA key must have at least {MIN_RSA_BITS} bits, this one has {key.key_size}")
        return _RSA
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset({_CURVES[key.curve.name]})
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({"EdDSA"})
    raise UnusableKey("it must be a public RSA, P-256, P-384, P-521, Ed25519 or Ed448 key")
