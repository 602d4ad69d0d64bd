"""Runs a file of docs/vectors/ against a server, as docs/vectors/README.md says."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from flask.testing import FlaskCliRunner

from .server import ROOT

FOLDER = ROOT / "docs" / "vectors"
FILES = sorted(FOLDER.glob("*.json"))
KEEPALIVE = ": keepalive\n\n"

_PLACEHOLDER = re.compile(r"<(\w*)(?::(time))?>")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def load(file: Path) -> Any:
    """Return what a file says."""
    return json.loads(file.read_text())


def compact(runner: FlaskCliRunner, app: str) -> Callable[[int], object]:
    """Return what compacts the logs of an app on the included backend."""

    def run(keep_days: int) -> None:
        result = runner.invoke(args=["synckit", "compact", app, "--keep-days", str(keep_days)])
        assert result.exit_code == 0, result.output

    return run


class Exchange:
    """One run of a file; `known` are the values of its placeholders, and `compact` does what a step of that name asks.

    `members` has the names of the members of each answer, those that the file does not list too.
    """

    def __init__(self, http: httpx2.Client, known: dict[str, str], compact: Callable[[int], object]) -> None:
        self._http = http
        self._compact = compact
        self._known = known
        self.members: list[set[str]] = []
        self._responses: dict[str, httpx2.Response] = {}
        self._frames: dict[str, Iterator[str]] = {}

    def run(self, steps: list[Any]) -> None:
        """Run all steps; raises AssertionError with the step that fails."""
        try:
            for number, step in enumerate(steps, 1):
                try:
                    self._run(step)
                except AssertionError as error:
                    raise AssertionError(f"step {number}, {step.get('about', step)}: {error}") from None
        finally:
            for response in self._responses.values():
                response.close()

    def _run(self, step: Any) -> None:
        if "compact" in step:
            self._compact(step["compact"]["keep_days"])
            return
        if "stream" in step:
            frame = next(self._frames[step["stream"]], None)
            expected = None if step.get("ends") else step["receives"]
            assert frame == expected, f"received {frame!r}"
            return
        asked, expected = self._filled(step["request"]), step["response"]
        response = self._send(asked)
        if "stream" in expected and response.status_code == 200:
            self._responses[expected["stream"]] = response
            self._frames[expected["stream"]] = _frames(response)
        else:
            response.read()
            response.close()
        shown = "a stream" if "stream" in expected else response.text
        assert response.status_code == expected["status"], f"answered {response.status_code}: {shown}"
        for name, value in expected.get("headers", {}).items():
            found = response.headers.get(name, "")
            expected_items, items = (sorted(re.split(", *", each)) for each in (value, found))
            assert found.partition(";")[0] == value or items == expected_items, f"the header {name} is {found!r}"
        if "json" in expected:
            self._match(expected["json"], response.json(), "answer")
            self.members.append(set(_members(response.json())))
        else:
            assert "stream" in expected or not response.content, response.text

    def _send(self, asked: Any) -> httpx2.Response:
        content = json.dumps(asked["json"]) if "json" in asked else asked.get("text")
        headers = asked.get("headers", {}) | ({"Content-Type": "application/json"} if "json" in asked else {})
        request = self._http.build_request(
            asked["method"], asked["path"], headers=headers, content=content, data=asked.get("form")
        )
        return self._http.send(request, stream=True)

    def _filled(self, value: Any) -> Any:
        """Return a part of a request with the values of its placeholders."""
        if isinstance(value, dict):
            return {name: self._filled(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda found: self._known[found[1]], value)
        return value

    def _match(self, expected: Any, found: Any, where: str) -> None:
        placeholder = _PLACEHOLDER.fullmatch(expected) if isinstance(expected, str) else None
        if placeholder is not None:
            name, kind = placeholder.groups()
            assert isinstance(found, str), f"{where} is {found!r}"
            assert found, f"{where} is empty"
            assert kind is None or _TIME.fullmatch(found), f"{where} is {found!r}"
            known = self._known.setdefault(name, found) if name else found
            assert found == known, f"{where} is {found!r}, and was {known!r}"
        elif isinstance(expected, dict):
            assert isinstance(found, dict), f"{where} is {found!r}"
            for name, member in expected.items():
                assert name in found, f"{where}.{name} is missing"
                self._match(member, found[name], f"{where}.{name}")
        elif isinstance(expected, list):
            assert isinstance(found, list), f"{where} is {found!r}"
            assert len(found) == len(expected), f"{where} has {len(found)} items: {found!r}"
            for index, item in enumerate(expected):
                self._match(item, found[index], f"{where}[{index}]")
        else:
            assert (type(found), found) == (type(expected), expected), f"{where} is {found!r}"


def _members(value: Any, where: str = "answer") -> Iterator[str]:
    """Yield the name of each member of an answer; the items of a list have the name of the list."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield f"{where}.{name}"
            yield from _members(member, f"{where}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _members(item, where)


def _frames(response: httpx2.Response) -> Iterator[str]:
    """Yield the frames of a stream, without keepalives."""
    rest = ""
    for piece in response.iter_raw():
        *frames, rest = (rest + piece.decode()).split("\n\n")
        yield from (frame + "\n\n" for frame in frames if frame + "\n\n" != KEEPALIVE)
    assert not rest, f"the stream ended within a frame: {rest!r}"
