"""File descriptors for tests that open thousands of sockets in their own process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def many_descriptors(needed: int) -> Iterator[None]:
    """Raise the limit of this process to the hard limit; skip the test if that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"needs {needed} file descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
