"""Rules for the way to the server: name, port, TLS, `/live`, `/ready`, and the two clocks.

Durations are seconds, header names are in lower case. A step that went well has an empty `problem`; an answer that did
not come has the status 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from . import fixes
from .findings import Finding, fail, lasting, ok, warn
from .fixes import Change, Remedy

WORST_SKEW = 60.0
CERTIFICATE_DAYS = 14
CLOSED = "the connection was closed"
FULL = 0.9
"""Of the streams that a process takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt: to look up a name, to connect, or to speak TLS."""

    seconds: float
    problem: str = ""
    refused: bool = False
    addresses: tuple[str, ...] = ()
    tls: str = ""
    days_left: float = math.inf
    http2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer: its headers, and what it says where it is no stream; `at` is the time of day it came."""

    seconds: float
    status: int = 0
    version: str = "HTTP/1.1"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    words: str = ""
    at: float = 0.0
    problem: str = ""

    @property
    def ours(self) -> bool:
        """Return whether a refusal is a SyncKit server's own, rather than of something on the way."""
        return isinstance(self.body, dict) and isinstance(self.body.get("error"), str)

    def advice(self, remedy: Remedy) -> tuple[Change, ...]:
        """Return the lines of a remedy, first those for whoever had a hand in this answer."""
        return fixes.changes(remedy, fixes.standing_there(self.headers, self.version))


def name(host: str, tried: Attempt) -> Finding:
    """Judge how the name was looked up."""
    if tried.problem:
        why = "The DNS does not know it here: misspelt, not entered yet, or there is no network. Ask it yourself:"
        return fail(
            "name", f"the name {host} is not found", tried.problem, why, (Change("here", f"dig +short {host}"),)
        )
    return ok("name", f"{host} is {', '.join(tried.addresses)}", lasting(tried.seconds))


def port(number: int, tries: Mapping[str, Attempt]) -> Finding:
    """Judge the attempts to connect, one for each address."""
    failed = {address: tried for address, tried in tries.items() if tried.problem}
    problems = "; ".join(dict.fromkeys(tried.problem for tried in failed.values()))
    if not failed:
        return ok("port", f"port {number} accepts connections", lasting(max(tried.seconds for tried in tries.values())))
    if len(failed) < len(tries):
        why = "Clients lose time at this address before they try the next. Mend it, or take it out of the DNS."
        return warn("port", f"port {number} is closed at {', '.join(failed)}", problems, why)
    if all(tried.refused for tried in failed.values()):
        why = "Nothing listens there. Does the server run, and on this address instead of 127.0.0.1 alone? On it, see:"
    else:
        why = "A firewall or security group swallows the packets, or the machine is down. On it, see:"
    look = Change("server", f"ss -ltnp 'sport = :{number}'")
    return fail("port", f"port {number} accepts no connection", problems, why, (look,))


def tls(host: str, number: int, tried: Attempt) -> Finding:
    """Judge the TLS handshake and the certificate."""
    if tried.problem:
        why, change = _tls_advice(host, number, tried.problem.lower())
        return fail("tls", "TLS fails", tried.problem, why, (change,))
    if tried.days_left < CERTIFICATE_DAYS:
        why = "Nothing connects any more once it has expired; its renewal should have run by now."
        renew = Change("server", "certbot renew && nginx -s reload")
        return warn("tls", "the certificate expires soon", f"in {tried.days_left:.0f} days", why, (renew,))
    return ok("tls", f"{tried.tls}, certificate valid for {tried.days_left:.0f} days", lasting(tried.seconds))


def _tls_advice(host: str, number: int, problem: str) -> tuple[str, Change]:
    if "expired" in problem:
        return "Renew it, and have the proxy load it:", Change("server", "certbot renew && nginx -s reload")
    if "local issuer" in problem:
        why = "The server sends its certificate without the one that signed it. Let it send the whole chain:"
        return why, Change("nginx", f"ssl_certificate /etc/letsencrypt/live/{host}/fullchain.pem;")
    if "self-signed" in problem or "self signed" in problem:
        why = "Nobody trusts a certificate that signed itself. Get one from an authority, or name your own here:"
        return why, Change("here", "export SSL_CERT_FILE=/path/to/authority.pem")
    if "mismatch" in problem or "not valid for" in problem:
        why = f"The certificate is for other names; perhaps another site answers for {host}. See for which:"
        at = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        look = f"openssl s_client -connect {at} -servername {host} </dev/null | openssl x509 -noout -text"
        return why, Change("here", look)
    why = (
        "The port speaks no TLS, or none that is safe. If it is to speak plain HTTP, begin the URL with http://; else:"
    )
    return why, Change("nginx", f"listen {number} ssl;")


def plain(host: str) -> Finding:
    """Judge an address without TLS that is not this machine's own."""
    why = (
        "Everybody on the way can read the token and use it. Let the proxy speak TLS, and begin the URL with https://."
    )
    return warn("tls", "the way is not encrypted", f"http://{host}", why, (Change("nginx", "listen 443 ssl;"),))


def detour(proxy: str) -> Finding:
    """Judge that the environment sends requests through a proxy."""
    why = "So name, port and certificate are not looked at, and what follows may be its doing. To go without it:"
    change = Change("here", "NO_PROXY='*' synckit doctor …")
    return warn("proxy", "requests go through the proxy of this environment", proxy, why, (change,))


def live(path: str, answer: Answer, prefix: str) -> Finding:
    """Judge what `/live` says."""
    if answer.problem == CLOSED:
        why = "What listens there speaks no HTTP: another program, or TLS, and then the URL begins with https://."
        return fail("live", f"{path} does not answer", answer.problem, why)
    if answer.problem:
        why = (
            "The connection is taken, but nobody answers: open connections hold all seats of the worker, or its event"
            " loop is blocked. Restart it, then give it more seats:"
        )
        return fail("live", f"{path} does not answer", answer.problem, why, answer.advice(fixes.more_connections()))
    if answer.status != 200 or answer.body != {"live": True}:
        why = f"Perhaps it is kept inside on purpose. If not, a proxy has to let everything below {prefix}/ pass."
        return warn("live", f"{path} is not answered by a SyncKit server", f"{answer.status}", why)
    return ok("live", f"{path} answers", lasting(answer.seconds))


def ready(path: str, answer: Answer) -> Finding:
    """Judge what `/ready` says."""
    state = answer.body if isinstance(answer.body, dict) else {}
    if "ready" not in state:
        why = "It tells whether a server takes streams. Perhaps it is kept inside on purpose."
        return warn("ready", f"{path} is not answered by a SyncKit server", answer.problem or f"{answer.status}", why)
    if state.get("draining"):
        return warn("ready", f"{path}: draining", f"{answer.status}", "This worker is shutting down. Look again soon.")
    if not state.get("host"):
        why = "The host application's own check fails, most often its database. The server's log tells the reason."
        return fail("ready", f"{path}: not ready", f"{answer.status}", why)
    if state.get("echo") is False:
        why = "Until the broker is back, notices from other processes come only with the sweep, seconds later."
        return warn("ready", f"{path}: the broker does not answer", f"broker {state.get('broker')}", why)
    seats = f"{state.get('streams')} of {state.get('max_streams') or 'any number of'} streams"
    fill = state.get("fill")
    if isinstance(fill, int | float) and fill >= FULL:
        why = "Soon devices are refused with 503. Give each worker more seats:"
        return warn("ready", f"{path}: almost full", seats, why, answer.advice(fixes.more_connections()))
    return ok("ready", f"{path}: {seats}, broker {state.get('broker')}", lasting(answer.seconds))


def clocks(answer: Answer) -> list[Finding]:
    """Judge the answer's Date, if it has one, by the clock here."""
    try:
        ahead = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - answer.at
    except (ValueError, OverflowError):
        return []
    if abs(ahead) <= WORST_SKEW:
        return [ok("clock", "the clocks here and there agree", f"{abs(ahead):.0f} s apart")]
    what = f"the server's clock is {'ahead of' if ahead > 0 else 'behind'} the one here"
    why = "Tokens count from one moment to another, so a wrong clock refuses good ones. On the machine that is wrong:"
    return [warn("clock", what, f"{abs(ahead):.0f} s", why, (Change("either", "timedatectl set-ntp true"),))]
