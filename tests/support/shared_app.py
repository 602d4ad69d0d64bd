"""Fixtures for files whose tests share one backend: import them there, and they take the place of conftest's own."""

import pytest
from flask import Flask


@pytest.fixture
def app(shared_app: Flask) -> Flask:
    """The backend that all tests of the file share."""
    return shared_app


@pytest.fixture
def credentials(shared_app: Flask) -> dict[str, str]:
    """Alice's log-in there."""
    return dict(shared_app.config["CREDENTIALS"])
