"""Responses of a server that is not trusted: bodies of bounded size, error messages, and what a redirect means.

In: an httpx2 response whose body has not been read. Out: plain values. Used by the connection and the doctor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from .errors import ProtocolError, ServerError
from .foreign_text import printable, redacted

MAX_MESSAGE_CHARACTERS = 300

MAX_RESPONSE_BYTES = 32 * 2**20
"""Upper bound after decompression; a page of the included backend has about 1 MiB, other servers may send more."""

MAX_ERROR_BYTES = 64 * 1024
"""No more than this is read of an error response."""

LASTING_REDIRECTS = frozenset({301, 308})

NETWORK_ERRORS = {
    407: "the proxy requires a user name and a password (407): put them into the URL of the proxy",
    511: "the network requires a log-in (511): open any web page in a browser",
}


@dataclass(frozen=True, slots=True)
class Redirect:
    """The target of a redirect: a new `server_url` if `moved`, else some page."""

    url: str
    moved: bool

    def message(self, secrets: Iterable[str]) -> str:
        """Return what to do about the redirect; its URL comes from outside and may repeat a secret of the request."""
        url = redacted(self.url, secrets) or "a URL that contains a secret of this request"
        if self.moved:
            return f'the server has moved: create the client with server_url="{url}"'
        return f"redirected to {url}: a log-in page or a captive portal answers instead of the server"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response; header names are in lower case, `redirect` is None unless it is a redirect."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    redirect: Redirect | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def has_json_error(self) -> bool:
        """Return whether this is a JSON error of a server of this protocol, not the page of a proxy."""
        answer = parse_json(self.content)
        return not self.is_success and isinstance(answer, dict) and isinstance(answer.get("error"), str)

    def message(self, secrets: Iterable[str]) -> str:
        """Return the server's error message as `error_message` does, or what to do about a redirect."""
        return self.redirect.message(secrets) if self.redirect else error_message(self.status, self.content, secrets)


def error_message(status: int, content: bytes, secrets: Iterable[str]) -> str:
    """Return the server's error message, bounded and without secrets, or its status if there is no message."""
    answer = parse_json(content)
    message = answer.get("error_description") or answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(message, str) or not message.strip():
        return NETWORK_ERRORS.get(status, f"the server answered {status}")
    shown = redacted(message.strip(), secrets)
    if shown is None:
        return f"the server answered {status}; its message is not shown because it contains a secret of this request"
    return printable(shown)[:MAX_MESSAGE_CHARACTERS]


def parse_json(content: bytes) -> Any:
    """Return the JSON value of a body, or None if it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def read_content(response: httpx2.Response) -> bytes:
    """Return the decompressed body, only its beginning for an error; raises ProtocolError if it is too large."""
    content = bytearray()
    for piece in response.iter_bytes():  # at most 1 MiB a piece, however much was compressed into it
        content += piece
        if not response.is_success and len(content) >= MAX_ERROR_BYTES:
            return bytes(content[:MAX_ERROR_BYTES])
        if len(content) > MAX_RESPONSE_BYTES:
            raise ProtocolError(f"the server's answer is larger than {MAX_RESPONSE_BYTES // 2**20} MiB")
    return bytes(content)


def redirect_of(response: httpx2.Response, path: str) -> Redirect | None:
    """Return the target of a redirect, None for other responses; `path` is the request's URL after server_url."""
    if response.next_request is None:
        return None
    requested, target = response.request.url, response.next_request.url
    origin = f"{target.scheme}://{target.netloc.decode('ascii')}"
    if target.path.endswith(path) and target.copy_with(query=None) != requested.copy_with(query=None):
        return Redirect(printable(origin + target.path.removesuffix(path))[:MAX_MESSAGE_CHARACTERS], moved=True)
    return Redirect(printable(origin + target.path)[:MAX_MESSAGE_CHARACTERS], moved=False)


def refused_stream(response: httpx2.Response, path: str, secrets: Iterable[str]) -> ProtocolError | ServerError | None:
    """Return the error for a response that no retry can turn into a stream, None for any other."""
    if response.http_version == "HTTP/2":
        return ProtocolError("http must be a client without HTTP/2, where a stream has no socket of its own")
    target = redirect_of(response, path)
    if target is not None and target.moved and response.status_code in LASTING_REDIRECTS:
        return ServerError(target.message(secrets), status=response.status_code)
    return None
