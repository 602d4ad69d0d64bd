"""Wait for something that another thread or process does, for a limited time."""

import gc
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Return whether the condition comes true within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def collect_garbage() -> bool:
    """Collect the garbage and return True; call it again, since it does nothing while another thread collects."""
    gc.collect()
    return True


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Fail the test unless the condition comes true within this time."""
    assert until(condition, seconds), f"the condition did not come true within {seconds:g} s"
