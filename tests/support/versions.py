"""The oldest versions of the packages that this one needs, and marks for tests of what newer versions brought."""

import importlib.metadata
import os
import re

import pytest
from packaging.version import Version

from .server import ROOT

FLOORS_FILE = ROOT / ".ci" / "floors.txt"


def floors() -> dict[str, str]:
    """Return the oldest supported version of each package, by its name in lower case."""
    pins = re.findall(r"^([\w.-]+)==(\S+)$", FLOORS_FILE.read_text(), re.M)
    return {name.lower(): version for name, version in pins}


def needs(package: str, version: str) -> pytest.MarkDecorator:
    """Skip a test where `package` is older than `version`. docs/mounting.md lists the versions.

    CI installs the newest versions and those of .ci/floors.txt. With any other, a skipped test would not be noticed, so
    it is run.
    """
    installed = importlib.metadata.version(package)
    is_old = Version(installed) < Version(version)
    is_expected = os.environ.get("CI") != "true" or installed == floors()[package]
    return pytest.mark.skipif(is_old and is_expected, reason=f"needs {package} {version}, not {installed}")
