"""The requests of docs/protocol.md are sent to the backend, and each answer is compared with the document.

An answer must have the members that the document shows, no others, and the same values. Words in capitals stand for
what the server makes up: they are noted, and put into the requests that come after. Moments may be others.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from synckit_notify.backend import create_app
from synckit_notify.testing import CHANGED, open_stream

from .support.backend import close_database
from .support.command_runner import printed
from .support.markdown import Block, blocks_of
from .support.server import ROOT
from .support.tokens import KEY

PROTOCOL = ROOT / "docs" / "protocol.md"
EMAIL, PASSWORD = "user@example.org", "password"
KEEPALIVE = "0.2"
"""Seconds; the document says 30."""

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
MADE_UP = re.compile(r"[A-Z]+(_[A-Z]+)*")


class Conversation:
    """The values that the server generated so far, by their names in the document."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        added = printed(app, "app", "add", "notes")
        printed(app, "user", "add", EMAIL, "--password", PASSWORD)
        app_id, api_key = re.findall(r"\b[0-9a-f-]{36,}\b", added)
        token = printed(app, "token", "--app", app_id, "--user", EMAIL)
        self.known = {"APP": app_id, "API_KEY": api_key, "TOKEN": token}

    def send(self, block: Block) -> TestResponse:
        """Send a request as it stands in the document."""
        head, _, body = self._filled(block.text).partition("\n\n")
        first, *lines = head.strip().splitlines()
        method, path, version = first.split(" ")
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        return self.app.test_client().open(path, method=method, headers=headers, data=body.strip() or None)

    def compare(self, shown: Any, answered: Any, where: str) -> None:
        """Compare a value of the document with the server's, and note what it made up."""
        assert type(shown) is type(answered), where
        if isinstance(shown, dict):
            assert set(shown) == set(answered), where
            for name, value in shown.items():
                self.compare(value, answered[name], f"{where}.{name}")
        elif isinstance(shown, list):
            for one, other in zip(shown, answered, strict=True):
                self.compare(one, other, where)
        elif isinstance(shown, str) and MADE_UP.fullmatch(shown) and shown != "INSERT":
            self.known[shown] = answered
        elif isinstance(shown, str) and MOMENT.fullmatch(shown):
            assert MOMENT.fullmatch(answered), where
        else:
            assert shown == answered, where

    def compare_head(self, shown: str, answer: TestResponse) -> None:
        """Compare the status and the headers that the document shows."""
        status, *headers = shown.splitlines()
        assert status == f"HTTP/1.1 {answer.status}"
        for line in headers:
            name, value = line.split(": ", 1)
            own = value.replace("30", KEEPALIVE) if name == "SyncKit-Keepalive" else value
            assert answer.headers[name].removesuffix("; charset=utf-8") == own, name

    def hold_stream(self, asked: Block, answered: Block) -> None:
        """Compare a stream frame by frame; another device pushes before a `changed` is due."""
        request = self._filled(asked.text)
        assert request.startswith(f"GET /api/sync/subscribe?app_id={self.known['APP']} HTTP/1.1\n")
        head, *frames = answered.text.rstrip("\n").split("\n\n")
        token = re.findall(r"^Authorization: Bearer (\S+)$", request, re.MULTILINE)[0]
        with open_stream(self.app.test_client(), self.known["APP"], token) as stream:
            self.compare_head(head, stream.response)
            for frame in (f"{frame}\n\n".encode() for frame in frames):
                if frame == CHANGED:
                    self._push()
                assert stream.next_frame() == frame

    def _push(self) -> None:
        said = ["synckit", "publish", self.known["APP"], EMAIL]
        assert self.app.test_cli_runner().invoke(args=said).exit_code == 0

    def _filled(self, text: str) -> str:
        for name in sorted(self.known, key=len, reverse=True):
            text = re.sub(rf"\b{name}\b", self.known[name], text)
        return text


@pytest.fixture
def conversation(tmp_path: Path) -> Iterator[Conversation]:
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_KEEPALIVE_SECONDS": KEEPALIVE}, instance_path=tmp_path)
    yield Conversation(app)
    close_database(app)


def exchanges() -> list[tuple[Block, Block]]:
    """Return the requests of the document, each with the answer that follows it."""
    said = [block for block in blocks_of(PROTOCOL) if block.language in ("http", "json")]
    return list(zip(said[::2], said[1::2], strict=True))


def test_the_conversation_of_the_protocol_can_be_held(conversation: Conversation) -> None:
    for asked, answered in exchanges():
        if asked.note == "a stream":
            conversation.hold_stream(asked, answered)
            continue
        answer = conversation.send(asked)
        if answered.language == "http":
            conversation.compare_head(answered.text, answer)
        else:
            assert answer.status_code == 200, f"{asked}: {answer.text}"
            conversation.compare(json.loads(answered.text), answer.json, str(answered))
