"""CORS: which web pages may call from a browser. The origin of a page in, the response headers out.

    headers_for(origin, origins, preflight=...)   decides by the Fetch standard, section 3.3; knows no request
    install(app, origins, covers)                 applies it to every answer on the paths that `covers` accepts

A page sends its token in the Authorization header. So the browser sends a preflight first, without a token, and
credentials (cookies) are never allowed. A page that is not listed gets no header, and its browser hides the answer.
"""

from collections.abc import Callable, Iterable, Set
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Request, Response, request

Covers = Callable[[str], bool]

_FOR_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, Cache-Control",
    "Access-Control-Max-Age": "7200",  # seconds, the maximum of Chromium
}
_FOR_ANSWER = {
    "Access-Control-Expose-Headers": "SyncKit-Keepalive, Retry-After, WWW-Authenticate, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
}


def headers_for(origin: str | None, origins: Set[str], *, preflight: bool) -> dict[str, str]:
    """Return the headers for a page of this origin, none if it is not one of the `origins`."""
    if origin is None or origin not in origins:
        return {}
    return {"Access-Control-Allow-Origin": origin} | (_FOR_PREFLIGHT if preflight else _FOR_ANSWER)


def install(app: Flask, origins: Set[str], covers: Covers) -> None:
    """Allow the origins on the paths that `covers` accepts; without origins nothing is installed.

    Preflights are answered before Flask sees them, since a host's own check would ask for a token that they cannot
    carry. All other answers get their headers in Flask, error pages included.
    """
    if not origins:
        return
    application = app.wsgi_app

    def answer_preflights(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            asked = Request(environ)
            if _is_preflight(asked) and covers(asked.path):
                return _add_headers(Response(status=204), asked, origins)(environ, start_response)
        return application(environ, start_response)

    def add_headers(response: Response) -> Response:
        return _add_headers(response, request, origins) if covers(request.path) else response

    app.wsgi_app = answer_preflights  # type: ignore[method-assign]
    app.after_request(add_headers)


def _add_headers(response: Response, asked: Request, origins: Set[str]) -> Response:
    response.vary.add("Origin")  # for every origin, so that no cache serves the answer for one origin to another
    response.headers.update(headers_for(asked.headers.get("Origin"), origins, preflight=_is_preflight(asked)))
    return response


def _is_preflight(asked: Request) -> bool:
    return asked.method == "OPTIONS" and "Access-Control-Request-Method" in asked.headers
