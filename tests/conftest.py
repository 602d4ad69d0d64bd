"""Fixtures and makers that every test may use."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .support.tokens import KEY as KEY
from .support.tokens import make_token as make_token

if TYPE_CHECKING:
    from .support.browser import Browser


def need(program: str, *folders: Path) -> str:
    """Return the path of a program; skip the test by its name where it is absent, fail under CI.

    `folders` are looked into after those of the environment.
    """
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, reversed(folders))))
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {program}")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    """A browser for all the tests of a file."""
    from .support.browser import Browser  # which imports from here

    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
