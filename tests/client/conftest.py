"""Fixtures for the tests of the SDK."""

from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backends import fail

from ..support.scripted_clients import ScriptedClients
from ..support.service import Service


@pytest.fixture(autouse=True, scope="session")
def _no_keychain() -> None:
    """Keep the tests away from the keychain of the person who runs them."""
    keyring.set_keyring(fail.Keyring())


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def service(shared_service: Service, request: pytest.FixtureRequest) -> Iterator[Service]:
    """One server for the tests of this process, with an app for each file."""
    app = shared_service.with_new_app(request.node.name)
    yield app
    app.close_clients()


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start services with settings of their own."""
    started: list[Service] = []

    def start(**settings: str) -> Service:
        started.append(Service(tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[ScriptedClients]:
    clients = ScriptedClients(tmp_path)
    yield clients
    clients.close()
