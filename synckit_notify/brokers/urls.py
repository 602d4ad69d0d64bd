"""The URL of a broker, as hosting companies, Celery and Valkey write it: text in, the form that the engines read out.

Pure text: nothing is imported and nothing is opened. Each error says what to change. None repeats the user, the
password, the host, the port or the value of an option, since a password with special characters may be in any of them.
"""

import re
from collections.abc import Callable

from ..errors import ConfigurationError

REDIS = ("redis", "rediss", "unix")
"""The schemes that redis-py reads."""

_ENDS = " \t\r\n\"'`\ufeff\u201c\u201d\u2018\u2019"
"""What is copied along with a URL: white space, quotation marks, a byte order mark."""

_SAME_AS = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+tls": "rediss",
    "redis+ssl": "rediss",
    "valkey+tls": "rediss",
    "valkey+ssl": "rediss",
    "redis+socket": "unix",
    "redis+unix": "unix",
    "valkey+socket": "unix",
    "valkey+unix": "unix",
}
"""Names of schemes in Valkey, Celery's kombu and other libraries."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?")
_SENTINEL_OR_CLUSTER = re.compile(r".*\b(sentinel|cluster)s?")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:,;]*)(:(?P<port>[0-9]{1,5}))?")
_DATABASE = re.compile(r"/*[0-9]*/*")

_ADVICE = {
    "sentinel": (
        "SYNCKIT_BROKER_URL cannot be a list of sentinels: give the address of a proxy, or a host name, that always "
        "leads to the primary, such as redis://primary.example.org:6379"
    ),
    "cluster": (
        "SYNCKIT_BROKER_URL must name one node of the cluster, such as redis://node.example.org:6379: the nodes pass "
        "messages on to each other"
    ),
}


def normalize(text: str) -> str:
    """Return the URL in the form that the engines read; raises ConfigurationError."""
    scheme, separator, rest = text.strip(_ENDS).partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError("SYNCKIT_BROKER_URL must begin with a scheme and ://, such as redis://localhost:6379")
    if not rest.isprintable():
        raise ConfigurationError("SYNCKIT_BROKER_URL must be one line without control characters")
    if found := _SENTINEL_OR_CLUSTER.fullmatch(scheme):
        raise ConfigurationError(_ADVICE[found[1]])
    if _POSTGRESQL.fullmatch(scheme):
        return f"postgresql://{rest}"
    scheme = _SAME_AS.get(scheme, scheme)
    return f"{scheme}://{_redis(scheme, rest) if scheme in REDIS else rest}"


def refused_option(url: str, read: Callable[[str], object]) -> ConfigurationError | None:
    """Return the error that names the option that `read` refuses, or None if it accepts each of them alone."""
    scheme, query = url.partition("://")[0], url.partition("?")[2]
    for option in filter(None, query.split("&")):
        try:
            read(f"{scheme}://?{option}")
        except Exception:
            name = option.partition("=")[0]
            tls = "; write rediss:// for TLS" if scheme == "redis" and name.startswith(("ssl", "tls")) else ""
            return ConfigurationError(
                f"SYNCKIT_BROKER_URL: the option {name!r} does not exist for {scheme}:// or has a wrong value{tls}"
            )
    return None


def _redis(scheme: str, rest: str) -> str:
    """Return what follows the scheme, checked part by part, with the options as redis-py spells them.

    redis-py itself ignores a wrong path, a missing value and a fragment, and connects to another server.
    """
    place, mark, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    login, _, address = authority.rpartition("@")
    if set("# ") & set(rest) or set("[]") & set(login) or "@" in query or ("@" in path and scheme != "unix"):
        raise ConfigurationError(
            "SYNCKIT_BROKER_URL must have special characters percent-encoded, above all those of its password: "
            "@ is %40, / is %2F, # is %23, ? is %3F, [ is %5B, a space is %20"
        )
    if scheme == "unix":
        if address or not path:
            raise ConfigurationError(
                "SYNCKIT_BROKER_URL must have three slashes and a path, such as unix:///run/redis/redis.sock"
            )
    else:
        found = _ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found["port"] or 6379) < 65536:
            raise ConfigurationError(
                "SYNCKIT_BROKER_URL must have one host and a port from 1 to 65535; a password goes before the host, "
                "as in redis://:password@localhost:6379"
            )
        if not _DATABASE.fullmatch(path):
            raise ConfigurationError(
                "SYNCKIT_BROKER_URL may have only the number of a database after the host, "
                "such as redis://localhost:6379/0"
            )
    options = [_option(scheme, option) for option in query.split("&") if option]
    return f"{authority}{slash}{path}{mark}{'&'.join(options)}"


def _option(scheme: str, option: str) -> str:
    name, equals, value = option.partition("=")
    if not equals:
        raise ConfigurationError("SYNCKIT_BROKER_URL must have its options as name=value, separated by &")
    if name == "ssl_cert_reqs":  # Celery takes the names of Python's constants
        value = value.lower().removeprefix("ssl.").removeprefix("cert_")
        if value not in ("none", "optional", "required"):
            raise ConfigurationError("SYNCKIT_BROKER_URL: ssl_cert_reqs must be none, optional or required")
    if name == "virtual_host" and scheme == "unix":  # Celery's name
        name, value = "db", value.lstrip("/")
    return f"{name}={value}"
