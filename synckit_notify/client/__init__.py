"""The SDK: `SyncKitClient` and what it takes and gives; nothing of the server is imported."""

from .client import SyncKitClient
from .errors import (
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
from .models import (
    Account,
    ChangeEntry,
    Device,
    Position,
    PulledChange,
    PullFilter,
    PullResult,
    Status,
    UnreadableChange,
)
from .stream import StreamState, SyncNotification, SyncNotifyStream

__all__ = [
    "Account",
    "ChangeEntry",
    "DecryptionFailed",
    "Device",
    "EncryptionExists",
    "InvalidEnvelope",
    "NetworkError",
    "NoMasterKey",
    "NotAuthenticated",
    "Position",
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
    "UnreadableChange",
]
