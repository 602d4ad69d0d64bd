"""A finding: one thing that was looked at, how it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from ..client.foreign_text import printable
from .fixes import Change


class Verdict(StrEnum):
    """How bad it is; only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people; `check` names it for scripts, `why` and `changes` are there unless it is ok."""

    verdict: Verdict
    check: str
    what: str
    figure: str = ""
    why: str = ""
    changes: tuple[Change, ...] = ()

    def escaped(self) -> "Finding":
        """Return it fit to be shown: what a server said may hold control characters."""
        changes = tuple(Change(change.where, printable(change.line)) for change in self.changes)
        what, figure, why = printable(self.what), printable(self.figure), printable(self.why)
        return replace(self, what=what, figure=figure, why=why, changes=changes)


def ok(check: str, what: str, figure: str = "") -> Finding:
    """Nothing is wrong."""
    return Finding(Verdict.OK, check, what, figure)


def warn(check: str, what: str, figure: str, why: str, changes: tuple[Change, ...] = ()) -> Finding:
    """Streams live, but not as well as they could."""
    return Finding(Verdict.WARN, check, what, figure, why, changes)


def fail(check: str, what: str, figure: str, why: str, changes: tuple[Change, ...] = ()) -> Finding:
    """Streams do not live."""
    return Finding(Verdict.FAIL, check, what, figure, why, changes)


def fails(findings: Iterable[Finding]) -> bool:
    """Return whether any of them is a FAIL."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)


def lasting(seconds: float) -> str:
    """Return a duration as people read it."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"
