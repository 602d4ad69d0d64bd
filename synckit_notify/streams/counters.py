"""Counters of this process: plain integers, written under the registry's lock, read by the metrics.

Nothing here knows Prometheus: counting costs one addition, whether metrics are exported or not.
"""

from collections import Counter


class Counters:
    """The counts of one registry since it was made."""

    __slots__ = ("dropped", "ended", "frames", "opened", "parked")

    def __init__(self) -> None:
        self.opened = 0
        self.parked = 0
        """How many of the open streams are parked."""
        self.ended: Counter[str] = Counter()
        """By reason: the values of `channel.EndReason`."""
        self.frames = 0
        """`changed` frames that streams took from their buffers to write them."""
        self.dropped = 0
        """`changed` frames that a full buffer pushed out."""

    @property
    def open(self) -> int:
        """Return how many streams are open now."""
        return self.opened - self.ended.total()
