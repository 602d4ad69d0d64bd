"""The servers that are compared: this project's two kinds of streams, two peers, and the lower bound.

A contender starts on a port of its own with a key and a keepalive in whole seconds, and answers the requests of
`generator`. One that cannot run on this machine says what to install.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import nchan, starlette
from .generator import Programs
from .server import Server, gunicorn


class Contender(NamedTuple):
    """One server to be measured."""

    name: str
    what: str
    caveats: str
    """Differences from this project's server that the figures do not show."""
    missing: Callable[[], str]
    """Return the command that installs what it needs, or an empty string."""
    start: Callable[[Programs, str, int], Server]
    version: Callable[[], str]
    """Return the versions of what only this contender uses."""
    ours: bool = False
    floor: bool = False
    """Only its fan-out can be compared."""


def nothing() -> str:
    """Return an empty string: nothing is missing, and there is no version of its own."""
    return ""


def start_generator(programs: Programs, key: str, keepalive: int) -> Server:
    """Start this project's server with one greenlet per stream."""
    return _start_ours(programs, key, keepalive, parking="0")


def start_parked(programs: Programs, key: str, keepalive: int) -> Server:
    """Start this project's server with parked streams."""
    return _start_ours(programs, key, keepalive, parking="1")


def _start_ours(programs: Programs, key: str, keepalive: int, *, parking: str) -> Server:
    settings = {"SYNCKIT_KEEPALIVE_SECONDS": str(keepalive), "SYNCKIT_PARKING": parking}
    return gunicorn(key, programs.folder, settings=settings)


def start_nchan(programs: Programs, key: str, keepalive: int) -> Server:
    """Start nginx, which checks no token."""
    return nchan.start(programs.folder, keepalive)


def start_starlette(programs: Programs, key: str, keepalive: int) -> Server:
    """Start uvicorn."""
    return starlette.start(programs.folder, key, keepalive)


def start_floor(programs: Programs, key: str, keepalive: int) -> Server:
    """Start native/floor.c, which checks no token and sends no keepalive."""
    return Server([str(programs.floor)], programs.folder, {})


CONTENDERS = (
    Contender(
        "generator",
        "synckit_notify under gunicorn's gevent worker with the project's gunicorn.conf.py, one greenlet per stream",
        "",
        nothing,
        start_generator,
        nothing,
        ours=True,
    ),
    Contender(
        "parked",
        "the same with SYNCKIT_PARKING=1: an idle stream has no greenlet",
        "",
        nothing,
        start_parked,
        nothing,
        ours=True,
    ),
    Contender(
        "nchan",
        "nginx with nchan, one worker",
        "checks no token, so its connects cannot be compared; frames have an `id:` line and are not chunked",
        nchan.missing,
        start_nchan,
        nchan.version,
    ),
    Contender(
        "sse-starlette",
        "sse-starlette under one uvicorn with uvloop and httptools, a queue of 16 for each stream",
        "checks the token as this project does; never joins frames; the garbage collector has Python's defaults",
        starlette.missing,
        start_starlette,
        starlette.version,
    ),
    Contender(
        "floor",
        "native/floor.c, the lower bound: one send() for each frame of each stream, with the same bytes",
        "not a server: no checks, no buffers, no keepalives",
        nothing,
        start_floor,
        nothing,
        floor=True,
    ),
)
