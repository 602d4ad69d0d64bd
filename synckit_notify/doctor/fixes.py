"""Which proxies show themselves in an answer, and the line of each that lets an event stream through.

Headers in, names out, the outermost first. A remedy maps a place to the lines to write there. Those against buffering,
compression and impatience were applied to nginx, HAProxy and Caddy, by the tests to the first two; those for services
come from their documents.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Remedy = Mapping[str, tuple[str, ...]]

SIGNS = (
    ("Cloudflare", ("cf-ray", "server"), "cloudflare"),
    ("AWS ALB", ("server",), "awselb"),
    ("nginx", ("server",), "nginx"),
    ("nginx", ("server",), "openresty"),
    ("Caddy", ("server", "via"), "caddy"),
    ("gunicorn", ("server",), "gunicorn"),
)
"""A name, where it shows, and by which word; `cf-ray` betrays by being there."""

ALWAYS_SHOWN = frozenset({"Cloudflare"})
"""Nothing in front of it can hide it, so its lines are no use where it was not seen."""

SHORTEST_PROXY_TIMEOUT = 75
"""Seconds; two and a half of the usual keepalives, so that one may be lost."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line to write, and where."""

    where: str
    line: str


def standing_there(headers: Mapping[str, str], version: str = "HTTP/1.1") -> tuple[str, ...]:
    """Return who had a hand in an answer, as far as its headers tell; their names are in lower case.

    HAProxy says nothing of itself, but takes away the `Connection` that gunicorn writes into each HTTP/1.1 answer.
    """
    found = [
        name
        for name, places, word in SIGNS
        if any(word in headers.get(place, "").lower() or (place == "cf-ray" and place in headers) for place in places)
    ]
    if found == ["gunicorn"] and version == "HTTP/1.1" and "connection" not in headers:
        found.insert(0, "HAProxy")
    return tuple(dict.fromkeys(found))


def changes(remedy: Remedy, seen: Iterable[str] = ()) -> tuple[Change, ...]:
    """Return the lines of a remedy, those for the proxies that were seen first."""
    seen = tuple(seen)
    places = [place for place in seen if place in remedy]
    places += [place for place in remedy if place not in seen and place not in ALWAYS_SHOWN]
    return tuple(Change(place, line) for place in places for line in remedy[place])


def unbuffered(path: str) -> Remedy:
    """Bytes are handed on as they come."""
    return {
        "nginx": (f"proxy_buffering off;  # in location {path}",),
        "Caddy": ("flush_interval -1  # in reverse_proxy { … }",),
        "Cloudflare": ("# a named tunnel: quick ones (cloudflared tunnel --url) hold a GET back",),
        "gunicorn": ("# no middleware that collects or compresses bodies around the application",),
        "here": ("# no antivirus or company proxy that looks into this host's traffic: some hold streams",),
    }


def no_delay() -> Remedy:
    """Small writes are not kept waiting for larger ones."""
    return {"HAProxy": ("option http-no-delay  # in frontend and backend",)}


def uncompressed(path: str) -> Remedy:
    """The stream is left as it is."""
    return {
        "nginx": (f"gzip off;  # in location {path}",),
        "HAProxy": ("compression type text/html text/css application/json  # no text/event-stream",),
        "Caddy": (f"@compressed not path {path}", "encode @compressed gzip"),
        "Cloudflare": (f"# a Compression Rule for {path}: disable compression",),
    }


def longer_timeouts(path: str, keepalive: float, silence: float) -> Remedy:
    """A silent stream is left alone for longer than its keepalive takes; it was cut after this much silence."""
    seconds = max(SHORTEST_PROXY_TIMEOUT, math.ceil(2.5 * keepalive))
    return {
        "nginx": (f"proxy_read_timeout {seconds}s;  # in location {path}",),
        "HAProxy": (f"timeout client {seconds}s  # in the frontend", f"timeout server {seconds}s  # in the backend"),
        "Caddy": (f"read_timeout {seconds}s  # in reverse_proxy's transport http, where it is set",),
        "AWS ALB": (f"idle_timeout.timeout_seconds = {seconds}  # an attribute of the load balancer",),
        "Cloudflare": ("# its limit is fixed (about 100 s), so take the server's line",),
        "setting": (f"SYNCKIT_KEEPALIVE_SECONDS={silence / 2:.3g}  # instead, where the proxy is not yours",),
    }


def chunked(path: str) -> Remedy:
    """A good end can be told from a cut."""
    return {"nginx": (f"proxy_http_version 1.1;  # in location {path}", 'proxy_set_header Connection "";')}


def no_kill() -> Remedy:
    """Nothing ends a stream that is alive."""
    return {
        "gunicorn": ('worker_class = "gevent"  # others are killed by their timeout: WORKER TIMEOUT in the log',),
        "nginx": ("# without worker_shutdown_timeout, which cuts streams at each reload",),
    }


def routed(prefix: str) -> Remedy:
    """Requests reach the server, with their path unchanged."""
    return {
        "nginx": (f"location {prefix}/ {{ proxy_pass http://127.0.0.1:8000; }}  # no slash after the port",),
        "HAProxy": (f"use_backend app if {{ path_beg {prefix}/ }}",),
        "Caddy": (f"reverse_proxy {prefix}/* 127.0.0.1:8000",),
        "setting": (f"SYNCKIT_URL_PREFIX={prefix}",),
    }


def untouched(header: str, path: str) -> Remedy:
    """A header of the server's arrives."""
    return {
        "nginx": (f"# no proxy_hide_header, add_header {header} or expires in location {path}",),
        "HAProxy": (f"# no http-response set-header or del-header {header}",),
        "Caddy": (f"# no header {header} or header_down {header}",),
        "Cloudflare": (f"# no rule that changes {header}",),
    }


def no_auth(path: str) -> Remedy:
    """No proxy asks for a log-in of its own."""
    return {
        "nginx": (f"auth_basic off;  # in location {path}, and no auth_request",),
        "HAProxy": (f"http-request auth unless {{ path_beg {path} }}",),
        "Caddy": (f"@people not path {path}", "basic_auth @people { … }"),
        "Cloudflare": (f"# a rule that skips Access, bots and WAF for {path}",),
    }


def answering() -> Remedy:
    """The application runs where its proxy looks for it."""
    return {
        "nginx": ("proxy_pass http://127.0.0.1:8000;  # must be where gunicorn listens",),
        "HAProxy": ("server app 127.0.0.1:8000 check  # must be where gunicorn listens",),
        "Caddy": ("reverse_proxy 127.0.0.1:8000  # must be where gunicorn listens",),
        "gunicorn": ('bind = "127.0.0.1:8000"',),
    }


def more_connections() -> Remedy:
    """There are seats for more streams."""
    return {"gunicorn": ("worker_connections = 20000",), "setting": ("SYNCKIT_WORKER_CONNECTIONS=20000",)}
