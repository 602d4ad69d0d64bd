"""A host that wraps the Notifier's response body as the request's headers say.

`X-Middleware` names what wraps the WSGI body, `X-Hook` what an after_request hook puts in the place of
`response.response`. Every stream also leaves a function with `response.call_on_close`, which counts.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, request

from . import minimal_host

Body = Iterable[bytes]

KEPT: list[object] = []
"""What a host holds on to for ever."""


def loop(body: Body) -> Iterator[bytes]:
    for chunk in body:
        yield bytes(chunk)


def delegate(body: Body) -> Iterator[bytes]:
    yield from body


def traceback_kept(body: Body) -> Iterator[bytes]:
    """As an error reporter that keeps the frames of what it has reported."""
    try:
        for chunk in body:
            yield bytes(chunk)
    except BaseException as error:
        KEPT.append(error)
        raise


def iterator_kept(body: Body) -> Iterator[bytes]:
    KEPT.append(body)
    yield from itertools.chain(body)


class Wrapper:
    """Iterates and knows no `close`."""

    def __init__(self, body: Body) -> None:
        self._body = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._body)


WRAPPERS: dict[str, Callable[[Body], Body]] = {
    "loop": loop,
    "yield from": delegate,
    "generator expression": lambda body: (chunk for chunk in body),
    "map": lambda body: map(bytes, body),
    "chain": lambda body: itertools.chain(body),
    "class without close": Wrapper,
    "traceback kept": traceback_kept,
    "iterator kept": iterator_kept,
}


def create_app(**config: object) -> Flask:
    app = minimal_host.create_app(**config)
    closed: Counter[str] = Counter()

    @app.after_request
    def hook(response: Response) -> Response:
        if response.content_type == "text/event-stream":
            wrapper = request.headers.get("X-Hook")
            if wrapper:
                response.response = WRAPPERS[wrapper](response.response)
            name = request.args.get("device_id", "")
            response.call_on_close(lambda: response and count(name))
        return response

    def count(name: str) -> None:
        if folder := os.environ.get("CLOSED_SLOWLY_IN"):
            time.sleep(0.02)
            Path(folder, name).touch()
        closed[name] += 1

    @app.get("/closed/<name>")
    def times_closed(name: str) -> str:
        return str(closed[name])

    inner = app.wsgi_app

    def middleware(environ: dict[str, Any], start_response: Any) -> Body:
        body = inner(environ, start_response)
        return WRAPPERS[environ["HTTP_X_MIDDLEWARE"]](body) if "HTTP_X_MIDDLEWARE" in environ else body

    app.wsgi_app = middleware  # type: ignore[method-assign]
    return app
