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
    StoreError,
    SyncKitError,
)
from .models import (
    Account,
    ChangeEntry,
    Device,
    EncryptionSetup,
    Order,
    Position,
    PulledChange,
    PullFilter,
    PullResult,
    RefusedChange,
    Status,
    UnreadableChange,
)
from .run import RunState
from .stores import PendingEntry, Store
from .stores.sqlite import SQLiteStore
from .stores.sqlite_repair import Orphan
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
    "Order",
    "Orphan",
    "PendingEntry",
    "Position",
    "ProtocolError",
    "PullFilter",
    "PullResult",
    "PulledChange",
    "RefusedChange",
    "RunState",
    "SQLiteStore",
    "ServerError",
    "StateError",
    "Status",
    "Store",
    "StoreError",
    "StreamState",
    "SyncKitClient",
    "SyncKitError",
    "SyncNotification",
    "SyncNotifyStream",
    "UnreadableChange",
]
