"""The files of docs/vectors/cases/: inputs with what must come out of them, as docs/vectors/README.md says."""

import base64
import json
from typing import Any

import pytest

from .server import ROOT

FOLDER = ROOT / "docs" / "vectors" / "cases"


def load(name: str) -> list[dict[str, Any]]:
    """Return the cases of a file."""
    cases: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["cases"]
    return cases


def each(name: str, *members: str) -> pytest.MarkDecorator:
    """Run a test with each case of a file that has these members, as its argument `case`."""
    chosen = [case for case in load(name) if case.keys() >= {*members}]
    return pytest.mark.parametrize("case", chosen, ids=[case["about"] for case in chosen])


def bytes_of(parts: Any) -> bytes:
    """Return the bytes of a body: text, bytes in base64, and parts that are repeated."""
    if isinstance(parts, list):
        return b"".join(map(bytes_of, parts))
    if isinstance(parts, str):
        return parts.encode()
    once = base64.b64decode(parts["base64"]) if "base64" in parts else parts["text"].encode()
    return once * int(parts.get("times", 1))
