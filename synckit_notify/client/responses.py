"""What a server answers, as far as it may be believed: its body bounded, its sentence shown, its redirection explained.

In: an httpx2 response whose body is still to come. Out: plain values. For the connection and the doctor.
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
"""After decompression; a page of the included backend has about 1 MiB, other servers may send larger ones."""

MAX_ERROR_BYTES = 64 * 1024
"""Of an answer that is an error, no more is read."""

LASTING_REDIRECTS = frozenset({301, 308})

REFUSED_ON_THE_WAY = {
    407: "a proxy asks for a user name and a password (407): write them into the URL of the proxy",
    511: "the network asks for a log-in first (511): open any web page in a browser",
}


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where an answer points: to a `server_url` if the server has moved, else to some page."""

    url: str
    moved: bool

    def message(self, secrets: Iterable[str]) -> str:
        """Return what to do about it; the address is foreign text, which may repeat a secret of the request."""
        url = redacted(self.url, secrets) or "an address that repeats a secret"
        if self.moved:
            return f'the server has moved: make the client with server_url="{url}"'
        return f"redirected to {url}: a log-in page or a captive portal answers in the server's place"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer; header names are in lower case, `redirect` says where it points."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    redirect: Redirect | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def message(self, secrets: Iterable[str]) -> str:
        """Return the server's sentence about an error, see `words`, or where it points."""
        return self.redirect.message(secrets) if self.redirect else error_message(self.status, self.content, secrets)


def error_message(status: int, content: bytes, secrets: Iterable[str]) -> str:
    """Return the server's sentence about an error, bounded and without secrets; its status where it says nothing."""
    answer = parse_json(content)
    said = answer.get("error_description") or answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(said, str) or not said.strip():
        return REFUSED_ON_THE_WAY.get(status, f"the server answered {status}")
    shown = redacted(said.strip(), secrets)
    if shown is None:
        return f"the server answered {status}; its sentence is not shown because it contains a secret of this request"
    return printable(shown)[:MAX_MESSAGE_CHARACTERS]


def parse_json(content: bytes) -> Any:
    """Return the JSON value of a body, None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def read_content(response: httpx2.Response) -> bytes:
    """Return the decompressed body: all of a good answer, the beginning of an error; raises ProtocolError."""
    content = bytearray()
    for piece in response.iter_bytes():  # at most 1 MiB a piece, however much was compressed into it
        content += piece
        if not response.is_success and len(content) >= MAX_ERROR_BYTES:
            return bytes(content[:MAX_ERROR_BYTES])
        if len(content) > MAX_RESPONSE_BYTES:
            raise ProtocolError(f"the server's answer is larger than {MAX_RESPONSE_BYTES // 2**20} MiB")
    return bytes(content)


def redirect_of(response: httpx2.Response, path: str) -> Redirect | None:
    """Return where an answer points; `path` is the part of the request's URL after server_url."""
    if response.next_request is None:
        return None
    asked, goal = response.request.url, response.next_request.url
    origin = f"{goal.scheme}://{goal.netloc.decode('ascii')}"
    if goal.path.endswith(path) and goal.copy_with(query=None) != asked.copy_with(query=None):
        return Redirect(printable(origin + goal.path.removesuffix(path))[:MAX_MESSAGE_CHARACTERS], moved=True)
    return Redirect(printable(origin + goal.path)[:MAX_MESSAGE_CHARACTERS], moved=False)


def refused_stream(response: httpx2.Response, path: str, secrets: Iterable[str]) -> ProtocolError | ServerError | None:
    """Return the error for an answer that cannot become a stream, however often it is asked for."""
    if response.http_version == "HTTP/2":
        return ProtocolError("the HTTP client speaks HTTP/2, where a stream has no socket of its own to shut down")
    target = redirect_of(response, path)
    if target is not None and target.moved and response.status_code in LASTING_REDIRECTS:
        return ServerError(target.message(secrets), status=response.status_code)
    return None
