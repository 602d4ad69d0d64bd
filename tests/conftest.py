"""Fixtures and makers that every test may use."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest

if TYPE_CHECKING:
    from .support.browser import Browser

KEY = "an example key of 32 bytes, or more"


def need(program: str, *folders: Path) -> str:
    """Return the path of a program; skip the test by its name where it is absent, fail under CI.

    `folders` are looked into after those of the environment.
    """
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, reversed(folders))))
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {program}")
    return path


def make_token(
    user: object = "alice", app: object = "notes", *, key: str = KEY, life: float = 3600, **claims: Any
) -> str:
    """Return a signed token; claims given as None are left out."""
    now = int(time.time())
    every: dict[str, Any] = {"sub": user, "app": app, "iat": now, "exp": now + life} | claims
    headers = every.pop("headers", None)
    algorithm = every.pop("algorithm", "HS256")
    payload = json.dumps({name: value for name, value in every.items() if value is not None}).encode()
    return jwt.PyJWS().encode(payload, key, algorithm=algorithm, headers=headers)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    """A browser for all the tests of a file."""
    from .support.browser import Browser  # which imports from here

    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
