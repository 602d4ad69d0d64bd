"""Waiting for something that another thread or process does: as short as it takes, and never for ever."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Return whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())
