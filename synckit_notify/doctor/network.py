"""The steps below HTTP: resolve the name, connect to each address, negotiate TLS; each returns an `Attempt`."""

import ipaddress
import math
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Self

import httpx2

from ..client.connection import normalize_url
from ..client.environment import make_ssl_context, proxy_for
from .health_checks import Attempt

MAX_ADDRESSES = 4
SUBSCRIBE, DEFAULT_PREFIX = "/subscribe", "/api/sync"


@dataclass(frozen=True, slots=True)
class Address:
    """The URL of a subscription, and the prefix of all routes beside it."""

    subscribe: httpx2.URL
    prefix: str

    @classmethod
    def read(cls, url: str) -> Self:
        """Parse the URL of a server, or that of a subscription if it has another prefix; raise ValueError."""
        try:
            base = normalize_url(url)
        except ValueError:
            raise ValueError("URL must look like https://sync.example.org, without user, query or fragment") from None
        whole = httpx2.URL(base)
        if not whole.path.endswith(SUBSCRIBE):
            whole = httpx2.URL(base + DEFAULT_PREFIX + SUBSCRIBE)
        return cls(whole, whole.path.removesuffix(SUBSCRIBE))

    @property
    def host(self) -> str:
        return self.subscribe.raw_host.decode("ascii")

    @property
    def secure(self) -> bool:
        return self.subscribe.scheme == "https"

    @property
    def port(self) -> int:
        return self.subscribe.port or (443 if self.secure else 80)

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address, or None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def local(self) -> bool:
        """Return whether the server is this machine."""
        return self.host == "localhost" or (self.ip is not None and self.ip.is_loopback)

    @property
    def proxy(self) -> str:
        """The proxy from the environment variables, without its password; an empty string if there is none."""
        return proxy_for(self.subscribe.scheme, self.host)

    def sibling(self, name: str) -> httpx2.URL:
        """Return the URL of another route with the same prefix."""
        return self.subscribe.copy_with(path=f"{self.prefix}/{name}")


def readable_token(text: str) -> str:
    """Return the token without surrounding whitespace; raise ValueError, without repeating it, if it cannot be one."""
    token = text.strip()
    if (
        not token
        or not token.isascii()
        or any(character.isspace() or not character.isprintable() for character in token)
    ):
        raise ValueError("--token must be an access token; this value is empty or has characters that no token has")
    return token


def look_up(address: Address) -> Attempt:
    """Resolve the host name."""
    began = time.monotonic()
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "not a valid DNS name"
        return Attempt(seconds=time.monotonic() - began, problem=problem)
    ips = dict.fromkeys(str(each[4][0]) for each in found)
    return Attempt(seconds=time.monotonic() - began, addresses=tuple(ips)[:MAX_ADDRESSES])


def connect(ip: str, port: int, timeout: float) -> Attempt:
    """Open a TCP connection to one IP address."""
    began = time.monotonic()
    try:
        socket.create_connection((ip, port), timeout).close()
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        return Attempt(seconds=time.monotonic() - began, problem=_problem(error, timeout), refused=refused)
    return Attempt(seconds=time.monotonic() - began)


def negotiate_tls(address: Address, ip: str, timeout: float) -> Attempt:
    """Negotiate TLS with one IP address as the SDK does, but offer HTTP/2 as browsers do."""
    context = make_ssl_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    began = time.monotonic()
    try:
        with (
            socket.create_connection((ip, address.port), timeout) as raw,
            context.wrap_socket(raw, server_hostname=address.host) as secured,
        ):
            certificate = secured.getpeercert() or {}
            return Attempt(
                seconds=time.monotonic() - began,
                tls=secured.version() or "TLS",
                days_left=_days_left(str(certificate.get("notAfter", ""))),
                http2=secured.selected_alpn_protocol() == "h2",
            )
    except OSError as error:
        return Attempt(seconds=time.monotonic() - began, problem=_problem(error, timeout))


def _days_left(until: str) -> float:
    return (ssl.cert_time_to_seconds(until) - time.time()) / 86400 if until else math.inf


def _problem(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {timeout:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").replace("_", " ").lower()
    return error.strerror or type(error).__name__
