"""Listeners first: a view publishes, and its streams are written to before its own answer.

    publish ──▶ remember ──▶ after_request ──▶ teardown ──▶ the answer is written
                                  └─ one switch ─┘

Under gevent, `publish` only makes the greenlets of the streams ready. They run when the greenlet of the request waits
next, which would be after its answer has been written and logged. So the request lets them run once, earlier.

Other requests may run then too. They must not meet a lock of a transaction that this request's teardown functions
commit: SQLite would wait for it inside C, and stop the worker. So the switch comes after the last teardown function,
and after a WSGI middleware that wrapped the application before; in an application with nothing at the end of a request,
it comes after the last after_request function. With threads there is no switch. A listener is here a stream that got a
notice in this process.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, has_request_context, request
from flask.signals import appcontext_tearing_down, request_finished, request_tearing_down

from .runtime import gevent_compat

MAX_LISTENERS = 64
"""More streams than these are not served first: each takes about 65 µs, and the answer waits for all of them."""

MAX_SECONDS = 0.005
"""A switch that takes longer shows that the worker is busy."""

REST_SECONDS = 1.0
"""How long a busy worker answers without a switch."""

_KEY = "synckit_notify.listeners"
"""In the environ of a request: how many streams it has woken in this process. Absent: it switches no more."""


class ListenersFirst:
    """Runs the streams of one application that a request has woken, before the answer of that request."""

    def __init__(
        self,
        switch: Callable[[], object] = gevent_compat.run_other_greenlets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._switch = switch
        self._clock = clock
        self._rests_until = -math.inf

    def install(self, app: Flask) -> None:
        """Switch at most once for each request of the application, and only if it has woken streams."""
        application = app.wsgi_app
        is_wrapped = getattr(application, "__func__", None) is not Flask.wsgi_app

        process_response = app.process_response

        def after_the_hooks(*arguments: Any) -> Response:
            response = process_response(*arguments)
            environ = request.environ
            if environ.get(_KEY) and not is_wrapped and not _runs_more(app):
                self.serve(environ)
            return response

        def after_teardown(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            environ.pop(_KEY, None)
            if has_request_context():  # this one is a part of another request
                return application(environ, start_response)
            environ[_KEY] = 0
            body = application(environ, start_response)
            if environ.get(_KEY) and not has_request_context():  # else teardown waits for the end of the body
                self.serve(environ)
            return body

        app.process_response = after_the_hooks  # type: ignore[assignment, method-assign]
        app.wsgi_app = after_teardown  # type: ignore[method-assign]

    def serve(self, environ: WSGIEnvironment) -> None:
        """Let the other greenlets run once, if this request has woken streams, but not too many."""
        listeners = environ.pop(_KEY, 0)
        if not 0 < listeners <= MAX_LISTENERS:
            return
        began = self._clock()
        if began >= self._rests_until:
            self._switch()
            ended = self._clock()
            if ended - began > MAX_SECONDS:
                self._rests_until = ended + REST_SECONDS


def remember(listeners: int) -> None:
    """Add the streams that a notice has woken to those of the current request, if there is one."""
    if listeners and has_request_context():
        environ = request.environ
        if _KEY in environ:
            environ[_KEY] += listeners


def _runs_more(app: Flask) -> bool:
    """Return whether anything of the host runs after the after_request functions: it may end a transaction."""
    return bool(
        app.teardown_request_funcs
        or app.teardown_appcontext_funcs
        or request_finished.receivers
        or request_tearing_down.receivers
        or appcontext_tearing_down.receivers
    )
