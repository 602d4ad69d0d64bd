"""The state that survives the process: one SQLite file, or the same tables in memory.

    owner          the id of the installation; the server, API key and account that it belongs to; the device
    envelope       the account's master key, encrypted with the passphrase; never the key itself
    tokens         with their lifetime in seconds, and the lease of the process that is renewing them
    position       cursor, epoch and last_sync_time of the confirmed pulls
    left out       the lowest `seq` of the confirmed changes that are unreadable, and of those that are locked
    queue          batches that the server has not answered yet (queue.py)

Thread-safe, and several processes may share a file: each method is one short transaction, and none waits for the
network. A file that cannot be used raises StateError and is left unchanged.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from . import statefile
from .errors import StateError
from .models import Account, Device, Position
from .queue import Queue

MAX_LEASE_SECONDS = 120.0
"""A lease that ends later than this from now was taken before the clock was set back, and is ignored."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of the server; valid for `life` seconds after `received_at`, which is the local time of day in seconds."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False)
    life: float | None
    received_at: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The lowest `seq` of the unreadable and of the locked changes that a pull left out.

    `key_ids` are the keys that the process had then; locked changes are read again only with another key.
    """

    unreadable: int | None = None
    locked: int | None = None
    key_ids: frozenset[str] = frozenset()


NOTHING = LeftOut()


class State:
    """The state of one installation; make it with `open`, end it with `close`."""

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None) -> "State":
        """Open a file, created if missing and readable by its owner only; None is memory. Raises StateError."""
        return cls(statefile.open_memory() if path is None else statefile.open_file(Path(path)))

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.queue = Queue(connection, self._transaction)

    def close(self) -> None:
        """Close the file; later calls raise StateError."""
        with statefile.access():
            self._connection.close()

    def bind(self, server_url: str, api_key: str, moved_from: str | None = None) -> None:
        """Bind the state to one app on one server; raises StateError if it is bound to another.

        `moved_from` is the former URL of the same server, which may be bound to.
        """
        key_hash = hashlib.sha256(api_key.encode()).hexdigest()
        with self._transaction() as row:
            bound = row["server_url"]
            if bound not in (None, server_url, moved_from):
                raise StateError(
                    f"the state file belongs to the server {bound}, not to {server_url}: use another file, or pass "
                    "moved_from= with the former URL if that server has moved"
                )
            if bound == server_url and row["api_key_hash"] != key_hash:
                raise StateError("the state file belongs to another API key: use another file")
            if bound != server_url:
                self._set(server_url=server_url, api_key_hash=key_hash)

    @property
    def installation_id(self) -> str:
        """The id of this installation, created with its state."""
        return str(self._row()["installation_id"])

    def account(self) -> Account | None:
        """Return the account that is, or was last, logged in."""
        row = self._row()
        return None if row["user_id"] is None else Account(row["user_id"], row["app_id"])

    def log_in(self, account: Account, tokens: Tokens) -> None:
        """Keep the tokens of a log-in; raises StateError if the state belongs to another account."""
        with self._transaction() as row:
            if row["user_id"] is not None and Account(row["user_id"], row["app_id"]) != account:
                raise StateError("the state file belongs to another account: use another file")
            self._set(user_id=account.user_id, app_id=account.app_id, **_columns(tokens))

    def log_out(self) -> None:
        """Forget the tokens; everything else stays, since the file still belongs to the account."""
        with self._transaction():
            self._set(**_columns(None))

    def envelope(self) -> str | None:
        """Return the envelope that was last decrypted or created here, or None."""
        row = self._fetch("SELECT envelope FROM envelope")
        if row is not None and not isinstance(row["envelope"], str):
            raise StateError("the state file is damaged: use another file")
        return None if row is None else str(row["envelope"])

    def keep_envelope(self, envelope: str) -> None:
        """Keep an envelope, so that its passphrase can be used without the network."""
        with self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO envelope (one, envelope) VALUES (1, ?)", (envelope,))

    def tokens(self) -> Tokens | None:
        """Return the current tokens, or None if nobody is logged in."""
        row = self._row()
        if row["access_token"] is None:
            return None
        return Tokens(row["access_token"], row["refresh_token"], row["life"], row["received_at"])

    def replace_tokens(self, refresh_token: str, tokens: Tokens | None) -> None:
        """Replace the tokens that have this refresh token; do nothing if they were replaced already."""
        with self._transaction() as row:
            if row["refresh_token"] == refresh_token:
                self._set(**_columns(tokens))

    def take_lease(self, holder: str, now: float, seconds: float) -> bool:
        """Take the right to renew the tokens for so many seconds; return False if another process has it."""
        with self._transaction() as row:
            held = row["lease_holder"] not in (None, holder) and 0 < row["lease_until"] - now <= MAX_LEASE_SECONDS
            if not held:
                self._set(lease_holder=holder, lease_until=now + seconds)
            return not held

    def release_lease(self, holder: str) -> None:
        """Give up the right to renew; do nothing if the lease has expired and another process took it."""
        with self._transaction() as row:
            if row["lease_holder"] == holder:
                self._set(lease_holder=None)

    def device(self) -> Device | None:
        """Return the registered device, or None."""
        row = self._row()
        if row["device_id"] is None:
            return None
        created_at = datetime.fromisoformat(row["device_created_at"])
        return Device(row["device_id"], row["device_name"], row["device_platform"], created_at)

    def device_id(self) -> str:
        """Return the registered device's id; raises StateError before it is registered."""
        device = self.device()
        if device is None:
            raise StateError("this installation is not registered as a device: call register_device first")
        return device.id

    def keep_device(self, device: Device) -> None:
        """Remember the registered device."""
        with self._transaction():
            self._set(
                device_id=device.id,
                device_name=device.name,
                device_platform=device.platform,
                device_created_at=device.created_at.isoformat(),
            )

    def position(self) -> tuple[Position, bool]:
        """Return the confirmed position, and whether the app is still reading a replaced log from its start."""
        row = self._row()
        return Position(row["epoch"], row["cursor"]), bool(row["restarting"])

    def confirmed(self) -> int:
        """Return the cursor up to which no change is missing: the confirmed one, or the one before a locked change."""
        with self._transaction() as row:
            locked = self._left_out("locked", row["epoch"])
            return int(row["cursor"]) if locked is None else min(row["cursor"], locked["seq"] - 1)

    def last_sync_time(self) -> datetime | None:
        """Return the time, by the server's clock, up to which all changes are confirmed."""
        text = self._row()["last_sync_time"]
        return None if text is None else datetime.fromisoformat(text)

    def advance(self, start: int, end: Position, complete_until: str | None, left_out: LeftOut = NOTHING) -> None:
        """Confirm the changes from `start` to `end`, if all before are confirmed.

        `complete_until` is the server's time if there are no changes after `end`, else None.
        """
        with self._transaction() as row:
            if row["cursor"] < start or row["epoch"] not in (None, end.epoch):
                return
            self._set(cursor=max(row["cursor"], end.cursor), epoch=end.epoch)
            if complete_until is not None:
                self._set(last_sync_time=max(row["last_sync_time"] or "", complete_until), restarting=0)
            if left_out.unreadable is not None:
                self._remember("unreadable", left_out.unreadable, end.epoch, frozenset())
            if left_out.locked is not None:
                self._remember("locked", left_out.locked, end.epoch, left_out.key_ids)

    def restart(self, stale: Position) -> None:
        """Return to the start of the log, unless that happened since `stale` was read."""
        with self._transaction() as row:
            if row["epoch"] in (None, stale.epoch):
                self._set(cursor=0, epoch=None, last_sync_time=None, restarting=1)
                self._connection.execute("DELETE FROM left_out")
                self.queue.forget_all()

    def unlock(self, key_ids: frozenset[str]) -> None:
        """Go back to the first locked change if one of these keys was missing when it was left out."""
        if self._fetch("SELECT 1 FROM left_out WHERE kind = 'locked'") is None:
            return
        with self._transaction() as row:
            locked = self._left_out("locked", row["epoch"])
            if locked is not None and key_ids - set(locked["key_ids"].split()):
                self._go_back("locked", row["cursor"], locked["seq"])

    def retry_unreadable(self) -> bool:
        """Go back to the first unreadable change; return whether there was one."""
        with self._transaction() as row:
            unreadable = self._left_out("unreadable", row["epoch"])
            if unreadable is not None:
                self._go_back("unreadable", row["cursor"], unreadable["seq"])
            return unreadable is not None

    def pushed_to(self) -> int:
        """Return the cursor of the last batch that was answered; 0 before the first."""
        return int(self._row()["pushed_to"])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Row]:
        """Run a transaction, one at a time among all threads and processes; give the row of the table `state`."""
        with statefile.access():
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                yield self._row()

    def _left_out(self, kind: str, epoch: str | None) -> Any:
        """Return the row of a kind, or None; a row of another epoch refers to a log that was replaced."""
        query = "SELECT seq, key_ids FROM left_out WHERE kind = ? AND epoch = ?"
        row = self._connection.execute(query, (kind, epoch)).fetchone()
        if row is not None and not (isinstance(row["seq"], int) and row["seq"] > 0 and isinstance(row["key_ids"], str)):
            raise StateError("the state file is damaged: use another file")
        return row

    def _remember(self, kind: str, seq: int, epoch: str | None, key_ids: frozenset[str]) -> None:
        """Keep the lower `seq`, and the keys that the process had both times."""
        before = self._left_out(kind, epoch)
        if before is not None:
            seq, key_ids = min(seq, before["seq"]), key_ids & frozenset(before["key_ids"].split())
        statement = "INSERT OR REPLACE INTO left_out (kind, seq, epoch, key_ids) VALUES (?, ?, ?, ?)"
        self._connection.execute(statement, (kind, seq, epoch, " ".join(sorted(key_ids))))

    def _go_back(self, kind: str, cursor: int, seq: int) -> None:
        self._set(cursor=min(cursor, seq - 1))
        self._connection.execute("DELETE FROM left_out WHERE kind = ?", (kind,))

    def _set(self, **columns: Any) -> None:
        names = ", ".join(f"{name} = :{name}" for name in columns)
        self._connection.execute(f"UPDATE state SET {names}", columns)

    def _row(self) -> Any:
        row = self._fetch("SELECT * FROM state")
        if row is None or not statefile.is_sound(row):
            raise StateError("the state file is damaged: use another file")
        return row

    def _fetch(self, query: str) -> Any:
        with statefile.access():
            return self._connection.execute(query).fetchone()


def _columns(tokens: Tokens | None) -> dict[str, Any]:
    if tokens is None:
        return dict.fromkeys(("access_token", "refresh_token", "life", "received_at"))
    return {
        "access_token": tokens.access,
        "refresh_token": tokens.refresh,
        "life": tokens.life,
        "received_at": tokens.received_at,
    }
