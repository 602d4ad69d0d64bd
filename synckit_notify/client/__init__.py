"""The SDK for apps: `SyncKitClient`, and the values and errors of its methods. It imports nothing of the server."""

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
    Order,
    Position,
    PulledChange,
    PullFilter,
    PullResult,
    Status,
    UnreadableChange,
)
from .stores import PendingEntry, Store
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
    "Order",
    "PendingEntry",
    "Position",
    "ProtocolError",
    "PullFilter",
    "PullResult",
    "PulledChange",
    "ServerError",
    "StateError",
    "Status",
    "Store",
    "StreamState",
    "SyncKitClient",
    "SyncKitError",
    "SyncNotification",
    "SyncNotifyStream",
    "UnreadableChange",
]
