"""Keychains for the package `keyring`: one in a file, and some that fail as real ones do."""

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import InitError, KeyringLocked, PasswordDeleteError


class FileKeychain(KeyringBackend):
    """Keeps its entries in the file that KEYCHAIN names, so that processes share them."""

    priority = 1  # type: ignore[assignment]

    def __init__(self, file: Path | None = None) -> None:
        super().__init__()
        self.file = file or Path(os.environ["KEYCHAIN"])

    @property
    def entries(self) -> dict[str, str]:
        return dict(json.loads(self.file.read_text())) if self.file.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get(json.dumps([service, username]))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.file.write_text(json.dumps(self.entries | {json.dumps([service, username]): password}))

    def delete_password(self, service: str, username: str) -> None:
        entries = self.entries
        if entries.pop(json.dumps([service, username]), None) is None:
            raise PasswordDeleteError("not found")
        self.file.write_text(json.dumps(entries))


class BrokenKeychain(KeyringBackend):
    """Raises the same error for everything."""

    priority = 1  # type: ignore[assignment]

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def get_password(self, service: str, username: str) -> str | None:
        raise self.error

    def set_password(self, service: str, username: str, password: str) -> None:
        raise self.error

    def delete_password(self, service: str, username: str) -> None:
        raise self.error


class TalkativeKeychain(FileKeychain):
    """Repeats the secret in its error."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise OSError(f"cannot write {password}\nto the disk")


for each in FileKeychain, BrokenKeychain, TalkativeKeychain:
    KeyringBackend._classes.discard(each)  # so that keyring does not choose one by itself

LOCKED = BrokenKeychain(KeyringLocked("Failed to unlock the collection!"))
UNSTARTED = BrokenKeychain(InitError("Failed to open keyring"))
FOREIGN = BrokenKeychain(ConnectionError("org.freedesktop.DBus.Error"))
