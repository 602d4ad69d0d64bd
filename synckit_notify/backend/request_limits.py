"""What a push may hold in memory: its body, while it is read, parsed and stored.

It may have 8 MiB, and a worker has ten thousand connections: so few large bodies have a seat at the same time, and
others wait for one before a byte of theirs is read. An account has a few of the seats at most. Small bodies need none,
which is nearly all there are.
"""

import time
from contextlib import AbstractContextManager, nullcontext

from flask import Request

from ..runtime.per_process import PerProcess
from .database.store import Seats

MAX_SMALL_BODY_BYTES = 16 * 1024
"""Bytes, for whatever is neither a push nor a pull: far above any log-in, form or envelope. Who asks may be a stranger,
and what he sends is parsed on the hub."""

SMALL = 64 * 1024

LARGE_SEATS = 16
"""128 MiB of bodies. Each may take twenty times as much while it is parsed, which is one after the other. A slow
client holds his seat for minutes, so they are not too few; when all are taken, a large push is 503 after ten s."""

LARGE_SEATS_OF_ONE = 4
"""For one account, whose slow clients would else keep everybody's large pushes waiting."""

_large_seats = PerProcess(lambda: Seats(LARGE_SEATS, LARGE_SEATS_OF_ONE))


def slot(request: Request, account: str) -> AbstractContextManager[None]:
    """Hold a seat for a block if the request's body is large, or of a length it does not tell; raises Busy."""
    length = request.content_length
    if length is not None and length <= SMALL:
        return nullcontext()
    return _large_seats.get().acquire(account)


def read(request: Request) -> bytes:
    """Return the body; of several large ones that are complete at once, others have their turn between the parsing."""
    body = request.get_data(cache=False)
    if len(body) > SMALL:
        time.sleep(0.001)
    return body
