"""Versions of this package for a comparison: this checkout, another one, or a commit.

copied(ROOT, folder)            the package and its configuration of this checkout, with the benchmarks
unpacked("HEAD~1", folder)      those of a commit, or of the folder of another checkout, with the benchmarks of this one
versions("HEAD~1", folder)      both, as `this` and `against`; the first alone without a commit
"""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from .server import ROOT

PACKAGE, CONFIGURATION = "synckit_notify", "gunicorn.conf.py"


class Missing(Exception):
    """Something that the command needs is missing; the message says what to do."""


def copied(root: Path, tree: Path) -> Path:
    """Copy the package and its configuration from a checkout, and the benchmarks from this one."""
    if not (root / PACKAGE).is_dir():
        raise Missing(f"{root} has no folder {PACKAGE}; --against must be a commit or the folder of a checkout")
    shutil.copytree(root / PACKAGE, tree / PACKAGE)
    shutil.copy(root / CONFIGURATION, tree)
    shutil.copytree(ROOT / "benchmarks", tree / "benchmarks")
    return tree


def unpacked(against: str, tree: Path) -> Path:
    """Do the same with a commit, or with the folder of another checkout; raises Missing for anything else."""
    if Path(against).is_dir():
        return copied(Path(against), tree)
    command = ["git", "-C", str(ROOT), "archive", against, PACKAGE, CONFIGURATION]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode:
        raise Missing(f"--against: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tree.parent / "archive", filter="data")
    return copied(tree.parent / "archive", tree)


def versions(against: str | None, folder: Path) -> dict[str, Path]:
    """Put this version and, if there is one, the one to compare with into a folder; raises Missing as `unpacked`."""
    trees = {"this": copied(ROOT, folder / "this")}
    if against is not None:
        trees["against"] = unpacked(against, folder / "against")
    return trees
