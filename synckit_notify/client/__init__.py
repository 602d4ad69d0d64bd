"""The SDK for apps: `SyncKitClient`, and the values and errors of its methods. It imports nothing of the server."""

from .client import SyncKitClient
from .errors import (
    DecryptionFailed,
    InvalidEnvelope,
    KeychainError,
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
    EncryptionSetup,
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
    "EncryptionSetup",
    "InvalidEnvelope",
    "KeychainError",
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
