"""Rules for the answer to a subscription, as far as its headers, and for HTTP/2."""

from collections.abc import Mapping

import httpx2

from . import fixes
from .findings import Finding, fail, lasting, ok, warn
from .fixes import Change, Remedy
from .health_checks import Answer

REDIRECTS = frozenset({301, 302, 303, 307, 308})
GATEWAY = frozenset({502, 503, 504, 520, 521, 522, 523, 524})
"""What proxies answer for a server that they do not reach; the last five are Cloudflare's own."""

REFUSED = {
    400: "The server does not take the request as it is; see whether --app is the id of an app.",
    401: "Get a new token. If it is a new one, the server has another key, issuer or audience than whoever signed it.",
    403: "The token is good, but made for another app than --app says.",
    404: "The server runs, but nothing is mounted at this path:",
    429: "Devices that come and go hold the places, or a client opens streams and does not close them. To allow more:",
    503: "This process takes no more streams. Give each worker more seats:",
}
"""The reason behind the server's own words."""


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer is an event stream."""
    return status == 200 and headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def judge(answer: Answer, url: httpx2.URL, prefix: str) -> list[Finding]:
    """Judge the answer; the stream can be watched unless one of the findings is a FAIL."""
    if answer.status in REDIRECTS:
        return [_redirected(answer, url)]
    if answer.status != 200:
        return [_refused(answer, url, prefix)]
    if not is_stream(answer.status, answer.headers):
        kind = answer.headers.get("content-type") or "of no type"
        why = "A log-in page, a captive portal or another site answers in the server's place. Lead this path to it:"
        return [fail("answer", "the answer is no event stream", kind, why, answer.advice(fixes.routed(prefix)))]
    path = url.path
    return [_subscribed(answer), _framed(answer, path), _headers(answer, path), _encoding(answer, path)]


def held(problem: str, answer: Answer, path: str) -> Finding:
    """Judge that no answer came, while the same request without a body (HEAD) was answered so."""
    if answer.status == 200:
        why = (
            f"The server does answer: asked for its headers alone it takes {lasting(answer.seconds)}. So something on"
            " the way collects the body and waits for an end that never comes. Let it hand on what it gets:"
        )
        return fail("answer", "the stream is held back", problem, why, answer.advice(fixes.unbuffered(path)))
    why = "Neither a stream comes nor its headers alone: the server is stuck, or has no seat left. Restart it, then:"
    return fail("answer", "no answer to the subscription", problem, why, answer.advice(fixes.more_connections()))


def without_http2(offered: bool) -> Finding:
    """Say why no stream over HTTP/2 was tried."""
    if offered:
        return ok("http2", "HTTP/2 is offered too, but was not tried", "pip install 'httpx2[http2]' to try it")
    return ok("http2", "HTTP/2 is not offered", "a browser holds six streams of a host at most")


def over_http2(answer: Answer, over_http1: Answer, path: str) -> Finding:
    """Judge the first bytes of a second stream, over HTTP/2."""
    if is_stream(answer.status, answer.headers):
        return ok("http2", "a stream over HTTP/2 comes at once too", lasting(answer.seconds))
    why = "Browsers take HTTP/2 wherever it is offered, so there is no stream for them."
    if "gunicorn" in fixes.standing_there(answer.headers, answer.version):
        why += " Let a proxy in front speak it, and gunicorn not:"
        changes: tuple[Change, ...] = (Change("gunicorn", 'http_protocols = "h1"'),)
    else:
        changes = over_http1.advice(fixes.unbuffered(path))
    said = answer.problem or (answer.words if answer.ours else f"{answer.status}")
    return fail("http2", "no stream over HTTP/2", said, why, changes)


def _redirected(answer: Answer, url: httpx2.URL) -> Finding:
    """Say where the server is, if the redirection leads to the same path, else that it is no server's."""
    location = answer.headers.get("location", "")
    try:
        goal = url.join(location)
    except httpx2.InvalidURL:
        goal = url
    if goal.path.rstrip("/") == url.path.rstrip("/") and goal.host and goal != url:
        why = "The SDK follows no redirection, which could lead the token anywhere. Give it the right address:"
        base = str(goal.copy_with(query=None)).removesuffix("/api/sync/subscribe")
        return fail("answer", "redirected", f"{answer.status}", why, (Change("app", f'SyncKitClient("{base}", …)'),))
    why = "That is no SyncKit server: a log-in of the proxy or a captive portal. Let the path pass without it."
    return fail("answer", f"redirected to {location or 'nowhere'}", f"{answer.status}", why)


def _refused(answer: Answer, url: httpx2.URL, prefix: str) -> Finding:
    after = answer.headers.get("retry-after")
    figure = f"{answer.status}, again in {after} s" if after else f"{answer.status}"
    if answer.ours:
        why, remedy = REFUSED.get(answer.status, "The server's log tells more."), _own_remedy(answer.status, prefix)
        return fail("answer", f"refused: {answer.words}", figure, why, answer.advice(remedy))
    if answer.status == 400 and url.scheme == "http":
        why, remedy = "Perhaps the port speaks TLS. If so, begin the URL with https://.", {}
    else:
        why, remedy = _foreign_reason(answer.status, prefix)
    return fail("answer", "refused, but not in the words of a SyncKit server", figure, why, answer.advice(remedy))


def _own_remedy(status: int, prefix: str) -> Remedy:
    match status:
        case 401 | 403:
            return {"server": ("flask --app wsgi synckit token --app APP --user USER",)}
        case 404:
            return fixes.routed(prefix)
        case 429:
            return {"setting": ("SYNCKIT_MAX_STREAMS_PER_CHANNEL=200",)}
        case 503:
            return fixes.more_connections()
    return {}


def _foreign_reason(status: int, prefix: str) -> tuple[str, Remedy]:
    if status in GATEWAY:
        return "A proxy does not reach the server. Does it run, and where the proxy looks?", fixes.answering()
    if status == 404:
        why = f"Nothing is mounted there, or a proxy sends the path elsewhere or cuts it. Lead all of {prefix}/ to it:"
        return why, fixes.routed(prefix)
    if status in (401, 403, 407):
        return (
            "A log-in or firewall of a proxy says so. Let the path pass, for the server checks tokens:",
            fixes.no_auth(f"{prefix}/"),
        )
    return "The logs of proxy and server tell more.", {}


def _subscribed(answer: Answer) -> Finding:
    seen = fixes.standing_there(answer.headers, answer.version)
    server = answer.headers.get("server", "a server without a name")
    through = " behind what seems to be HAProxy" if "HAProxy" in seen else ""
    return ok("answer", f"subscribed: {server} answers{through}", lasting(answer.seconds))


def _framed(answer: Answer, path: str) -> Finding:
    """Judge whether the end of the body can be told from a cut."""
    if "content-length" in answer.headers:
        why = "A stream has no length: something has collected the body to its end first. Let it hand on what it gets:"
        changes = answer.advice(fixes.unbuffered(path))
        return fail("protocol", "the answer has a length", answer.headers["content-length"], why, changes)
    if answer.version == "HTTP/2" or "chunked" in answer.headers.get("transfer-encoding", "").lower():
        return ok("protocol", f"{answer.version} in chunks: a cut can be told from an end")
    why = "The body ends with its connection, so a device cannot tell a good end from a cut."
    return warn("protocol", f"{answer.version} without chunks", "", why, answer.advice(fixes.chunked(path)))


def _headers(answer: Answer, path: str) -> Finding:
    """Judge what was done to the headers; X-Accel-Buffering is not missed, for nginx obeys it and takes it away."""
    if "age" in answer.headers:
        why = "A stream out of a cache is somebody else's, or an old one. Keep this path out of every cache."
        return fail("headers", "the answer comes out of a cache", f"Age: {answer.headers['age']}", why)
    if "no-transform" not in answer.headers.get("cache-control", "").lower():
        said = answer.headers.get("cache-control") or "missing"
        why = "The server sends no-store, no-transform, which keeps HAProxy, Caddy and Cloudflare from compressing."
        changes = answer.advice(fixes.untouched("Cache-Control", path))
        return warn("headers", "Cache-Control was changed on the way", said, why, changes)
    if "synckit-keepalive" not in answer.headers:
        why = "It tells devices after how much silence a stream is dead; without it they assume keepalives each 30 s."
        changes = answer.advice(fixes.untouched("SyncKit-Keepalive", path))
        return warn("headers", "SyncKit-Keepalive is missing", "", why, changes)
    return ok("headers", "the server's headers arrive", f"a keepalive each {answer.headers['synckit-keepalive']} s")


def _encoding(answer: Answer, path: str) -> Finding:
    """Judge the compression, which was offered."""
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return ok("compression", "not compressed")
    changes = answer.advice(fixes.uncompressed(path))
    if encoding != "gzip":
        why = "Only gzip was offered, so this cannot be read by everybody. Leave the stream as it is:"
        return fail("compression", "compressed in a way not asked for", encoding, why, changes)
    why = "Frames of 20 bytes only grow, each stream costs the proxy memory, and most compressors hold bytes back."
    return warn("compression", "the stream is compressed on the way", encoding, why, changes)
