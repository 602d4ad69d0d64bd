"""The servers that are compared: this project's two kinds of streams, three peers, and the lower bound.

The same two kinds of another version of this package join them on request: `earlier`.

A contender starts on a port of its own with a key and a keepalive in whole seconds, and answers the requests of
`generator`. One that cannot run on this machine says what to install.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from . import nchan, pushpin, starlette
from .generator import Programs
from .server import ROOT, Server, gunicorn

PARKING = {"generator": "0", "parked": "1"}
"""The contenders of this project, with the value of SYNCKIT_PARKING."""


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
    earlier: bool = False
    """It is one of this project's contenders in another version of the package."""
    floor: bool = False
    """Only its fan-out can be compared."""
    keepalives: float = 1.0
    """Keepalives a second when it is asked for one a second."""
    drops_streams: bool = False
    """It ends streams under load; they connect again and count as lost."""


def earlier_name(name: str) -> str:
    """Return the name of one of this project's contenders in another version of the package."""
    return f"{name}, before"


def earlier(contender: Contender, root: Path) -> Contender:
    """Return one of this project's contenders with the package in `root`."""
    return contender._replace(
        name=earlier_name(contender.name),
        what="the same in the version that is called `before`",
        start=partial(start_ours, root, PARKING[contender.name]),
        ours=False,
        earlier=True,
    )


def nothing() -> str:
    """Return an empty string: nothing is missing, and there is no version of its own."""
    return ""


def start_ours(root: Path, parking: str, programs: Programs, key: str, keepalive: int) -> Server:
    """Start the package in `root` with one greenlet per stream (parking 0) or with parked streams (1)."""
    settings = {"SYNCKIT_KEEPALIVE_SECONDS": str(keepalive), "SYNCKIT_PARKING": parking}
    return gunicorn(key, programs.folder, settings=settings, root=root)


def start_nchan(programs: Programs, key: str, keepalive: int) -> Server:
    """Start nginx, which checks no token."""
    return nchan.start(programs.folder, keepalive)


def start_starlette(programs: Programs, key: str, keepalive: int) -> Server:
    """Start uvicorn."""
    return starlette.start(programs.folder, key, keepalive)


def start_pushpin(programs: Programs, key: str, keepalive: int) -> Server:
    """Start pushpin, and gunicorn behind it."""
    return pushpin.start(programs.folder, key, keepalive)


def start_floor(programs: Programs, key: str, keepalive: int) -> Server:
    """Start native/floor.c, which checks no token and sends no keepalive."""
    return Server([str(programs.floor)], programs.folder, {})


CONTENDERS = (
    Contender(
        "generator",
        "synckit_notify under gunicorn's gevent worker with the project's gunicorn.conf.py, one greenlet per stream",
        "",
        nothing,
        partial(start_ours, ROOT, PARKING["generator"]),
        nothing,
        ours=True,
    ),
    Contender(
        "parked",
        "the same with SYNCKIT_PARKING=1: an idle stream has no greenlet",
        "",
        nothing,
        partial(start_ours, ROOT, PARKING["parked"]),
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
        "pushpin",
        "a proxy that holds the streams, and Flask under gunicorn, which answers it with GRIP headers. All processes "
        "count: pushpin, pushpin-proxy, pushpin-handler, condure, zurl, gunicorn",
        "checks the token as this project does; a push passes the proxy, Flask and the proxy's HTTP endpoint; each "
        "period between two keepalives is 1 to 2 s where the others have 1 s; streams that it ends count as lost",
        pushpin.missing,
        start_pushpin,
        pushpin.version,
        keepalives=2 / 3,
        drops_streams=True,
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
