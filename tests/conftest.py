"""Fixtures that every test may use."""

import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from synckit_notify.backend import passwords
from synckit_notify.client import encryption

from .support.browser import Browser
from .support.valkey import Valkey


def pytest_collection_finish() -> None:
    """Let the garbage collector never again look at the thousands of collected tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _without_settings() -> Iterator[None]:
    """The settings of whoever runs the tests must not reach them, nor may applications of two test processes meet."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SYNCKIT_")]:
            patch.delenv(name)
        patch.setenv("SYNCKIT_BROKER_URL", "memory://")
        yield


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of a file."""
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="session", autouse=True)
def _quick_passwords() -> Iterator[None]:
    """Hash passwords with the cheapest parameters: a real hash takes a tenth of a second.

    Servers that the tests start check the passwords of accounts that a test has added as quickly: the hash holds its
    parameters.
    """
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", quick)
        patch.setattr(passwords, "_DUMMY_HASH", quick.hash("nobody's"))
        yield


_REAL = {name: getattr(passwords, name) for name in ("_hasher", "_DUMMY_HASH")}


@pytest.fixture
def real_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords as the server does, for a test of what that costs."""
    for name, value in _REAL.items():
        monkeypatch.setattr(passwords, name, value)


@pytest.fixture
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys from passphrases with a fast hash, for tests that do not test the derivation."""

    def derive(secret: bytes, **_: object) -> bytes:
        return hashlib.blake2b(secret, digest_size=32).digest()

    monkeypatch.setattr(encryption, "hash_secret_raw", derive)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey server, which speaks the protocol of Redis."""
    with Valkey(tmp_path) as server:
        yield server
