"""A finding: what one check looked at, how serious the result is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from ..client.foreign_text import printable
from .fixes import Change


class Verdict(StrEnum):
    """How serious a finding is; the command fails only if there is a FAIL."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `check` is its name for scripts, `why` and `changes` are set unless it is ok."""

    verdict: Verdict
    check: str
    what: str
    figure: str = ""
    why: str = ""
    changes: tuple[Change, ...] = ()

    def escaped(self) -> "Finding":
        """Return the finding with control characters escaped: texts from a server may contain some."""
        changes = tuple(Change(change.where, printable(change.line)) for change in self.changes)
        what, figure, why = printable(self.what), printable(self.figure), printable(self.why)
        return replace(self, what=what, figure=figure, why=why, changes=changes)


def ok(check: str, what: str, figure: str = "") -> Finding:
    """Report that nothing is wrong."""
    return Finding(Verdict.OK, check, what, figure)


def warn(check: str, what: str, figure: str, why: str, changes: tuple[Change, ...] = ()) -> Finding:
    """Report that streams work, but not as well as they could."""
    return Finding(Verdict.WARN, check, what, figure, why, changes)


def fail(check: str, what: str, figure: str, why: str, changes: tuple[Change, ...] = ()) -> Finding:
    """Report that streams do not work."""
    return Finding(Verdict.FAIL, check, what, figure, why, changes)


def fails(findings: Iterable[Finding]) -> bool:
    """Return whether at least one finding is a FAIL."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)


def format_duration(seconds: float) -> str:
    """Return a duration with a unit that suits its size."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"
