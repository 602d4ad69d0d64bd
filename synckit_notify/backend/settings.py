"""The SYNCKIT_* keys of the backend in, one frozen value out, everything checked once at start.

In: the SYNCKIT_* keys of the configuration and the environment (`settings.with_environment`), in development completed
with a key (development.py). The keys of the extension are checked by the extension. Every error is a ConfigurationError
whose sentence names the key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from limits import RateLimitItem, parse_many
from sqlalchemy import URL, make_url

from .. import ConfigurationError
from ..settings import (
    broker_namespace,
    broker_url,
    cors_origins,
    default_namespace,
    jwt_algorithms,
    jwt_audiences,
    jwt_keys,
    local_url,
)
from .access_tokens import Signer

DEFAULT_LOGIN_LIMIT = "10/minute; 100/hour"
OFF = "off"
FOR_OTHER_BACKENDS = (
    "SYNCKIT_JWT_PUBLIC_KEY",
    "SYNCKIT_JWT_JWKS_URL",
    "SYNCKIT_JWT_APP_CLAIM",
    "SYNCKIT_JWT_DEFAULT_APP",
)
"""With these the Notifier would refuse the tokens that the included server signs."""

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """What the backend's configuration says."""

    is_production: bool
    url_prefix: str
    database_url: str | None
    """None for the default, a SQLite file in the instance folder."""
    signer: Signer
    login_limits: Sequence[RateLimitItem]
    """How many attempts of one address or account may fail; none if the limit is off."""
    redis_url: str | None
    """Where failed attempts are counted for all processes together."""
    broker_namespace: str
    proxies: int
    """How many proxies are trusted to set X-Forwarded-For."""
    cors_origins: frozenset[str]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "BackendSettings":
        """Check the configuration; raises ConfigurationError."""
        broker = broker_url(config)
        return cls(
            is_production=is_production(config),
            url_prefix=config.get("SYNCKIT_URL_PREFIX") or "/api/sync",
            database_url=config.get("SYNCKIT_DATABASE_URL") or None,
            signer=_signer(config),
            login_limits=_login_limits(config),
            redis_url=broker if broker is not None and broker.startswith(REDIS_SCHEMES) else None,
            broker_namespace=broker_namespace(config) or "synckit",
            proxies=_proxies(config),
            cors_origins=cors_origins(config),
        )


def is_production(config: Mapping[str, Any]) -> bool:
    """Return what SYNCKIT_ENV says; raises ConfigurationError."""
    environment = config.get("SYNCKIT_ENV") or "development"
    if environment not in ("development", "production"):
        raise ConfigurationError(f"SYNCKIT_ENV: {environment!r} must be development or production")
    return bool(environment == "production")


def _signer(config: Mapping[str, Any]) -> Signer:
    """Return what signs with the first of the configured algorithms and keys."""
    for name in FOR_OTHER_BACKENDS:
        if config.get(name):
            raise ConfigurationError(
                f"{name} is for your own backend: the included server signs its tokens itself, so leave it out"
            )
    keys = jwt_keys(config)
    if not keys:
        raise ConfigurationError(
            "SYNCKIT_JWT_KEY is not set: in production the service needs a key; make one with: "
            "python3 -c 'import secrets; print(secrets.token_hex(32))'"
        )
    kid = None if None in keys else next(iter(keys))
    return Signer(
        algorithm=jwt_algorithms(config)[0],
        key=keys[kid],
        kid=kid,
        issuer=config.get("SYNCKIT_JWT_ISSUER") or None,
        audience=next(iter(jwt_audiences(config)), None),
    )


def _login_limits(config: Mapping[str, Any]) -> Sequence[RateLimitItem]:
    text = str(config.get("SYNCKIT_LOGIN_LIMIT") or DEFAULT_LOGIN_LIMIT).strip()
    if text.lower() == OFF:
        return ()
    try:
        return parse_many(text)
    except ValueError as error:
        raise ConfigurationError(
            f"SYNCKIT_LOGIN_LIMIT: {text!r} must say how many attempts may fail in what time, like "
            f"{DEFAULT_LOGIN_LIMIT}, or {OFF}"
        ) from error


def _proxies(config: Mapping[str, Any]) -> int:
    value = str(config.get("SYNCKIT_PROXIES") or "0")
    if not (value.isascii() and value.isdecimal()):
        raise ConfigurationError(f"SYNCKIT_PROXIES: {value!r} must be the number of proxies, 0 or more")
    return int(value)


def broker_defaults(config: Mapping[str, Any], database_url: str) -> dict[str, str]:
    """Return the settings of the broker that are not set: by default it is local to the machine of a SQLite file.

    The processes of one database hear each other. `database_url` is a URL as SQLAlchemy reads it.
    """
    url = make_url(database_url)
    defaults: dict[str, str] = {}
    broker = broker_url(config)
    if broker is None:
        broker = defaults["SYNCKIT_BROKER_URL"] = default_broker_url(database_url)
    if broker_namespace(config) is None:
        file = _sqlite_file(url)
        service = url.set(username=None, password=None, database=str(file) if file else url.database)
        defaults["SYNCKIT_BROKER_NAMESPACE"] = default_namespace(broker, service.render_as_string())
    return defaults


def default_broker_url(database_url: str) -> str:
    """Return the URL of the broker for a database: PostgreSQL itself, or sockets in a folder beside a SQLite file.

    Every parameter goes into the query: SQLAlchemy writes several hosts in a way that libpq does not read.
    """
    url = make_url(database_url)
    if url.get_backend_name() in ("postgresql", "postgres"):
        dialect = url.set(drivername="postgresql+psycopg").get_dialect()()
        options = {name: str(value) for name, value in dialect.create_connect_args(url)[1].items() if name != "context"}
        return f"postgresql:///?{urlencode(options, quote_via=quote)}"
    file = _sqlite_file(url)
    return "local://" if file is None else local_url(file.with_name(f"{file.name}-sockets"))


def _sqlite_file(url: URL) -> Path | None:
    """Return the file of a database, None if it is none of SQLite's or in memory."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).absolute()
