"""The session of a stream that an app opens with its own tokens, for a backend that only mounts the Notifier.

In: the URL of the server, and a function that returns a token. Out: what a stream asks of its session. There is no
log-in and no state file; the only requests are the subscription, and `live` if a proxy buffers the stream. Only
stream.py uses this file.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx2

from .connection import HttpClient, HttpEventConnection, normalize_url
from .errors import ServerError
from .schedule import retry_after
from .serialization import is_token

SUBSCRIBE, DEFAULT_PREFIX = "/subscribe", "/api/sync"


class TokenSession:
    """Implements StreamSession; `token()` returns a token, `token(refused=True)` a new one."""

    def __init__(
        self,
        url: str,
        app_id: str,
        token: Callable[..., str],
        device_id: str | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        whole = httpx2.URL(normalize_url(url, "url"))
        self._prefix = whole.path.rstrip("/")
        if not self._prefix.endswith(SUBSCRIBE):
            self._prefix += DEFAULT_PREFIX + SUBSCRIBE
        self._prefix = self._prefix.removesuffix(SUBSCRIBE)
        self._http = HttpClient(f"{whole.scheme}://{whole.netloc.decode('ascii')}", http)
        self._query = {"app_id": app_id} | ({} if device_id is None else {"device_id": device_id})
        self._token = token
        self._renewed: str | None = None
        self._polls = 0

    def connect(self) -> HttpEventConnection:
        """Subscribe, in one attempt; raises NetworkError, ProtocolError, ServerError and what `token` raises."""
        token = self._renewed or _checked(self._token())
        connection = self._http.subscribe(self._query, token, (token,), path=self._prefix + SUBSCRIBE)
        self._renewed = None
        return connection

    def refresh(self) -> None:
        """Get a new token, which the next subscription uses; raises what `token` raises."""
        self._renewed = _checked(self._token(refused=True))

    def position(self) -> tuple[str, int]:
        """Return another position each time, if the server answers at all: a stream that polls then always pulls.

        The Notifier has no route that tells whether there is something new.
        """
        response = self._http.send("GET", self._prefix + "/live")
        if response.status >= 500:
            pause = retry_after(response.headers, time.time())
            raise ServerError(response.message(()), status=response.status, retry_after=pause)
        self._polls += 1
        return "", self._polls

    def watch(self, stream: object) -> None:
        """Do nothing: there are no other requests that the stream could learn from."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _checked(token: Any) -> str:
    if not is_token(token):
        raise ValueError("token must return a string of visible ASCII characters")
    return str(token)
