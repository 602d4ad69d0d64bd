"""How far each device of a FakeServer has read, and which devices must read the log again from its start.

It decides as the included backend does; `backend/retirement.py` has the reasons. Times are in microseconds since 1970.
"""

from dataclasses import dataclass

from .fields import Refused

AWAY = "this device was away for too long: pull again from cursor 0, without an epoch, until has_more is false"


@dataclass
class Reader:
    """One device: when it was last seen, up to where it has applied the log, and up to where it has read it again.

    `confirmed` is None before the first pull, `reread` while the device is in step.
    """

    seen_at: int
    confirmed: int | None = None
    reread: int | None = None

    @property
    def is_counted(self) -> bool:
        """Return whether deletions are kept for this device."""
        return self.confirmed is not None and self.reread != 0

    def require_in_step(self) -> None:
        """Refuse a push before the log was read again."""
        if self.reread is not None:
            raise Refused(409, AWAY)

    def begin(self, cursor: int, confirmed: int | None, is_filtered: bool, dropped_until: int) -> None:
        """Check that a pull may begin at this cursor, and store the place of the device."""
        if self.reread is not None and (is_filtered or cursor > self.reread):
            raise Refused(409, AWAY)
        applied = None if is_filtered and confirmed is None else cursor if confirmed is None else confirmed
        place = applied if self.reread is None else cursor
        is_before = place is not None and (self.confirmed is None or place < self.confirmed)
        if is_before and 0 < (place or 0) < dropped_until:
            self.reread = 0
            raise Refused(409, AWAY)
        if self.reread is not None:
            self.confirmed = min(cursor, applied or 0)
        elif applied is not None or self.confirmed is None:
            self.confirmed = applied or 0

    def end(self, cursor: int, has_more: bool) -> None:
        """Note the answer to a pull."""
        if self.reread is not None:
            self.reread = cursor if has_more else None

    def start_again(self) -> None:
        """Set the device back to the start of the log, after a restore."""
        self.confirmed = None if self.confirmed is None else 0
        self.reread = None if self.reread is None else 0
