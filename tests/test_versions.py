"""The lower bounds of setup.cfg are the versions that `.ci/run` tests, and there are no upper bounds."""

import re
from collections.abc import Iterator
from configparser import ConfigParser

from packaging.requirements import Requirement

from .support.markdown import prose
from .support.server import ROOT
from .support.versions import floors

ONLY_FOR_US = {"test", "bench", "docs", "lint"}
"""Extras that no user installs."""


def required() -> Iterator[Requirement]:
    """Yield what the package and its extras for users require."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = {"": setup["options"]["install_requires"]} | dict(setup["options.extras_require"])
    for extra, lines in lists.items():
        if extra not in ONLY_FOR_US:
            yield from (Requirement(line) for line in lines.split("\n") if line.strip())


def test_each_lower_bound_is_the_version_that_is_tested() -> None:
    bounds = {(requirement.name.lower(), str(requirement.specifier)) for requirement in required()}
    assert bounds == {(name, f">={version}") for name, version in floors().items()}


def test_the_documents_list_each_lower_bound_and_what_newer_versions_bring() -> None:
    told = prose(ROOT / "docs" / "mounting.md")
    table = {name.lower(): version for name, version in re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", told, re.M)}
    assert table == floors()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for package, version in re.findall(r"\bneeds\(\"(\w+)\", \"([\d.]+)\"\)", sources):
        assert re.search(rf"^\| {package} \|.*\b{re.escape(version)}\b", told, re.M), (package, version)
