"""Keys of a client that a test changes at any time, without an envelope on the server."""

from typing import Any

from synckit_notify.client import NoMasterKey, SyncKitError
from synckit_notify.client.encryption import Cipher


class FakeKeys:
    """The keys of a process; `is_old` means that the server has a newer envelope."""

    def __init__(self, cipher: Cipher) -> None:
        self.cipher, self.is_old = cipher, False
        self.trouble: SyncKitError | None = None

    @property
    def key_ids(self) -> frozenset[str]:
        return self.cipher.key_ids

    def codec(self) -> Cipher:
        return self.cipher

    def require_newest(self) -> None:
        if self.trouble is not None:
            raise self.trouble
        if self.is_old:
            raise NoMasterKey("the passphrase was changed: set up encryption again with the new passphrase")


def with_keys(client: Any, keys: FakeKeys) -> Any:
    """Return the client, which uses these keys from now on."""
    here = client._here.get()
    here._keys = here.log._keys = here.sender._keys = keys
    return client
