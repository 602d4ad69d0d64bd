"""Configuration lines that correct a problem of a stream, and which servers a response names.

In: response headers, paths, periods. Out: server names, and `Change` values. Every line here is proved by
tests/doctor/test_doctor.py, which applies it to a real nginx, HAProxy or gunicorn and runs the doctor again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SERVER_SIGNS = (
    ("nginx", ("server",), "nginx"),
    ("nginx", ("server",), "openresty"),
    ("Caddy", ("server", "via"), "caddy"),
    ("gunicorn", ("server",), "gunicorn"),
)
"""The name of a server, the headers that may show it, and the lower-case word to look for."""

MIN_PROXY_TIMEOUT_SECONDS = 75
"""Two and a half default keepalive periods, so that one keepalive may be lost."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line to write or to run, and where."""

    where: str
    line: str


def identify_servers(headers: Mapping[str, str], version: str = "HTTP/1.1") -> tuple[str, ...]:
    """Return the servers that a response passed through, as far as its headers show; header names are in lower case.

    HAProxy does not name itself, but it removes the `Connection` header of gunicorn's HTTP/1.1 responses.
    """
    found = [
        name for name, places, word in SERVER_SIGNS if any(word in headers.get(place, "").lower() for place in places)
    ]
    if found == ["gunicorn"] and version == "HTTP/1.1" and "connection" not in headers:
        found.insert(0, "HAProxy")
    return tuple(dict.fromkeys(found))


def identified_first(changes: Iterable[Change], servers: Iterable[str]) -> tuple[Change, ...]:
    """Return the changes with those for the given servers first."""
    servers = tuple(servers)
    return tuple(sorted(changes, key=lambda change: change.where not in servers))


def no_buffering(path: str) -> tuple[Change, ...]:
    """Make the proxy forward bytes as they arrive."""
    return (Change("nginx", f"proxy_buffering off;  # in location {path}"),)


def no_compression(path: str) -> tuple[Change, ...]:
    """Make the proxy forward the stream without compressing it."""
    return (Change("nginx", f"gzip off;  # in location {path}"),)


def no_delay() -> tuple[Change, ...]:
    """Make the proxy send small writes at once."""
    return (Change("HAProxy", "option http-no-delay  # in frontend and backend"),)


def longer_timeouts(path: str, keepalive: float, silence: float) -> tuple[Change, ...]:
    """Make the proxy's idle timeout longer than the keepalive period; it closed the stream after `silence` seconds."""
    seconds = max(MIN_PROXY_TIMEOUT_SECONDS, math.ceil(2.5 * keepalive))
    return (
        Change("nginx", f"proxy_read_timeout {seconds}s;  # in location {path}"),
        Change("HAProxy", f"timeout client {seconds}s  # in the frontend"),
        Change("HAProxy", f"timeout server {seconds}s  # in the backend"),
        Change("setting", f"SYNCKIT_KEEPALIVE_SECONDS={silence / 2:.3g}  # if you cannot configure the proxy"),
    )


def http1_only() -> tuple[Change, ...]:
    """Make gunicorn speak HTTP/1.1 only."""
    return (Change("gunicorn", 'http_protocols = "h1"'),)


def more_connections() -> tuple[Change, ...]:
    """Let each gunicorn worker accept more streams."""
    return (Change("gunicorn", "worker_connections = 20000"),)


def more_streams_per_channel() -> tuple[Change, ...]:
    """Let one user open more streams in one app."""
    return (Change("setting", "SYNCKIT_MAX_STREAMS_PER_CHANNEL=200"),)


def mounted_at(prefix: str) -> tuple[Change, ...]:
    """Mount the routes of the Notifier at this prefix."""
    return (Change("setting", f"SYNCKIT_URL_PREFIX={prefix}"),)
