"""The keychain of the operating system: where an app may keep a master key between two starts.

In: the name of an entry, from the server's URL and the account. Out: the key, or None. The package `keyring` (the extra
`keychain`) talks to macOS Keychain, Windows Credential Locker, Secret Service and KWallet; it is imported when it is
first needed. Every failure is a KeychainError that tells what to do. Only master_key.py uses this file; thread-safe as
far as `keyring` is. A keychain may ask the user to unlock it, so a call may take long.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from .encryption import KEY_BYTES
from .errors import KeychainError
from .foreign_text import printable, redacted
from .models import Account

SERVICE = "synckit-notify"
MAX_REASON_CHARACTERS = 200


class Entry(NamedTuple):
    """The name of an entry; both are shown to a person who opens the keychain."""

    service: str
    username: str

    @classmethod
    def of(cls, server_url: str, account: Account) -> "Entry":
        """Return the name of the entry of one account on one server."""
        return cls(f"{SERVICE} {server_url}", json.dumps([account.app_id, account.user_id]))


def read(entry: Entry) -> bytes | None:
    """Return the key of an entry, or None if there is none; raises KeychainError."""
    with _failures_as_ours() as keyring:
        text = keyring.get_password(*entry)
    if text is None:
        return None
    with suppress(binascii.Error, ValueError):
        key = base64.b64decode(text, validate=True)
        if len(key) == KEY_BYTES:
            return key
    raise KeychainError(f"the entry {entry.service!r} of the keychain is not a key: delete it")


def write(entry: Entry, key: bytes) -> None:
    """Keep a key; raises KeychainError, also if the keychain does not return what was written."""
    text = base64.b64encode(key).decode()
    with _failures_as_ours(text) as keyring:
        keyring.set_password(*entry, text)
        kept = keyring.get_password(*entry)
    if kept != text:
        raise KeychainError("the keychain did not keep the key: check the settings of the package keyring")


def forget(entry: Entry) -> None:
    """Remove an entry if there is one; nothing is done without the package keyring. Raises KeychainError."""
    try:
        import keyring.errors
    except ImportError:
        return
    with _failures_as_ours(), suppress(keyring.errors.NoKeyringError):
        if keyring.get_password(*entry) is not None:
            keyring.delete_password(*entry)


@contextmanager
def _failures_as_ours(secret: str = "") -> Iterator[Any]:
    """Give the package keyring, and raise its errors as KeychainError; these never contain the secret."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise KeychainError("the keychain needs the package keyring: pip install 'synckit-notify[keychain]'") from None
    try:
        yield keyring
    except keyring.errors.NoKeyringError:
        raise KeychainError(
            "this machine has no keychain that the package keyring can use: start one, such as GNOME Keyring or "
            "KWallet, or call setup_encryption with the passphrase and without remember=True"
        ) from None
    except (keyring.errors.KeyringLocked, keyring.errors.InitError):
        raise KeychainError("the keychain is locked: unlock it and try again") from None
    except Exception as error:  # some backends raise the errors of their own libraries
        reason = printable(redacted(str(error), [secret]) or "")[:MAX_REASON_CHARACTERS]
        raise KeychainError(f"the keychain cannot be used ({type(error).__name__}): {reason}") from None
