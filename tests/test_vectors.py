"""The exchanges of docs/vectors/ run against the included backend under gunicorn and against FakeServer."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client import testing

from .support.markdown import prose
from .support.service import Service
from .support.vectors import FILES, FOLDER, Exchange, load

Server = Callable[[Any], tuple[httpx2.Client, dict[str, str]]]
"""Gives a client of a server that has a new app and a new user for this file, and what they log in with."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"), SYNCKIT_LOGIN_LIMIT="1000/minute")
    yield started
    started.close()


@pytest.fixture(params=["backend", "FakeServer"])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "FakeServer":
        return fake_server
    service: Service = request.getfixturevalue("service")
    return lambda vectors: real_server(service, vectors)


def fake_server(_: Any) -> tuple[httpx2.Client, dict[str, str]]:
    login = {"api_key": testing.API_KEY, "email": testing.EMAIL, "password": testing.PASSWORD}
    return httpx2.Client(transport=testing.FakeServer(), base_url=testing.URL), login


def real_server(service: Service, vectors: Any) -> tuple[httpx2.Client, dict[str, str]]:
    name = re.sub(r"\W+", "-", vectors["about"].lower())[:60]
    log = ["--log", vectors["log"]] if "log" in vectors else []
    added = service.runner.invoke(args=["synckit", "app", "add", name, *log])
    assert added.exit_code == 0, added.output
    login = {"api_key": added.output.split()[-1], "email": f"{name}@example.org", "password": "correct horse"}
    service.runner.invoke(args=["synckit", "user", "add", login["email"], "--password", login["password"]])
    return httpx2.Client(base_url=service.server.url, timeout=30), login


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_server_answers_as_the_file_says(file: Path, server: Server) -> None:
    vectors = load(file)
    http, login = server(vectors)
    with http:
        Exchange(http, login).run(vectors["steps"])


def test_a_file_has_only_members_that_are_documented() -> None:
    told = prose(FOLDER / "README.md")
    for file in FILES:
        vectors = load(file)
        assert vectors.keys() <= {"about", "log", "steps"}
        for step in vectors["steps"]:
            kinds = {"request", "response"} <= step.keys(), "stream" in step
            assert sum(kinds) == 1, step
            members = {*step, *step.get("request", {}), *step.get("response", {})}
            assert {name for name in members if f"`{name}`" not in told and f"`response.{name}`" not in told} == set()
