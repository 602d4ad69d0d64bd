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
from .changes import ChangeEntry, Device, PulledChange, PullFilter, PullResult, Status
from .client import SyncKitClient
from .stream import StreamState, SyncNotification, SyncNotifyStream

__all__ = [
    "ChangeEntry",
    "DecryptionFailed",
    "Device",
    "EncryptionExists",
    "InvalidEnvelope",
    "NetworkError",
    "NoMasterKey",
    "NotAuthenticated",
    "ProtocolError",
    "PullFilter",
    "PullResult",
    "PulledChange",
    "ServerError",
    "StateError",
    "Status",
    "StreamState",
    "SyncKitClient",
    "SyncKitError",
    "SyncNotification",
    "SyncNotifyStream",
]
