"""Faults on demand: what may happen to the next requests of a FakeServer instead of an answer."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2


@dataclass(frozen=True, slots=True)
class Refuse:
    """The server answers with this status, such as 503, 429, 409 or 422, and does nothing."""

    status: int
    message: str = "the server is busy, try again"
    retry_after: int | None = None
    """The seconds in the header `Retry-After`."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server does what was asked, for example stores a push, but its answer is lost."""


@dataclass(frozen=True, slots=True)
class DropConnection:
    """The server does what was asked, and the connection breaks in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The answer takes this long, in real seconds."""

    seconds: float


Fault = Refuse | LoseAnswer | DropConnection | Delay


@dataclass(slots=True)
class Planned:
    """A fault for the next `times` requests to a path, or to any path."""

    fault: Fault
    path: str | None
    times: int


def take(planned: list[Planned], path: str) -> Fault | None:
    """Return the first fault that is planned for this path, and count it."""
    for each in planned:
        if each.path in (None, path):
            each.times -= 1
            if each.times == 0:
                planned.remove(each)
            return each.fault
    return None


class BrokenBody(httpx2.SyncByteStream):
    """The first half of an answer, then the end of the connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content[: len(self._content) // 2]
        raise httpx2.RemoteProtocolError("the connection broke in the middle of the answer")
