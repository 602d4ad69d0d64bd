"""Rules for the steps before the subscription: DNS, TCP, TLS, `/live`, `/ready`, and the two clocks.

Durations are seconds, header names are in lower case. A step that succeeded has an empty `problem`. A response that did
not arrive has the status 0.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from . import fixes
from .findings import Finding, fail, format_duration, ok, warn
from .fixes import Change

MAX_CLOCK_SKEW_SECONDS = 60.0
MIN_CERTIFICATE_DAYS = 14
CONNECTION_CLOSED = "the connection was closed"
HIGH_FILL = 0.9
"""Share of the streams that a process accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The result of one attempt to resolve a name, to connect, or to negotiate TLS."""

    seconds: float
    problem: str = ""
    refused: bool = False
    addresses: tuple[str, ...] = ()
    tls: str = ""
    days_left: float = math.inf
    http2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response: its headers and, unless it is a stream, its body; `at` is the time when it arrived."""

    seconds: float
    status: int = 0
    version: str = "HTTP/1.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    message: str = ""
    at: float = 0.0
    problem: str = ""

    @property
    def has_json_error(self) -> bool:
        """Return whether this is an error of a SyncKit server, and not of a proxy on the way."""
        return isinstance(self.body, dict) and isinstance(self.body.get("error"), str)

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that this response passed through, as far as it shows."""
        return fixes.identify_servers(self.headers, self.version)

    def advice(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Return the changes with those for the servers of this response first."""
        return fixes.identified_first(changes, self.servers)


def name(host: str, attempt: Attempt) -> Finding:
    """Judge the DNS lookup."""
    if attempt.problem:
        why = "The name is misspelt or missing in the DNS, or this machine has no network. To ask the DNS yourself:"
        look = Change("here", f"dig +short {host}")
        return fail("name", f"the name {host} is not found", attempt.problem, why, (look,))
    return ok("name", f"{host} is {', '.join(attempt.addresses)}", format_duration(attempt.seconds))


def port(number: int, attempts: Mapping[str, Attempt]) -> Finding:
    """Judge the TCP connections, one for each address."""
    failed = {address: attempt for address, attempt in attempts.items() if attempt.problem}
    problems = "; ".join(dict.fromkeys(attempt.problem for attempt in failed.values()))
    if not failed:
        slowest = max(attempt.seconds for attempt in attempts.values())
        return ok("port", f"port {number} accepts connections", format_duration(slowest))
    if len(failed) < len(attempts):
        why = "Clients lose time at this address before they try the next one. Repair it, or remove it from the DNS."
        return warn("port", f"port {number} is closed at {', '.join(failed)}", problems, why)
    if all(attempt.refused for attempt in failed.values()):
        why = "Nothing listens there. The server is not running, or it listens on 127.0.0.1 only. Check on the server:"
    else:
        why = "A firewall or security group drops the packets, or the machine is down. Check on the server:"
    look = Change("server", f"ss -ltnp 'sport = :{number}'")
    return fail("port", f"port {number} accepts no connection", problems, why, (look,))


def tls(host: str, number: int, attempt: Attempt) -> Finding:
    """Judge the TLS handshake and the certificate."""
    if attempt.problem:
        why, changes = _tls_advice(host, number, attempt.problem.lower())
        return fail("tls", "TLS fails", attempt.problem, why, changes)
    if attempt.days_left < MIN_CERTIFICATE_DAYS:
        why = "Clients cannot connect once it has expired. Check why it has not been renewed yet."
        return warn("tls", "the certificate expires soon", f"in {attempt.days_left:.0f} days", why)
    figure = format_duration(attempt.seconds)
    return ok("tls", f"{attempt.tls}, certificate valid for {attempt.days_left:.0f} days", figure)


def _tls_advice(host: str, number: int, problem: str) -> tuple[str, tuple[Change, ...]]:
    if "expired" in problem:
        return "Renew the certificate, then reload the proxy.", ()
    if "local issuer" in problem:
        why = (
            "The server does not send the intermediate certificate. Configure it with the whole chain (fullchain.pem)."
        )
        return why, ()
    if "self-signed" in problem or "self signed" in problem:
        why = "Clients do not trust a self-signed certificate. Use one from a public authority, or trust yours here:"
        return why, (Change("here", "export SSL_CERT_FILE=/path/to/authority.pem"),)
    if "mismatch" in problem or "not valid for" in problem:
        why = f"The certificate is for other names; perhaps another site answers for {host}. To see the names:"
        at = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        look = f"openssl s_client -connect {at} -servername {host} </dev/null | openssl x509 -noout -text"
        return why, (Change("here", look),)
    why = (
        "The port does not speak TLS, or no secure version of it. If it serves plain HTTP, use an http:// URL."
        " Otherwise enable TLS on this port of the proxy."
    )
    return why, ()


def plain(host: str) -> Finding:
    """Warn about an http:// URL that leads to another machine."""
    why = "Everybody on the network path can read and use the token. Let a proxy provide TLS, and use an https:// URL."
    return warn("tls", f"no TLS to {host}", "", why)


def environment_proxy(proxy: str) -> Finding:
    """Warn that environment variables send requests through a proxy."""
    why = "So name, port and certificate are not checked, and this proxy may cause what follows. To bypass it:"
    change = Change("here", "NO_PROXY='*' synckit doctor …")
    return warn("proxy", "the environment sends requests through a proxy", proxy, why, (change,))


def live(path: str, answer: Answer, prefix: str) -> Finding:
    """Judge the response of `/live`."""
    if answer.problem == CONNECTION_CLOSED:
        why = "The port does not speak HTTP. It belongs to another program, or it speaks TLS: then use an https:// URL."
        return fail("live", f"{path} does not answer", answer.problem, why)
    if answer.problem:
        why = (
            "The server accepts the connection but does not answer: open connections use up the worker's"
            " worker_connections, or its event loop is blocked. Restart it. If it was full, allow more connections:"
        )
        return fail("live", f"{path} does not answer", answer.problem, why, answer.advice(fixes.more_connections()))
    if answer.status != 200 or answer.body != {"live": True}:
        why = f"The path may be hidden on purpose. If not, make the proxy forward every path under {prefix}/."
        return warn("live", f"{path} is not answered by a SyncKit server", f"{answer.status}", why)
    return ok("live", f"{path} answers", format_duration(answer.seconds))


def ready(path: str, answer: Answer) -> Finding:
    """Judge the response of `/ready`."""
    state = answer.body if isinstance(answer.body, dict) else {}
    if "ready" not in state:
        why = "It tells whether a server accepts streams. The path may be hidden on purpose."
        return warn("ready", f"{path} is not answered by a SyncKit server", answer.problem or f"{answer.status}", why)
    if state.get("draining"):
        why = "This worker is shutting down. Run the doctor again in a moment."
        return warn("ready", f"{path}: draining", f"{answer.status}", why)
    if not state.get("host"):
        why = "The readiness check of the host application fails, most often because of its database. See its log."
        return fail("ready", f"{path}: not ready", f"{answer.status}", why)
    is_idle = state.get("connected") is False and state.get("streams") == 0  # it listens from its first stream on
    if state.get("echo") is False and not is_idle:
        why = "Until the broker is back, changes pushed in other processes are announced seconds late, by the sweep."
        return warn("ready", f"{path}: the broker does not answer", f"broker {state.get('broker')}", why)
    streams = f"{state.get('streams')} of {state.get('max_streams') or 'any number of'} streams"
    fill = state.get("fill")
    if isinstance(fill, int | float) and fill >= HIGH_FILL:
        why = "New streams will soon be refused with 503. Allow each worker more connections:"
        return warn("ready", f"{path}: almost full", streams, why, answer.advice(fixes.more_connections()))
    return ok("ready", f"{path}: {streams}, broker {state.get('broker')}", format_duration(answer.seconds))


def clocks(answer: Answer) -> list[Finding]:
    """Compare the response's Date, if it has one, with the clock of this machine."""
    try:
        ahead = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - answer.at
    except (ValueError, OverflowError):
        return []
    if abs(ahead) <= MAX_CLOCK_SKEW_SECONDS:
        return [ok("clock", "the clocks of client and server agree", f"{abs(ahead):.0f} s apart")]
    what = f"the server's clock is {'ahead of' if ahead > 0 else 'behind'} the clock of this machine"
    why = (
        "A token is valid between two points in time, so a server with a wrong clock refuses valid tokens."
        " Turn on time synchronization (NTP) on the machine whose clock is wrong."
    )
    return [warn("clock", what, f"{abs(ahead):.0f} s", why)]
