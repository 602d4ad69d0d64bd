"""Fixtures for the tests of the SDK."""

import hashlib

import pytest

from synckit_notify.client import encryption

from ..backend.conftest import quick_passwords  # noqa: F401 - a fixture


@pytest.fixture
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys from passphrases in no time, for tests that are not about what that costs."""

    def derive(secret: bytes, **_: object) -> bytes:
        return hashlib.blake2b(secret, digest_size=32).digest()

    monkeypatch.setattr(encryption, "hash_secret_raw", derive)
