"""Who is compared: ours on both paths, two peers, and the floor, which is no server but the least one could cost.

A contender starts on a port of its own with a key and a keepalive in whole seconds, and answers the requests of
`generator`. One that cannot run here says what to install, and is left out by name.
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
    unlike: str
    """What it does not do that ours does, or does besides."""
    missing: Callable[[], str]
    start: Callable[[Programs, str, int], Server]
    version: Callable[[], str]
    """Of what ours does not share."""
    ours: bool = False
    floor: bool = False
    """Only its fan-out compares with ours."""


def nothing() -> str:
    """Nothing is missing, and there is no version to tell."""
    return ""


def start_generator(programs: Programs, key: str, keepalive: int) -> Server:
    """Start ours with a greenlet for every stream."""
    return _start_ours(programs, key, keepalive, parking="0")


def start_parked(programs: Programs, key: str, keepalive: int) -> Server:
    """Start ours with streams that hold no greenlet."""
    return _start_ours(programs, key, keepalive, parking="1")


def _start_ours(programs: Programs, key: str, keepalive: int, *, parking: str) -> Server:
    settings = {"SYNCKIT_KEEPALIVE_SECONDS": str(keepalive), "SYNCKIT_PARKING": parking}
    return gunicorn(key, programs.folder, settings=settings)


def start_nchan(programs: Programs, key: str, keepalive: int) -> Server:
    """Start nginx, which knows no key."""
    return nchan.start(programs.folder, keepalive)


def start_starlette(programs: Programs, key: str, keepalive: int) -> Server:
    """Start uvicorn."""
    return starlette.start(programs.folder, key, keepalive)


def start_floor(programs: Programs, key: str, keepalive: int) -> Server:
    """Start native/floor.c, which knows neither keys nor keepalives."""
    return Server([str(programs.floor)], programs.folder, {})


CONTENDERS = (
    Contender(
        "generator",
        "synckit_notify under gunicorn's stock gevent worker with the project's gunicorn.conf.py, a greenlet a stream",
        "",
        nothing,
        start_generator,
        nothing,
        ours=True,
    ),
    Contender(
        "parked",
        "the same with SYNCKIT_PARKING=1: no greenlet while a stream is idle",
        "",
        nothing,
        start_parked,
        nothing,
        ours=True,
    ),
    Contender(
        "nchan",
        "nginx with nchan, one worker",
        "checks no token, so its connects compare with nobody's; frames carry an `id:` line, and no chunk around them",
        nchan.missing,
        start_nchan,
        nchan.version,
    ),
    Contender(
        "sse-starlette",
        "sse-starlette under one uvicorn with uvloop and httptools, a queue of 16 a stream",
        "checks the token as ours does; joins no frames; the collector is as Python sets it, ours has it tuned",
        starlette.missing,
        start_starlette,
        starlette.version,
    ),
    Contender(
        "floor",
        "native/floor.c: one send() for each frame of each stream, our bytes",
        "no server: checks, buffers, keeps alive and answers nothing else",
        nothing,
        start_floor,
        nothing,
        floor=True,
    ),
)
