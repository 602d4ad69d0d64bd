"""Rules for the response to the subscription: its status, its headers, and HTTP/2."""

from collections.abc import Mapping

import httpx2

from . import fixes
from .findings import Finding, fail, format_duration, ok, warn
from .fixes import Change
from .health_checks import Answer

REDIRECTS = frozenset({301, 302, 303, 307, 308})
GATEWAY_ERRORS = frozenset({502, 503, 504, 520, 521, 522, 523, 524})
"""What a proxy answers when it cannot reach the server; the last five are Cloudflare's own."""

SYNCKIT_REFUSALS = {
    400: "The server rejects the request. Check that --app is the id of an app.",
    401: "Get a new token. If this one is new, its signer and the server differ in key, issuer or audience.",
    403: "The token is valid, but for another app. Pass the token's app as --app, or get a token for this app.",
    404: "The server runs, but no Notifier is mounted at this path. Use the right URL, or set:",
    429: "This user has too many open streams in this app; perhaps a client does not close them. To allow more:",
    503: "This process accepts no more streams. Allow each worker more connections:",
}
"""What a status means when a SyncKit server sent it."""

FIXES_FOR_REFUSALS = {429: fixes.more_streams_per_channel(), 503: fixes.more_connections()}


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a response is an event stream."""
    return status == 200 and headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def judge(answer: Answer, url: httpx2.URL, prefix: str) -> list[Finding]:
    """Judge the response; its stream can be read unless one of the findings is a FAIL."""
    if answer.status in REDIRECTS:
        return [_redirect(answer, url)]
    if answer.status != 200:
        return [_refusal(answer, url, prefix)]
    if not is_stream(answer.status, answer.headers):
        content_type = answer.headers.get("content-type") or "no Content-Type"
        why = f"A log-in page, a captive portal or another site answers. Make the proxy send {prefix}/ to the server."
        return [fail("answer", "the answer is no event stream", content_type, why)]
    return [_status(answer), _framing(answer, url.path), _headers(answer), _compression(answer, url.path)]


def no_answer(problem: str, head: Answer, path: str) -> Finding:
    """Judge a subscription without a response; `head` is the response to the same request with the method HEAD."""
    if head.status == 200:
        why = (
            f"A HEAD request for the same path is answered within {format_duration(head.seconds)}. So a proxy, WSGI"
            " middleware or an antivirus program waits for the end of the body, which never comes."
            " Turn its buffering off:"
        )
        return fail("answer", "the stream is held back", problem, why, head.advice(fixes.no_buffering(path)))
    why = (
        "A HEAD request is not answered either: the server is blocked or full. Restart it. If it was full, allow more"
        " connections:"
    )
    return fail("answer", "no answer to the subscription", problem, why, head.advice(fixes.more_connections()))


def without_http2(offered: bool) -> Finding:
    """Report why no stream over HTTP/2 was opened."""
    if offered:
        return ok("http2", "HTTP/2 is offered but was not tested", "to test it: pip install 'httpx2[http2]'")
    return ok("http2", "HTTP/2 is not offered", "a browser opens at most six streams to one host")


def over_http2(answer: Answer, over_http1: Answer, path: str) -> Finding:
    """Judge the first bytes of a second stream, over HTTP/2."""
    if is_stream(answer.status, answer.headers):
        return ok("http2", "a stream over HTTP/2 starts at once", format_duration(answer.seconds))
    why = "Browsers use HTTP/2 wherever it is offered, so they get no stream."
    if "gunicorn" in answer.servers:
        why += " Let a proxy in front speak HTTP/2, and gunicorn HTTP/1.1 only:"
        changes = fixes.http1_only()
    else:
        changes = over_http1.advice(fixes.no_buffering(path))
    figure = answer.problem or (answer.message if answer.has_json_error else f"{answer.status}")
    return fail("http2", "no stream over HTTP/2", figure, why, changes)


def _redirect(answer: Answer, url: httpx2.URL) -> Finding:
    """Name the right URL if the redirect leads to the same path; otherwise it does not come from a SyncKit server."""
    location = answer.headers.get("location", "")
    try:
        target = url.join(location)
    except httpx2.InvalidURL:
        target = url
    if target.path.rstrip("/") == url.path.rstrip("/") and target.host and target != url:
        why = "The SDK follows no redirects, because they could send the token to another server. Use this URL:"
        base = str(target.copy_with(query=None)).removesuffix("/api/sync/subscribe")
        return fail("answer", "redirected", f"{answer.status}", why, (Change("app", f'SyncKitClient("{base}", …)'),))
    why = (
        "This is no SyncKit server but a log-in page of a proxy or a captive portal. Let this path pass without log-in."
    )
    return fail("answer", f"redirected to {location or 'nowhere'}", f"{answer.status}", why)


def _refusal(answer: Answer, url: httpx2.URL, prefix: str) -> Finding:
    after = answer.headers.get("retry-after")
    figure = f"{answer.status}, retry after {after} s" if after else f"{answer.status}"
    mounted = fixes.mounted_at(prefix) if answer.status == 404 else ()
    if answer.has_json_error:
        why = SYNCKIT_REFUSALS.get(answer.status, "See the server's log.")
        changes = FIXES_FOR_REFUSALS.get(answer.status, mounted)
        return fail("answer", f"refused: {answer.message}", figure, why, changes)
    why = _proxy_refusal(answer.status, url, prefix)
    return fail("answer", "refused, but not by a SyncKit server", figure, why, mounted)


def _proxy_refusal(status: int, url: httpx2.URL, prefix: str) -> str:
    """Return what a status means when something else than a SyncKit server sent it."""
    if status == 400 and url.scheme == "http":
        return "The port may speak TLS. If so, use an https:// URL."
    if status in GATEWAY_ERRORS:
        return "A proxy cannot reach the server. Check that the server runs and listens where the proxy expects it."
    if status == 404:
        return (
            f"No Notifier is mounted at this path, or the proxy does not forward {prefix}/ unchanged. Fix it, or set:"
        )
    if status in (401, 403, 407):
        return "A proxy or firewall asks for a log-in. Exempt this path; the server checks tokens itself."
    return "See the logs of the proxy and the server."


def _status(answer: Answer) -> Finding:
    server = answer.headers.get("server", "an unnamed server")
    through = ", probably behind HAProxy" if "HAProxy" in answer.servers else ""
    return ok("answer", f"subscribed: {server} answers{through}", format_duration(answer.seconds))


def _framing(answer: Answer, path: str) -> Finding:
    """Judge whether the end of the body can be told from a lost connection."""
    if "content-length" in answer.headers:
        why = "A stream has no length: a proxy collected the whole body before it sent it. Turn its buffering off:"
        changes = answer.advice(fixes.no_buffering(path))
        return fail("protocol", "the response has a Content-Length", answer.headers["content-length"], why, changes)
    if answer.version == "HTTP/2":
        return ok("protocol", "HTTP/2")
    if "chunked" in answer.headers.get("transfer-encoding", "").lower():
        return ok("protocol", f"{answer.version} with chunked encoding")
    why = "The body ends when the connection does, so a client cannot tell an orderly end from a lost connection."
    return warn("protocol", f"{answer.version} without chunked encoding", "", why)


def _headers(answer: Answer) -> Finding:
    """Judge changes to the headers. X-Accel-Buffering may be missing: nginx obeys it and removes it."""
    if "age" in answer.headers:
        why = "A cached stream is an old one, or another user's. Exclude this path from every cache."
        return fail("headers", "the response comes from a cache", f"Age: {answer.headers['age']}", why)
    if "no-transform" not in answer.headers.get("cache-control", "").lower():
        figure = answer.headers.get("cache-control") or "missing"
        why = (
            "The server sends `no-store, no-transform`, so that proxies neither store nor compress the stream."
            " Remove the rule of the proxy that changes this header."
        )
        return warn("headers", "Cache-Control was changed on the way", figure, why)
    if "synckit-keepalive" not in answer.headers:
        why = (
            "The header tells clients the keepalive period; without it they assume 30 s."
            " Remove the rule of the proxy that removes this header."
        )
        return warn("headers", "SyncKit-Keepalive is missing", "", why)
    return ok("headers", "the server's headers arrive", f"a keepalive every {answer.headers['synckit-keepalive']} s")


def _compression(answer: Answer, path: str) -> Finding:
    """Judge the content encoding; the request accepts gzip, as browsers do."""
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return ok("compression", "not compressed")
    changes = answer.advice(fixes.no_compression(path))
    if encoding != "gzip":
        why = "The request accepts gzip only, so some clients cannot read this. Turn compression off:"
        return fail("compression", "compressed with an encoding that was not accepted", encoding, why, changes)
    why = (
        "Compression makes events of 20 bytes larger, costs the proxy memory for each stream, and often delays them."
        " Turn it off:"
    )
    return warn("compression", "a proxy compresses the stream", encoding, why, changes)
