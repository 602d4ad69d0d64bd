"""The edge below HTTP: looks up a name, connects to each address, shakes hands; how it went comes back as `Attempt`."""

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
SUBSCRIBE, USUAL_PREFIX = "/subscribe", "/api/sync"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is; one mounted elsewhere is named by the whole address of its subscription."""

    subscribe: httpx2.URL
    prefix: str

    @classmethod
    def read(cls, url: str) -> Self:
        """Read what a person typed; raises ValueError."""
        try:
            base = normalize_url(url)
        except ValueError:
            raise ValueError("URL: like https://sync.example.org, without user, query or fragment") from None
        whole = httpx2.URL(base)
        if not whole.path.endswith(SUBSCRIBE):
            whole = httpx2.URL(base + USUAL_PREFIX + SUBSCRIBE)
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
    def number(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host, if it is given by its number."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def local(self) -> bool:
        """Return whether nothing leaves this machine."""
        return self.host == "localhost" or (self.number is not None and self.number.is_loopback)

    @property
    def proxy(self) -> str:
        """The proxy that this environment wants requests to go through, without its password; empty if none."""
        return proxy_for(self.subscribe.scheme, self.host)

    def beside(self, name: str) -> httpx2.URL:
        """Return the address of a neighbour of the subscription."""
        return self.subscribe.copy_with(path=f"{self.prefix}/{name}")


def readable_token(text: str) -> str:
    """Return the token as it was copied; raises ValueError for what is none, without repeating it."""
    token = text.strip()
    if (
        not token
        or not token.isascii()
        or any(character.isspace() or not character.isprintable() for character in token)
    ):
        raise ValueError("--token: empty, or with characters that no token has")
    return token


def look_up(address: Address) -> Attempt:
    """Ask for the addresses of a name."""
    began = time.monotonic()
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "no name that the DNS can hold"
        return Attempt(seconds=time.monotonic() - began, problem=problem)
    numbers = dict.fromkeys(str(each[4][0]) for each in found)
    return Attempt(seconds=time.monotonic() - began, addresses=tuple(numbers)[:MAX_ADDRESSES])


def connect(number: str, port: int, patience: float) -> Attempt:
    """Try one address."""
    began = time.monotonic()
    try:
        socket.create_connection((number, port), patience).close()
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        return Attempt(seconds=time.monotonic() - began, problem=_problem(error, patience), refused=refused)
    return Attempt(seconds=time.monotonic() - began)


def shake_hands(address: Address, number: str, patience: float) -> Attempt:
    """Speak TLS with one address that accepts connections, as the SDK does, but offer HTTP/2 as browsers do."""
    context = make_ssl_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    began = time.monotonic()
    try:
        with (
            socket.create_connection((number, address.port), patience) as raw,
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
        return Attempt(seconds=time.monotonic() - began, problem=_problem(error, patience))


def _days_left(until: str) -> float:
    return (ssl.cert_time_to_seconds(until) - time.time()) / 86400 if until else math.inf


def _problem(error: OSError, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {patience:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").replace("_", " ").lower()
    return error.strerror or type(error).__name__
