"""Programs of the machine that some tests need, such as nginx or Chromium."""

import os
import shutil
from pathlib import Path

import pytest


def need(program: str, *folders: Path) -> str:
    """Return the path of a program; skip the test where the program is not installed, and fail it under CI.

    `folders` are searched after those of PATH.
    """
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, reversed(folders))))
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs {program}")
    return path
