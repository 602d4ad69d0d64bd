"""What a 409 of a pull or a push means: the log must be read again from its start, or a `push_id` was used before.

A server answers so after it was restored from a backup, and to a device that was away for so long that the log no
longer has all deletions.
"""

from typing import Self

from .errors import ServerError

AWAY = "this device was away for too long"
"""How the message begins if the log is the same as before."""

OTHER_CHANGES = "push_id:"
"""How the message begins if the server knows the `push_id` with other changes."""


class ReadAgain(Exception):
    """The log must be read again from its start.

    `was_away` tells that this device was away for too long, so rows that the log does not have were deleted. Otherwise
    they may be lost, since the server was restored from a backup.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: reading the log again from its start")
        self.reason = reason
        self.was_away = reason == AWAY

    @classmethod
    def asked_by(cls, error: ServerError) -> Self | None:
        """Return what the server asks for, or None if its error means something else."""
        if error.status != 409 or str(error).startswith(OTHER_CHANGES):
            return None
        return cls(str(error).partition(": ")[0])

    def as_error(self) -> ServerError:
        """Return the error for a call that cannot read the log itself."""
        return ServerError(f"{self.reason}: call pull first", status=409, has_json_error=True)
