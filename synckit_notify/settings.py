"""The settings: the SYNCKIT_* keys of a configuration in, one frozen value out, checked once at start.

    app.config, os.environ ──▶ with_environment ──▶ one dict ──▶ Settings.read

Values may be strings, since they often come from the environment. A wrong value raises ConfigurationError with the
name of its key; a name that nobody reads is a warning.
"""

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import brokers, provider_keys
from .brokers import default_namespace as default_namespace
from .brokers import local_url as local_url
from .errors import ConfigurationError
from .runtime.logs import log
from .setting_names import PREFIX, misspelt
from .signatures import KeyRing, KeySource, PublicKeys, SharedKeys, Signatures
from .tokens import TokenVerifier

MAX_SECONDS = 366 * 24 * 3600.0

_ODD_ENDS = "\"'`\ufeff\u201c\u201d\u2018\u2019"
"""Quotation marks and the byte order mark."""

_ORIGIN = re.compile(r"(([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\]))(:[1-9][0-9]{0,4})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one application, in the units of the names; None means no limit or no check."""

    verifier: TokenVerifier | None
    url_prefix: str
    keepalive_seconds: float
    max_streams: int | None
    max_streams_per_channel: int
    max_stream_seconds: float | None
    broker_url: str | None
    broker_namespace: str | None
    sweep_seconds: float
    metrics: bool
    parking: bool
    cors_origins: frozenset[str]

    @classmethod
    def read(cls, config: Mapping[str, Any], *, own_tokens: bool) -> "Settings":
        """Return the checked settings; with `own_tokens` the host authenticates and no key is needed."""
        _warn_of_unknown_names(config)
        return cls(
            verifier=None if own_tokens else _verifier(config),
            url_prefix=_url_prefix(config),
            keepalive_seconds=_seconds(config, "SYNCKIT_KEEPALIVE_SECONDS") or 30.0,
            max_streams=_count(config, "SYNCKIT_MAX_STREAMS"),
            max_streams_per_channel=_count(config, "SYNCKIT_MAX_STREAMS_PER_CHANNEL") or 100,
            max_stream_seconds=_seconds(config, "SYNCKIT_MAX_STREAM_SECONDS"),
            broker_url=broker_url(config),
            broker_namespace=broker_namespace(config),
            sweep_seconds=_seconds(config, "SYNCKIT_SWEEP_SECONDS") or 3.0,
            metrics=_metrics(config),
            parking=_switch(config, "SYNCKIT_PARKING"),
            cors_origins=cors_origins(config),
        )


def with_environment(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all SYNCKIT_* keys: those of `app.config`, and from the environment those that `app.config` does not have.

    A key in `app.config` takes precedence even if its value is None or empty, which means not set. Values of the
    environment lose the white space at their ends, which files often add; a signing key keeps it and is warned about.
    """
    texts = {name: text if name == "SYNCKIT_JWT_KEY" else text.strip() for name, text in os.environ.items()}
    return {name: value for name, value in (texts | dict(config)).items() if str(name).startswith(PREFIX)}


def jwt_keys(config: Mapping[str, Any]) -> KeyRing:
    """Return the keys of SYNCKIT_JWT_KEYS by `kid`, and that of SYNCKIT_JWT_KEY under None; empty if neither is set."""
    keys = _listed_keys(config.get("SYNCKIT_JWT_KEYS"))
    if config.get("SYNCKIT_JWT_KEY"):
        keys[None] = _key("SYNCKIT_JWT_KEY", config["SYNCKIT_JWT_KEY"])
    return keys


def jwt_algorithms(config: Mapping[str, Any], default: str = "HS256") -> tuple[str, ...]:
    """Return the accepted algorithms, the first of which a backend signs with."""
    return _names(config, "SYNCKIT_JWT_ALGORITHMS", "HS256") or (default,)


def jwt_audiences(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the accepted audiences, the first of which a backend puts into its tokens; none if it is not set."""
    return _names(config, "SYNCKIT_JWT_AUDIENCE", "https://api.example.org")


def cors_origins(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the origins of SYNCKIT_CORS_ORIGINS, written as browsers send them; empty if it is not set."""
    value = config.get("SYNCKIT_CORS_ORIGINS") or ()
    origins = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(origins, list | tuple | set | frozenset) or not all(isinstance(text, str) for text in origins):
        raise ConfigurationError("SYNCKIT_CORS_ORIGINS must be origins separated by commas or spaces")
    return frozenset(_origin(text) for text in origins)


def broker_url(config: Mapping[str, Any]) -> str | None:
    """Return the URL of the broker in the form that its engine reads; None for the default."""
    url = _text(config, "SYNCKIT_BROKER_URL")
    return None if url is None else brokers.check_url(url)


def broker_namespace(config: Mapping[str, Any]) -> str | None:
    """Return the prefix of every name that we use in a broker; None for the default."""
    namespace = _text(config, "SYNCKIT_BROKER_NAMESPACE")
    if namespace is not None and not namespace.isprintable():
        raise ConfigurationError(f"SYNCKIT_BROKER_NAMESPACE must be printable, not {namespace!r}")
    return namespace


def _warn_of_unknown_names(config: Mapping[str, Any]) -> None:
    for name, nearest in misspelt(config).items():
        log.warning("%s is not a known setting and is ignored; did you mean %s?", name, nearest)


def _origin(text: str) -> str:
    if text == "*":
        raise ConfigurationError(
            "SYNCKIT_CORS_ORIGINS must not be '*', since tokens are sent in a header: list your origins"
        )
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ConfigurationError(
            f"SYNCKIT_CORS_ORIGINS: {text!r} must be scheme://host or scheme://host:port, without a path or a slash "
            "at the end; write a host name with non-ASCII letters in its xn-- form"
        )
    origin, scheme, port = match.groups()
    return str(origin if port in (None, _DEFAULT_PORTS.get(scheme)) else origin + port)


def _verifier(config: Mapping[str, Any]) -> TokenVerifier:
    audiences, default_app = jwt_audiences(config), _text(config, "SYNCKIT_JWT_DEFAULT_APP")
    if default_app is not None and not audiences:
        raise ConfigurationError(
            "SYNCKIT_JWT_AUDIENCE must be set with SYNCKIT_JWT_DEFAULT_APP: otherwise a token that was issued for "
            "another service would be accepted"
        )
    return TokenVerifier(
        _signatures(config, audiences),
        issuer=_text(config, "SYNCKIT_JWT_ISSUER"),
        audiences=audiences,
        app_claim=_text(config, "SYNCKIT_JWT_APP_CLAIM") or "app",
        default_app=default_app,
    )


def _signatures(config: Mapping[str, Any], audiences: tuple[str, ...]) -> Signatures:
    """Return the check of signatures, with keys of one family."""
    names = ("SYNCKIT_JWT_PUBLIC_KEY", "SYNCKIT_JWT_JWKS_URL", "SYNCKIT_JWT_KEY", "SYNCKIT_JWT_KEYS")
    given = [name for name in names if config.get(name)]
    if len(given) > 1 and given != ["SYNCKIT_JWT_KEY", "SYNCKIT_JWT_KEYS"]:
        raise ConfigurationError(
            f"{' and '.join(given)} must not be set together: choose a public key, a URL of public keys, or shared keys"
        )
    if given and given[0] in names[:2]:
        return _public_keys(config, given[0], audiences)
    keys = jwt_keys(config)
    if not keys:
        raise ConfigurationError(
            "SYNCKIT_JWT_KEY must be set to the key that signs your tokens (at least 32 bytes); "
            "use SYNCKIT_JWT_KEYS for several keys, SYNCKIT_JWT_JWKS_URL for the tokens of an identity provider, "
            "or Notifier(authenticate=...) for a token check of your own"
        )
    _warn_of_odd_ends(keys)
    return SharedKeys(keys, jwt_algorithms(config), max_streams=_count(config, "SYNCKIT_MAX_STREAMS"))


def _public_keys(config: Mapping[str, Any], name: str, audiences: tuple[str, ...]) -> Signatures:
    if not provider_keys.is_installed():
        raise ConfigurationError(f"{name} needs cryptography: pip install 'synckit-notify[jwks]'")
    if not _text(config, "SYNCKIT_JWT_ISSUER"):
        raise ConfigurationError(f"SYNCKIT_JWT_ISSUER must be set with {name}: the iss of your provider's tokens")
    if not audiences and not _text(config, "SYNCKIT_JWT_APP_CLAIM"):
        raise ConfigurationError(
            f"SYNCKIT_JWT_AUDIENCE must be set with {name}: the aud of the tokens for your service; "
            "or set SYNCKIT_JWT_APP_CLAIM to the claim that names the app"
        )
    algorithms = jwt_algorithms(config, default="RS256")
    source = _key_set(config) if name == "SYNCKIT_JWT_JWKS_URL" else _public_key(config, algorithms)
    return PublicKeys(source, algorithms, max_streams=_count(config, "SYNCKIT_MAX_STREAMS"))


def _key_set(config: Mapping[str, Any]) -> KeySource:
    try:
        return provider_keys.KeySet(provider_keys.check_url(_text(config, "SYNCKIT_JWT_JWKS_URL") or ""))
    except ValueError as error:
        raise ConfigurationError(f"SYNCKIT_JWT_JWKS_URL: {error}") from None  # the error may hold the URL


def _public_key(config: Mapping[str, Any], algorithms: tuple[str, ...]) -> KeySource:
    value = config.get("SYNCKIT_JWT_PUBLIC_KEY")
    pem = value.decode(errors="replace") if isinstance(value, bytes) else value
    if not isinstance(pem, str):
        raise ConfigurationError("SYNCKIT_JWT_PUBLIC_KEY must be a string or bytes")
    try:
        key = provider_keys.PublicKey.from_pem(pem.replace("\\n", "\n"))  # many environment files hold one line
    except ValueError as error:
        raise ConfigurationError(
            f"SYNCKIT_JWT_PUBLIC_KEY: {error}; it must begin with -----BEGIN PUBLIC KEY----- (from a certificate: "
            "openssl x509 -in certificate.pem -pubkey -noout)"
        ) from None  # the value may be a private key
    unfit = [name for name in algorithms if name not in key.algorithms]
    if unfit:
        raise ConfigurationError(
            f"SYNCKIT_JWT_ALGORITHMS: {', '.join(unfit)} does not fit SYNCKIT_JWT_PUBLIC_KEY; "
            f"choose from {', '.join(sorted(key.algorithms))}"
        )
    return key


def _warn_of_odd_ends(keys: KeyRing) -> None:
    """Warn of a key that was copied with extra characters: it refuses every token, and nothing else says why."""
    for kid, key in keys.items():
        try:
            text = key.decode()
        except UnicodeDecodeError:  # random bytes
            continue
        if text != text.strip().strip(_ODD_ENDS):
            name = "SYNCKIT_JWT_KEY" if kid is None else f"SYNCKIT_JWT_KEYS, kid {kid!r}"
            log.warning(
                "%s: the key begins or ends with white space, a quotation mark or a byte order mark; remove it, "
                "unless your tokens are signed with exactly this key",
                name,
            )


def _listed_keys(value: Any) -> dict[str | None, bytes]:
    if not value:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigurationError('SYNCKIT_JWT_KEYS must be JSON like {"2026-11": "the key"}') from error
    if not isinstance(value, Mapping) or not all(isinstance(kid, str) for kid in value):
        raise ConfigurationError("SYNCKIT_JWT_KEYS must map each kid to a key")
    return {kid: _key("SYNCKIT_JWT_KEYS", key) for kid, key in value.items()}


def _key(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ConfigurationError(f"{name}: a key must be a string or bytes")


def _url_prefix(config: Mapping[str, Any]) -> str:
    prefix = _text(config, "SYNCKIT_URL_PREFIX") or "/api/sync"
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ConfigurationError(f"SYNCKIT_URL_PREFIX must begin with a slash and not end with one, not be {prefix!r}")
    return prefix


def _metrics(config: Mapping[str, Any]) -> bool:
    if not _switch(config, "SYNCKIT_METRICS"):
        return False
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError("SYNCKIT_METRICS needs prometheus-client: pip install 'synckit-notify[metrics]'")
    return True


def _switch(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    text = str(value).lower() if value is not None else ""
    if text not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise ConfigurationError(f"{name} must be 1 or 0, not {value!r}")
    return text in ("1", "true", "yes", "on")


def _names(config: Mapping[str, Any], name: str, example: str) -> tuple[str, ...]:
    """Return names that are separated by commas, or listed."""
    value = config.get(name) or ()
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) and each.strip() for each in names):
        raise ConfigurationError(f"{name} must be names separated by commas, for example {example}")
    return tuple(each.strip() for each in names)


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {type(value).__name__}")  # it may hold a password
    return value or None


def _seconds(config: Mapping[str, Any], name: str) -> float | None:
    value = config.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if isinstance(value, bool) or not 0 < seconds <= MAX_SECONDS:
        raise ConfigurationError(f"{name} must be a positive number of seconds, a year at most, not {value!r}")
    return seconds


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is None or value == "":
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if isinstance(value, bool | float) or count < 1:
        raise ConfigurationError(f"{name} must be a positive integer, not {value!r}")
    return count
