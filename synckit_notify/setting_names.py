"""Every SYNCKIT_* name that some part of this project reads, and the nearest of them for a name that none reads."""

from collections.abc import Iterable
from difflib import SequenceMatcher

PREFIX = "SYNCKIT_"

NOTIFIER = frozenset(
    {
        "SYNCKIT_JWT_KEY",
        "SYNCKIT_JWT_KEYS",
        "SYNCKIT_JWT_ALGORITHMS",
        "SYNCKIT_JWT_ISSUER",
        "SYNCKIT_JWT_AUDIENCE",
        "SYNCKIT_JWT_PUBLIC_KEY",
        "SYNCKIT_JWT_JWKS_URL",
        "SYNCKIT_JWT_APP_CLAIM",
        "SYNCKIT_JWT_DEFAULT_APP",
        "SYNCKIT_URL_PREFIX",
        "SYNCKIT_KEEPALIVE_SECONDS",
        "SYNCKIT_MAX_STREAMS",
        "SYNCKIT_MAX_STREAMS_PER_CHANNEL",
        "SYNCKIT_MAX_STREAM_SECONDS",
        "SYNCKIT_BROKER_URL",
        "SYNCKIT_BROKER_NAMESPACE",
        "SYNCKIT_SWEEP_SECONDS",
        "SYNCKIT_CORS_ORIGINS",
        "SYNCKIT_METRICS",
        "SYNCKIT_PARKING",
    }
)
"""Read by `Notifier.init_app`; docs/mounting.md describes them."""

INCLUDED_SERVER = frozenset(
    {
        "SYNCKIT_ENV",
        "SYNCKIT_DATABASE_URL",
        "SYNCKIT_LOGIN_LIMIT",
        "SYNCKIT_PROXIES",
        "SYNCKIT_BIND",
        "SYNCKIT_WORKERS",
        "SYNCKIT_WORKER_CONNECTIONS",
    }
)
"""Read by the backend and by gunicorn.conf.py only; docs/deployment.md describes them."""

COMMAND = frozenset(
    {
        "SYNCKIT_URL",
        "SYNCKIT_API_KEY",
        "SYNCKIT_EMAIL",
        "SYNCKIT_PASSWORD",
        "SYNCKIT_PASSPHRASE",
        "SYNCKIT_TOKEN",
    }
)
"""Read by the command `synckit`; docs/sdk.md describes them."""

KNOWN = NOTIFIER | INCLUDED_SERVER | COMMAND


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Return the SYNCKIT_* names that nobody reads, each with the known name that is most similar.

    Kubernetes describes each service to all pods of its namespace, for a service `synckit` as SYNCKIT_SERVICE_HOST,
    SYNCKIT_PORT_80_TCP and more. These names are left out.
    """
    found = sorted(name for name in names if name.startswith(PREFIX))
    services = [name.removesuffix("SERVICE_HOST") for name in found if name.endswith("_SERVICE_HOST")]
    of_kubernetes = tuple(f"{service}{word}" for service in services for word in ("SERVICE_", "PORT"))
    return {name: _nearest(name) for name in found if name not in KNOWN and not name.startswith(of_kubernetes)}


def _nearest(name: str) -> str:
    compared = SequenceMatcher(b=name.removeprefix(PREFIX))

    def similarity(known: str) -> float:
        compared.set_seq1(known.removeprefix(PREFIX))
        return compared.ratio()

    return max([*sorted(KNOWN - COMMAND), *sorted(COMMAND)], key=similarity)  # the first of several
