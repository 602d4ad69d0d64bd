"""A limit for the memory that the bodies of pushes take while they are read, parsed and stored.

A body may have 8 MiB, and a worker accepts ten thousand connections. So only a few large bodies hold a seat at a time,
and other requests wait for a seat before their body is read. One account gets a few of the seats at most. Small bodies,
which are nearly all, need none.
"""

import time
from contextlib import AbstractContextManager, nullcontext

from flask import Request

from ..runtime.per_process import PerProcess
from .database.store import Seats

MAX_SMALL_BODY_BYTES = 16 * 1024
"""For all requests but push and pull: far more than any log-in, form or envelope needs. Such a body may come from a
client without a token, and is parsed on gevent's hub (its event loop), which all streams wait for."""

MAX_UNSEATED_BODY_BYTES = 64 * 1024
"""A larger body needs a seat."""

LARGE_SEATS = 16
"""Up to 128 MiB of bodies. While a body is parsed it may take twenty times its size, but only one is parsed at a time.
There must be enough seats, since a slow client holds one for minutes. If none is free within ten seconds, the push is
answered with 503."""

LARGE_SEATS_OF_ONE = 4
"""For one account, whose slow clients could otherwise delay everybody's large pushes."""

_large_seats = PerProcess(lambda: Seats(LARGE_SEATS, LARGE_SEATS_OF_ONE))


def slot(request: Request, account: str) -> AbstractContextManager[None]:
    """Hold a seat for a block if the request's body is large or of unknown length; raises Busy."""
    length = request.content_length
    if length is not None and length <= MAX_UNSEATED_BODY_BYTES:
        return nullcontext()
    return _large_seats.get().acquire(account)


def read(request: Request) -> bytes:
    """Return the body. After a large one, let other greenlets run before it is parsed."""
    body = request.get_data(cache=False)
    if len(body) > MAX_UNSEATED_BODY_BYTES:
        time.sleep(0.001)
    return body
