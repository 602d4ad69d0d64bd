"""The SDK: `SyncKitClient` and what it takes and gives; nothing of the server is imported."""

from ..errors import (
    DecryptionFailed,
    EncryptionExists,
    InvalidEnvelope,
    NetworkError,
    NoMasterKey,
    NotAuthenticated,
    ProtocolError,
    ServerError,
    StateError,
    SyncKitError,
)

__all__ = [
    "DecryptionFailed",
    "EncryptionExists",
    "InvalidEnvelope",
    "NetworkError",
    "NoMasterKey",
    "NotAuthenticated",
    "ProtocolError",
    "ServerError",
    "StateError",
    "SyncKitError",
]
