"""sse-starlette: one uvicorn process with uvloop and httptools, running the application in `starlette_host`."""

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from .server import Server

PACKAGES = ("sse-starlette", "starlette", "uvicorn", "uvloop", "httptools")


def missing() -> str:
    """Return the command that installs what is missing, or an empty string."""
    try:
        version()
    except PackageNotFoundError:
        return "pip install -e '.[bench]'"
    return ""


def version() -> str:
    """Return the versions of everything that serves here."""
    return ", ".join(f"{name} {installed(name)}" for name in PACKAGES)


def start(folder: Path, key: str, keepalive: int) -> Server:
    """Start one uvicorn process."""
    options = {"port": 0, "loop": "uvloop", "http": "httptools", "backlog": 2048, "timeout-keep-alive": 75}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    application = ("--factory", "--no-access-log", "benchmarks.starlette_host:application")
    command = [sys.executable, "-m", "uvicorn", *flags, *application]
    return Server(command, folder, {"BENCH_JWT_KEY": key, "BENCH_KEEPALIVE": str(keepalive)})
