"""The exchanges of docs/vectors/ run against the included backend under gunicorn and against FakeServer."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from synckit_notify.client import testing

from .support.markdown import prose
from .support.service import Service
from .support.vectors import FILES, FOLDER, Exchange, compact, load


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"), SYNCKIT_LOGIN_LIMIT="1000/minute")
    yield started
    started.close()


def run_on_backend(service: Service, vectors: Any) -> list[set[str]]:
    """Run a file with a new app and a new user; return the members of each answer."""
    name = f"vectors-{uuid.uuid4()}"
    log = ["--log", vectors["log"]] if "log" in vectors else []
    added = service.printed("app", "add", name, *log)
    login = {"api_key": added.split()[-1], "email": f"{name}@example.org", "password": "correct horse"}
    service.printed("user", "add", login["email"], "--password", login["password"])
    return run(httpx2.Client(base_url=service.server.url, timeout=30), login, vectors, compact(service.runner, name))


def run_on_fake(vectors: Any) -> list[set[str]]:
    """Run a file on a new FakeServer; return the members of each answer."""
    login = {"api_key": testing.API_KEY, "email": testing.EMAIL, "password": testing.PASSWORD}
    server = testing.FakeServer()
    return run(httpx2.Client(transport=server, base_url=testing.URL), login, vectors, server.compact)


def run(http: httpx2.Client, login: dict[str, str], vectors: Any, compacts: Callable[[int], object]) -> list[set[str]]:
    with http:
        exchange = Exchange(http, login, compacts)
        exchange.run(vectors["steps"])
    return exchange.members


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_both_servers_answer_as_the_file_says_and_with_the_same_members(file: Path, service: Service) -> None:
    vectors = load(file)
    assert run_on_fake(vectors) == run_on_backend(service, vectors)


def test_a_file_has_only_members_that_are_documented() -> None:
    told = prose(FOLDER / "README.md")
    for file in FILES:
        vectors = load(file)
        assert vectors.keys() <= {"about", "log", "steps"}
        for step in vectors["steps"]:
            kinds = {"request", "response"} <= step.keys(), "stream" in step, "compact" in step
            assert sum(kinds) == 1, step
            members = {*step, *step.get("request", {}), *step.get("response", {}), *step.get("compact", {})}
            assert {name for name in members if f"`{name}`" not in told and f"`response.{name}`" not in told} == set()
